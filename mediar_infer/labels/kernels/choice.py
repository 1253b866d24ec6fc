"""Which implementation of the label stage's loops runs."""

import logging
from functools import cache

from mediar_infer.devices import CPU, Device, require_torch, usable_cores
from mediar_infer.labels.kernels import LabelKernels
from mediar_infer.labels.kernels.compiled import CompiledKernels, load_library

logger = logging.getLogger(__name__)


@cache
def select_kernels(device: Device = CPU, n_threads: int = 0) -> LabelKernels:
    """Choose the compiled library, else torch, which runs on CUDA where the network does.

    The compiled loops run beside a GPU, too. From the same maps they make the labels of a CPU to
    the last bit, and what takes them a millisecond is thousands of small kernels in torch, which
    wait behind those of the network.

    Args:
        device: where the network runs.
        n_threads: threads of the compiled library; 0 takes the cores this process may use, less one
            that feeds an accelerator.
    """
    library = load_library()
    if library is not None:
        n_feeding = 0 if device.type == "cpu" else 1
        return CompiledKernels(library, n_threads or max(1, usable_cores() - n_feeding))
    if device.type == "cuda":
        return _torch_kernels(device, n_threads)
    require_torch("the label stage without its compiled loops (install a C compiler)")
    logger.warning(
        "the label stage runs without its compiled loops: same labels, but many times slower;"
        " install a C compiler and install the package again"
    )
    return _torch_kernels(CPU, n_threads)


def _torch_kernels(device: Device, n_threads: int) -> LabelKernels:
    import torch

    from mediar_infer.labels.kernels.tensors import TorchKernels

    if device.type == "cpu":
        torch.set_num_threads(n_threads or usable_cores())
    return TorchKernels(device.to_torch())
