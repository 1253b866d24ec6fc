"""A model for LazySlide, which cuts slides into tiles and hands them over in batches of tensors."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from mediar_infer.config import EngineConfig
from mediar_infer.hosts.patches import PatchSegmenter

if TYPE_CHECKING:
    import torch


class SlideModel:
    """A model that ``lazyslide.seg.cells`` takes as its ``model``.

    Args:
        weights: a folder, or one or two files; by default the pair that comes with the package.
        config: settings; by default the paper's full system. LazySlide chooses the device.
    """

    name = "MEDIAR"
    """Name that LazySlide shows."""
    model = None
    """LazySlide looks for it; the networks are loaded with the first tile."""

    def __init__(
        self,
        weights: Sequence[str | Path] | str | Path = (),
        config: EngineConfig | None = None,
    ) -> None:
        self._patches = PatchSegmenter(weights, config)

    def get_transform(self) -> "Callable[[npt.NDArray[Any]], torch.Tensor]":
        """What LazySlide does with a tile before it hands it over: nothing but a change of axes."""
        return _to_tensor

    def check_input_tile(self, tile_spec: object) -> bool:
        """Accept tiles of any size and resolution."""
        return True

    def to(self, device: "str | torch.device") -> Self:
        """Choose where the networks run."""
        config = self._patches.config
        runtime = replace(config.runtime, device=str(device))
        self._patches.config = replace(config, runtime=runtime)
        return self

    def try_compile(self, **settings: object) -> None:
        """Nothing to compile: the engine chooses what runs the networks."""

    def segment(self, image: "torch.Tensor") -> Any:  # noqa: ANN401 (a type of LazySlide)
        """Segment a batch of tiles.

        Args:
            image: ``(N, 3, H, W)``.

        Returns:
            LazySlide's ``SegmentationOutput`` with ``instance_map`` ``(N, H, W)``, int32.

        Raises:
            CheckpointError: if weights are missing, damaged or of another network.
            UsageError: if the device does not exist.
        """
        import torch
        from lazyslide_models.base import SegmentationOutput

        labels = [self._patches(tile) for tile in image]
        return SegmentationOutput(instance_map=torch.from_numpy(np.stack(labels)))


def _to_tensor(tile: npt.NDArray[Any]) -> "torch.Tensor":
    """``(H, W, 3)`` pixels as ``(3, H, W)``; a function of the module, so that workers get it."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(tile, -1, 0)))
