"""Which implementation of the label stage's loops runs."""

import logging
from functools import cache

from mediar_infer.devices import CPU, Device, require_torch, usable_cores
from mediar_infer.labels.kernels import LabelKernels
from mediar_infer.labels.kernels.compiled import CompiledKernels, load_library

logger = logging.getLogger(__name__)


@cache
def select_kernels(device: Device | None = None, n_threads: int = 0) -> LabelKernels:
    """Choose torch on CUDA, else the compiled library, else torch on the CPU.

    Args:
        device: where the network runs; by default the CPU.
        n_threads: threads of the compiled library; 0 takes the cores this process may use.
    """
    if device is not None and device.type == "cuda":
        return _torch_kernels(device, n_threads)
    library = load_library()
    if library is None:
        require_torch("the label stage without its compiled loops (install a C compiler)")
        logger.warning(
            "the label stage runs without its compiled loops: same labels, but many times slower;"
            " install a C compiler and install the package again"
        )
        return _torch_kernels(CPU, n_threads)
    return CompiledKernels(library, n_threads or usable_cores())


def _torch_kernels(device: Device, n_threads: int) -> LabelKernels:
    import torch

    from mediar_infer.labels.kernels.tensors import TorchKernels

    if device.type == "cpu":
        torch.set_num_threads(n_threads or usable_cores())
    return TorchKernels(device.to_torch())
