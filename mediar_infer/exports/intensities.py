"""Intensities of the cells of an image, in all of its channels."""

from typing import Final

import numpy as np

from mediar_infer.errors import ShapeError
from mediar_infer.exports.cells import BAND_ROWS, LabelRows
from mediar_infer.exports.compiled import CellIndex
from mediar_infer.exports.measures import CONFIDENCE_COLUMNS, Columns
from mediar_infer.images.sources import ImageSource

_MEAN: Final = "mean_"
_RESERVED: Final = {name.removeprefix(_MEAN) for name in CONFIDENCE_COLUMNS}
"""Names of channels whose means would replace another column."""


def name_channels(image: ImageSource) -> list[str]:
    """Name every channel of an image differently: its own name, else its number."""
    names = [name or str(k) for k, name in enumerate(image.channel_names)]
    taken, unique = {*names, *_RESERVED}, []
    for k, name in enumerate(names):
        column = name
        is_shared = names.count(name) > 1 or name in _RESERVED
        while is_shared and column in taken:  # another channel may be called so
            column = f"{column}_{k}"
        taken.add(column)
        unique.append(column)
    return unique


def measure_intensities(labels: LabelRows, index: CellIndex, image: ImageSource) -> Columns:
    """Add up an image over the cells of its labels.

    Args:
        labels: the label image.
        index: its cells.
        image: the image, open, with all of its channels.

    Returns:
        ``mean_<channel>`` and ``max_<channel>`` of every channel, cells by their labels.

    Raises:
        ShapeError: if the two differ in size.
        ImageReadError: if the image is damaged.
    """
    if (image.height, image.width) != (labels.height, labels.width):
        raise ShapeError(
            f"{image.name}: found {image.height} × {image.width} pixels, expected"
            f" {labels.height} × {labels.width} as its labels have; name the image of these labels"
        )
    channels = name_channels(image)
    sums = np.zeros((len(index.ids), len(channels)))
    maxima = np.full_like(sums, -np.inf)
    for top in range(0, labels.height, BAND_ROWS):
        bottom = min(top + BAND_ROWS, labels.height)
        values = np.ascontiguousarray(image.read_channels(top, bottom), dtype=np.float64)
        index.add_values(labels.read(top, bottom), values, sums, maxima)
    order = np.argsort(index.ids)
    areas = index.boxes[order, 4]
    columns = {}
    for k, channel in enumerate(channels):
        columns[f"{_MEAN}{channel}"] = sums[order, k] / areas
        columns[f"max_{channel}"] = maxima[order, k]
    return columns
