"""Intensities of the cells of an image, in all of its channels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mediar_infer.errors import ShapeError
from mediar_infer.exports.cells import BAND_ROWS, Cell, LabelRows
from mediar_infer.exports.compiled import CellIndex, Float64Array
from mediar_infer.images.sources import ImageSource


@dataclass(frozen=True, slots=True, eq=False)
class Intensities:
    """Sums and maxima over the pixels of each cell."""

    channels: Sequence[str]
    """Names of the channels, as the columns' names end."""
    places: Mapping[int, int]
    """Label → its row in the arrays."""
    sums: Float64Array
    """``(n, C)`` sums."""
    maxima: Float64Array
    """``(n, C)`` largest values."""

    def columns(self, cell: Cell) -> dict[str, float]:
        """``mean_<channel>`` and ``max_<channel>`` of a cell."""
        columns: dict[str, float] = {}
        place = self.places[cell.id]
        for k, channel in enumerate(self.channels):
            columns[f"mean_{channel}"] = float(self.sums[place, k]) / cell.area
            columns[f"max_{channel}"] = float(self.maxima[place, k])
        return columns


def name_channels(image: ImageSource) -> list[str]:
    """Name every channel of an image differently: its own name, else its number."""
    names = [name or str(k) for k, name in enumerate(image.channel_names)]
    return [name if names.count(name) == 1 else f"{name}_{k}" for k, name in enumerate(names)]


def channel_columns(channels: Sequence[str]) -> list[str]:
    """Names of the columns that a table has for channels."""
    return [f"{kind}_{channel}" for channel in channels for kind in ("mean", "max")]


def measure_intensities(labels: LabelRows, index: CellIndex, image: ImageSource) -> Intensities:
    """Add up an image over the cells of its labels.

    Args:
        labels: the label image.
        index: its cells.
        image: the image, open, with all of its channels.

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
    places = {int(cell_id): place for place, cell_id in enumerate(index.ids)}
    return Intensities(channels, places, sums, maxima)
