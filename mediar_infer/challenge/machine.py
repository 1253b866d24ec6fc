"""The machine that measured, without which a figure means nothing."""

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from mediar_infer.devices import usable_cores


def describe_machine() -> dict[str, Any]:
    """Describe processor, cores, memory, graphics cards and system, ready for JSON."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": processor_name(),
        "cores": usable_cores(),
        "memory_bytes": memory,
        "gpus": _gpu_names(),
        "platform": platform.platform(),
    }


def processor_name() -> str:
    """Name of the processor as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown")


def _gpu_names() -> str | None:
    """Names and drivers of NVIDIA cards; ``None`` without ``nvidia-smi``."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return "; ".join(done.stdout.splitlines()) or None
