"""BatchNorm and Mish in one pass on CPUs, a third of a training step otherwise; in float32 inside.

torch needs eight passes over memory and three transcendental functions where two passes and one
exponential (``activation_kernels.c``) do. Entry names and results stay, up to rounding.
"""

import ctypes
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mediar_infer.labels.kernels.compiled import open_library
from mediar_infer.process import POOL_PREFIX
from mediar_infer.training.networks.synchronised_norm import copy_norm, update_statistics

_MAX_LENGTH: Final = 512
"""Floats of a row; below ``MAX_LENGTH`` of the C file, which also holds for more channels."""
_MAX_CHANNELS: Final = 1024
_SUFFIXES: Final = {torch.float32: "", torch.bfloat16: "_bfloat16"}
"""Type of the image → end of the loops' names."""


@cache
def load_activation_library() -> ctypes.CDLL | None:
    """Load the compiled loops; None if the package was installed without a C compiler."""
    return open_library(Path(__file__).with_name("_activation_kernels"))


def _library() -> ctypes.CDLL:
    library = load_activation_library()
    assert library is not None, "fast layers are only made where there is one"
    return library


@cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix=f"{POOL_PREFIX}activations")


def _pointer(values: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(values.data_ptr())


class _Rows:
    """An image batch seen as rows in which channels repeat, and the calls of the loops on it."""

    def __init__(self, x: Tensor) -> None:
        self.n_channels = x.shape[1]
        self.n_pixels = x.numel() // self.n_channels
        self.n_repeats = math.gcd(self.n_pixels, max(1, _MAX_LENGTH // self.n_channels))
        self.length = self.n_channels * self.n_repeats
        self.n_rows = self.n_pixels // self.n_repeats
        self._suffix = _SUFFIXES[x.dtype]

    def spread(self, per_channel: Tensor) -> Tensor:
        """Repeat values of channels along a row."""
        return per_channel.float().repeat(self.n_repeats)

    def run(self, name: str, *arguments: Tensor, output: Tensor) -> None:
        """Call a loop on all rows, shared by as many threads as torch has."""
        function = getattr(_library(), name + self._suffix)
        pointers = [_pointer(each) for each in arguments]

        def part(first: int, last: int) -> None:
            bounds = (ctypes.c_int64(number) for number in (self.length, first, last))
            function(*pointers, *bounds, _pointer(output))

        self._share(part)

    def sum(self, name: str, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        """Call a loop that makes two sums; returns them per channel, in float64."""
        function = getattr(_library(), name + self._suffix)
        pointers = [_pointer(each) for each in arguments]

        def part(first: int, last: int) -> Tensor:
            sums = torch.zeros(2, self.length, dtype=torch.float64)
            bounds = (ctypes.c_int64(number) for number in (self.length, first, last))
            function(*pointers, *bounds, _pointer(sums[0]), _pointer(sums[1]))
            return sums

        sums = torch.stack(self._share(part)).sum(0)
        first, second = sums.view(2, self.n_repeats, self.n_channels).sum(1)
        return first, second

    def _share(self, part: Callable[[int, int], Any]) -> list[Any]:
        n_threads = min(torch.get_num_threads(), self.n_rows)
        if n_threads == 1:
            return [part(0, self.n_rows)]
        bounds = [self.n_rows * i // n_threads for i in range(n_threads + 1)]
        return list(_pool(n_threads).map(part, bounds[:-1], bounds[1:]))


class _NormMish(torch.autograd.Function):
    """``mish((x - mean) / deviation * weight + bias)``."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch's context)
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        deviation: Tensor,
        is_of_batch: bool,
    ) -> Tensor:
        rows = _Rows(x)
        scale = weight.double() / deviation
        shift = bias.double() - mean * scale
        result = torch.empty_like(x)
        rows.run("mediar_mish", x, rows.spread(scale), rows.spread(shift), output=result)
        ctx.save_for_backward(x, scale, shift, mean, deviation)
        ctx.is_of_batch = is_of_batch
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, scale, shift, mean, deviation = ctx.saved_tensors
        rows = _Rows(x)
        gradient = gradients[0].to(x.dtype).contiguous(memory_format=torch.channels_last)
        factors = rows.spread(scale), rows.spread(shift)
        total, total_of_products = rows.sum("mediar_mish_gradient_sums", x, gradient, *factors)
        total_of_normalised = (total_of_products - mean * total) / deviation
        slope, offset = torch.zeros_like(scale), torch.zeros_like(scale)
        if ctx.is_of_batch:  # mean and deviation depend on x too
            slope = -scale * total_of_normalised / (deviation * rows.n_pixels)
            offset = -scale * total / rows.n_pixels - slope * mean
        result = torch.empty_like(x)
        spread = rows.spread(slope), rows.spread(offset)
        rows.run("mediar_mish_gradient", x, gradient, *factors, *spread, output=result)
        return result, total_of_normalised.float(), total.float(), None, None, None


def _norm_mish(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, deviation: Tensor, *, is_of_batch: bool
) -> Tensor:
    result: Tensor = _NormMish.apply(  # type: ignore[no-untyped-call]
        x, weight, bias, mean, deviation, is_of_batch
    )
    return result


def _is_fit(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in _SUFFIXES and x.shape[1] <= _MAX_CHANNELS


class NormMish(nn.BatchNorm2d):
    """BatchNorm with Mish behind it."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(N, C, H, W)`` and apply Mish."""
        if not _is_fit(input):
            return F.mish(super().forward(input))
        assert self.running_mean is not None
        assert self.running_var is not None
        x = input.contiguous(memory_format=torch.channels_last)
        if self.training:
            mean, variance = _compute_moments(x.detach())
            update_statistics(self, mean, variance, x.numel() / x.shape[1])
        else:
            mean, variance = self.running_mean.double(), self.running_var.double()
        deviation = torch.sqrt(variance + self.eps)
        return _norm_mish(x, self.weight, self.bias, mean, deviation, is_of_batch=self.training)


class FastMish(nn.Mish):
    """Mish alone."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply Mish to ``(N, C, H, W)``."""
        if not _is_fit(input):
            return F.mish(input)
        x = input.contiguous(memory_format=torch.channels_last)
        zeros, ones = torch.zeros(x.shape[1]), torch.ones(x.shape[1])
        return _norm_mish(x, ones, zeros, zeros.double(), ones.double(), is_of_batch=False)


def _compute_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    rows = _Rows(x)
    pivot = x[0, :, 0, 0]
    total, total_of_squares = rows.sum("mediar_moments", x, rows.spread(pivot))
    distance = total / rows.n_pixels
    variance = (total_of_squares / rows.n_pixels - distance * distance).clamp_(min=0)
    return pivot.double() + distance, variance


def fuse_norms(model: nn.Module) -> None:
    """Put the fast layers instead of Mish, and of BatchNorm with Mish behind it.

    Only those inside an ``nn.Sequential`` and beside each other; entry names stay.

    Args:
        model: modified; unchanged where the loops were not compiled.
    """
    if load_activation_library() is None:
        return
    for module in list(model.modules()):
        if not isinstance(module, nn.Sequential):
            continue
        for index, layer in enumerate(module):
            behind = module[index + 1] if index + 1 < len(module) else None
            if type(layer) is nn.BatchNorm2d and type(behind) is nn.Mish:
                module[index], module[index + 1] = copy_norm(layer, NormMish), nn.Identity()
            elif type(layer) is nn.Mish and type(behind) is nn.BatchNorm2d:
                module[index] = FastMish()
