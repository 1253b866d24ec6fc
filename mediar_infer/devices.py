"""Which device and precision to use, checked before anything is loaded onto it.

torch is imported only to ask about accelerators: a CPU needs none of it.
"""

import math
import os
import re
import sys
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mediar_infer.errors import UsageError

if TYPE_CHECKING:
    import torch

_GIB = 1 << 30
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_NVIDIA = Path("/dev/nvidiactl")
_ACCELERATORS = (_NVIDIA, Path("/dev/dxg"), Path("/dev/kfd"))
"""Device files of NVIDIA GPUs, of GPUs under WSL and of AMD GPUs."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where the network runs; ``str`` gives the name that torch knows it by."""

    type: str
    """``cpu``, ``cuda`` or ``mps``."""
    index: int | None = None
    """Number of the CUDA device."""

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def to_torch(self) -> "torch.device":
        """The same device as torch has it."""
        import torch

        return torch.device(str(self))


CPU = Device("cpu")


def has_torch() -> bool:
    """Whether torch is installed; it is not imported."""
    return is_torch_imported() or ("torch" not in sys.modules and find_spec("torch") is not None)


def is_torch_imported() -> bool:
    """Whether something in this process has imported torch already."""
    return sys.modules.get("torch") is not None


def require_torch(purpose: str, *, advice: str = "") -> None:
    """Refuse what needs torch where it is not installed.

    Args:
        purpose: what needs it.
        advice: what else could be done, a half-sentence.

    Raises:
        UsageError: if it is not installed.
    """
    if not has_torch():
        raise UsageError(
            f"{purpose}: found no torch, expected it installed; run: pip install"
            f" 'mediar-infer[gpu]'{advice}"
        )


def is_cpu_for_sure(name: str) -> bool:
    """Whether ``select_device`` is certain to choose the CPU, decided without importing torch.

    Args:
        name: as for ``select_device``.

    Returns:
        True only if it is certain; False where torch must be asked.
    """
    if name != "auto":
        return name == "cpu"
    if not has_torch():
        return not _NVIDIA.exists()
    return sys.platform == "linux" and not any(path.exists() for path in _ACCELERATORS)


def select_device(name: str) -> Device:
    """Turn ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps`` into a device that exists.

    Raises:
        UsageError: if it does not exist, the name is none of these, or ``auto`` finds a GPU that
            cannot be used: whether to spend hours on the CPU instead is the user's choice.
    """
    if is_cpu_for_sure(name):
        return CPU
    known = re.fullmatch(r"auto|mps|cuda(?::(\d+))?", name, re.ASCII)
    if known is None:
        raise UsageError(f"found device {name!r}, expected auto, cpu, cuda, cuda:N or mps")
    purpose = "an NVIDIA GPU" if name == "auto" else f"--device {name}"
    require_torch(purpose, advice=", or use --device cpu")
    import torch

    if name == "auto":
        if _has_cuda():
            return Device("cuda", 0)
        if fault := _find_gpu_fault():
            raise UsageError(f"{fault}; or use --device cpu")
        return Device("mps") if torch.backends.mps.is_available() else CPU
    if name.startswith("cuda"):
        fault = None if _has_cuda() else _find_gpu_fault()
        if fault:
            raise UsageError(f"{fault}; or use --device cpu")
        n_devices, index = torch.cuda.device_count(), int(known[1] or 0)
        if index >= n_devices:
            raise UsageError(
                f"found {n_devices} CUDA devices, expected {name!r}; start the container with"
                " --gpus all, or use --device cpu"
            )
        return Device("cuda", index)
    if not torch.backends.mps.is_available():
        raise UsageError("found no MPS device, expected one for --device mps; use --device cpu")
    return Device("mps")


def _has_cuda() -> bool:
    import torch

    with warnings.catch_warnings():  # said better by _find_gpu_fault
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


def _find_gpu_fault() -> str | None:
    """Say why CUDA cannot be used although this machine or container was given an NVIDIA GPU."""
    import torch

    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if is_hidden or not _NVIDIA.exists() or not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        return None
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
    else:
        reason = "no CUDA device"
    return (
        f"found an NVIDIA GPU that cannot be used ({reason}), expected a driver for CUDA"
        f" {torch.version.cuda} or newer; update the driver of the host"
    )


def select_precision(name: str, device: Device) -> str:
    """Resolve ``auto``: float16 on CUDA, float32 elsewhere.

    Raises:
        UsageError: if the device does not compute in that type.
    """
    if name == "auto":
        return "float16" if device.type == "cuda" else "float32"
    if name == "bfloat16" and device.type == "cuda":
        import torch

        if not torch.cuda.is_bf16_supported():
            raise UsageError(
                f"found {torch.cuda.get_device_name(device.index)}, which has no bfloat16; use"
                " --precision float16"
            )
    if name == "int8" and device.type != "cpu":
        raise UsageError(
            f"found device {device}, expected a CPU for --precision int8; use --device cpu, or"
            " --precision float16"
        )
    return name


def usable_cores() -> int:
    """CPU cores that this process uses by default: those available, at most $OMP_NUM_THREADS."""
    requested = os.environ.get("OMP_NUM_THREADS", "")
    cores = available_cores()
    return min(cores, int(requested) or cores) if requested.isdecimal() else cores


def available_cores() -> int:
    """CPU cores that this process may use: affinity and the container's quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min(cores, _quota_cores() or cores))


def _quota_cores() -> int | None:
    """Whole cores of the container's CPU quota (``docker run --cpus``), if there is one."""
    try:
        quota, period = _CPU_QUOTA.read_text(encoding="ascii").split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no cgroup of version 2, or "max"
        return None


def peak_gpu_bytes() -> int | None:
    """Most memory that this process has held on a CUDA device so far; None if it used none."""
    if not is_torch_imported():
        return None
    import torch

    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return None
    return max(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count()))


def free_gpu_memory() -> None:
    """Give back the memory that torch keeps for later on CUDA devices, if there is any."""
    if is_torch_imported():
        import torch

        torch.cuda.empty_cache()


def describe_device(device: Device) -> str:
    """Describe a device in one line for logs and ledgers: its name and memory."""
    if device.type != "cuda":
        return f"{device.type} ({usable_cores()} cores)"
    import torch

    properties = torch.cuda.get_device_properties(device.index)
    return f"{device} {properties.name} ({properties.total_memory / _GIB:.0f} GiB)"
