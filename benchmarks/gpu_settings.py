"""Sizes of what ``bench_gpu.py`` measures, the networks it runs, and its way to take time."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import common
import torch
from torch import nn

from mediar_infer.devices import Device, select_device
from mediar_infer.network.architecture import ENCODERS, Architecture
from mediar_infer.network.backends.torch_backend import TorchBackend
from mediar_infer.network.checkpoints import build_model, load_checkpoint
from mediar_infer.network.model import MediarFormer
from mediar_infer.training.networks.initialise import initialise_weights

T = TypeVar("T")

SHIPPED, PUBLISHED = "shipped (mit_b0)", "published (mit_b5)"
GIGA_MULTIPLY_ADDS = {SHIPPED: 9.26, PUBLISHED: 204.26}
"""Of one window of 512×512."""


@dataclass(frozen=True)
class Row:
    """A line of the table: a figure next to what it is judged by."""

    what: str
    measured: str
    compared: str = ""
    holds: bool | None = None
    """Whether an aim is reached; None where there is none."""


@dataclass(frozen=True)
class Settings:
    """What every part is given."""

    device_name: str
    quick: bool
    """Tiny sizes: whether the code runs, not how fast."""
    images: Path | None

    @cached_property
    def device(self) -> Device:
        return select_device(self.device_name)

    @property
    def on_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def half(self) -> str:
        """CPUs have no fast float16."""
        return "float16" if self.on_cuda else "bfloat16"

    @property
    def roi(self) -> int:
        return 64 if self.quick else 512

    @property
    def side(self) -> int:
        """Of images for the network."""
        return 96 if self.quick else 2048

    def networks(self, size: str) -> list[MediarFormer]:
        """The shipped pair, or two networks of the published size with random weights."""
        if size == SHIPPED and not self.quick:
            paths = sorted((common.ROOT / "weights").glob("*.safetensors"))
            return [build_model(load_checkpoint(path)).eval() for path in paths]
        torch.manual_seed(0)
        models = [MediarFormer(self.architecture(size)).eval() for _ in range(2)]
        for model in models:
            initialise_weights(model)
        return models

    def architecture(self, size: str) -> Architecture:
        if self.quick:
            return Architecture(*ENCODERS["mit_b0"], (16, 16, 8, 8, 8), 8)
        if size == SHIPPED:
            return Architecture(*ENCODERS["mit_b0"], (128, 64, 32, 32, 16), 32)
        return Architecture(*ENCODERS["mit_b5"])

    def members(self, models: list[nn.Module], precision: str) -> list[TorchBackend]:
        return [TorchBackend(model, self.device, precision) for model in models]

    def wait(self) -> None:
        if self.on_cuda:
            torch.cuda.synchronize(self.device.to_torch())

    def best_of(self, n: int, run: Callable[[], T]) -> tuple[float, T]:
        """Shortest time in seconds, until the device is done, and the last result."""
        seconds = []
        for _ in range(n):
            self.wait()
            started = time.perf_counter()
            result = run()
            self.wait()
            seconds.append(time.perf_counter() - started)
        return min(seconds), result

    def reset_peak(self) -> None:
        if self.on_cuda:
            torch.cuda.reset_peak_memory_stats(self.device.to_torch())

    def peak_bytes(self) -> int | None:
        """Most memory held on the device since ``reset_peak``; None on a CPU."""
        if not self.on_cuda:
            return None
        return torch.cuda.max_memory_reserved(self.device.to_torch())
