"""What a page shows of a segmented image, made as the image ends."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mediar_infer.exports.label_rows import open_label_rows
from mediar_infer.images.sources import ImageSource
from mediar_infer.report.pictures import Layers, draw_layers
from mediar_infer.report.sizes import SizeSummary, summarise_sizes


@dataclass(frozen=True, slots=True)
class ImageFigures:
    """Pictures and sizes of an image."""

    layers: Layers
    """The image and the outlines of its cells."""
    sizes: SizeSummary
    """Areas of its cells."""


def draw_figures(
    image: ImageSource,
    labels: Path,
    areas: npt.NDArray[np.integer[Any]],
    pixel_size_um: tuple[float, float] | None,
) -> ImageFigures:
    """Draw what a page shows of an image.

    Args:
        image: the image, open.
        labels: its label file.
        areas: ``(n,)`` area of each cell in pixels.
        pixel_size_um: (y, x) size of a pixel in µm; None if unknown.

    Raises:
        ImageReadError: if the image or the labels are damaged.
    """
    with open_label_rows(labels) as rows:
        return ImageFigures(draw_layers(image, rows), summarise_sizes(areas, pixel_size_um))
