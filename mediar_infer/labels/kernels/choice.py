"""Which implementation of the label stage's loops runs."""

import logging
from functools import cache

import torch

from mediar_infer.devices import usable_cores
from mediar_infer.labels.kernels import LabelKernels
from mediar_infer.labels.kernels.compiled import CompiledKernels, load_library
from mediar_infer.labels.kernels.tensors import TorchKernels

logger = logging.getLogger(__name__)


@cache
def select_kernels(device: torch.device | None = None, n_threads: int = 0) -> LabelKernels:
    """Choose torch on CUDA, else the compiled library, else torch on the CPU.

    Args:
        device: where the network runs; by default the CPU.
        n_threads: threads of the compiled library; 0 takes the cores this process may use.
    """
    if device is not None and device.type == "cuda":
        return TorchKernels(device)
    library = load_library()
    if library is None:
        logger.warning(
            "the label stage runs without its compiled loops: same labels, but many times slower;"
            " install a C compiler and install the package again"
        )
        return TorchKernels(torch.device("cpu"))
    return CompiledKernels(library, n_threads or usable_cores())
