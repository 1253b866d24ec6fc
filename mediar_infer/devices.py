"""Which device and precision to use, checked before anything is loaded onto it."""

import math
import os
import sys
import warnings
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


def is_cpu_for_sure(name: str) -> bool:
    """Whether ``select_device`` is certain to choose the CPU, decided without importing torch.

    Args:
        name: as for ``select_device``.

    Returns:
        True only if it is certain; False where torch must be asked.
    """
    if name != "auto":
        return name == "cpu"
    return sys.platform == "linux" and not any(path.exists() for path in _ACCELERATORS)


def select_device(name: str) -> "torch.device":
    """Turn ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps`` into a device that exists.

    Raises:
        UsageError: if it does not exist, the name is none of these, or ``auto`` finds a GPU that
            cannot be used: whether to spend hours on the CPU instead is the user's choice.
    """
    import torch

    if name == "auto":
        if _has_cuda():
            return torch.device("cuda:0")
        if fault := _find_gpu_fault():
            raise UsageError(f"{fault}; or use --device cpu")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(
            f"found device {name!r}, expected auto, cpu, cuda, cuda:N or mps"
        ) from error
    if device.type == "cuda":
        fault = None if _has_cuda() else _find_gpu_fault()
        if fault:
            raise UsageError(f"{fault}; or use --device cpu")
        n_devices = torch.cuda.device_count()
        if (device.index or 0) >= n_devices:
            raise UsageError(
                f"found {n_devices} CUDA devices, expected {name!r}; start the container with"
                " --gpus all, or use --device cpu"
            )
        return torch.device("cuda", device.index or 0)
    if name not in ("cpu", "mps"):
        raise UsageError(f"found device {name!r}, expected auto, cpu, cuda, cuda:N or mps")
    if name == "mps" and not torch.backends.mps.is_available():
        raise UsageError("found no MPS device, expected one for --device mps; use --device cpu")
    return device


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


def select_precision(name: str, device: "torch.device") -> str:
    """Resolve ``auto``: float16 on CUDA, float32 elsewhere.

    Raises:
        UsageError: if the device does not compute in that type.
    """
    import torch

    if name == "auto":
        return "float16" if device.type == "cuda" else "float32"
    if name == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UsageError(
            f"found {torch.cuda.get_device_name(device)}, which has no bfloat16; use --precision"
            " float16"
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
    if "torch" not in sys.modules:
        return None
    import torch

    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return None
    return max(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count()))


def describe_device(device: "torch.device") -> str:
    """Describe a device in one line for logs and ledgers: its name and memory."""
    if device.type != "cuda":
        return f"{device.type} ({usable_cores()} cores)"
    import torch

    properties = torch.cuda.get_device_properties(device)
    return f"{device} {properties.name} ({properties.total_memory / _GIB:.0f} GiB)"
