"""Lightning Fabric as training uses it: device, processes, precision, sums over processes."""

import logging
import warnings
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision, Precision
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from mediar_infer.devices import select_device
from mediar_infer.errors import UsageError

logger = logging.getLogger(__name__)


def build_fabric(device: str, n_processes: int, precision: str) -> Fabric:
    """Build the Fabric object that holds device, processes and precision.

    Args:
        device: as for inference: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        n_processes: with CUDA one per GPU, starting with the first.
        precision: ``float32``, or ``float16`` (with a loss scaler) or ``bfloat16`` under autocast.

    Raises:
        UsageError: if the device does not exist, or there are fewer GPUs than processes.
    """
    if n_processes < 1:
        raise UsageError(f"found {n_processes} processes, expected 1 or more")
    chosen = select_device(device)
    if chosen.type == "cuda" and n_processes > torch.cuda.device_count():
        raise UsageError(
            f"found {torch.cuda.device_count()} CUDA devices, expected one for each of"
            f" {n_processes} processes"
        )
    is_one_gpu = chosen.type == "cuda" and n_processes == 1
    with warnings.catch_warnings():
        # A machine that belongs to a cluster is no reason to start every run through its scheduler.
        warnings.filterwarnings("ignore", message="The `srun` command is available")
        return Fabric(
            accelerator=chosen.type,
            devices=[chosen.index or 0] if is_one_gpu else n_processes,
            strategy="auto" if n_processes == 1 else "ddp_spawn",
            plugins=_build_precision(precision, chosen.type),
        )


def reduce_tensor(fabric: Fabric, values: Tensor, operation: Literal["mean", "sum"]) -> Tensor:
    """Mean or sum of a tensor over all processes, returned in each of them."""
    reduced = fabric.all_reduce(values, reduce_op=operation)
    assert isinstance(reduced, Tensor)
    return reduced


def _build_precision(precision: str, device_type: str) -> Precision:
    if precision == "float16":
        return MixedPrecision("16-mixed", device_type, GradScaler(device_type))
    if precision == "bfloat16":
        if device_type == "cpu" and not _has_cpu_bfloat16():
            logger.warning(
                "this processor has no bfloat16 instructions: a step takes many times as long as"
                ' in float32; set precision = "float32"'
            )
        return MixedPrecision("bf16-mixed", device_type)
    return Precision()


def _has_cpu_bfloat16() -> bool:
    """Whether the CPU computes in bfloat16; true where this is unknown (older torch, not x86)."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if capabilities.get("architecture") != "x86_64":
        return True
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
