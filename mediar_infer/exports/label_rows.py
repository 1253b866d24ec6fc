"""Label files and arrays that are read by rows."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mediar_infer.errors import ImageReadError
from mediar_infer.exports.compiled import Uint32Array
from mediar_infer.images.geometry import UM_PER_MM
from mediar_infer.images.open import open_image
from mediar_infer.images.sources import ImageSource
from mediar_infer.images.tiff_source import TiffSource
from mediar_infer.labels.reading import read_labels

_MAX_ID = np.iinfo(np.uint32).max


class ArrayLabelRows:
    """A label image in memory.

    Args:
        labels: ``(H, W)`` whole numbers from 0 to 2³² - 1.
        name: for messages.
        pixel_size_um: (y, x) size of a pixel in µm; None if unknown.
    """

    def __init__(
        self,
        labels: npt.NDArray[np.integer[Any]],
        name: str = "array",
        pixel_size_um: tuple[float, float] | None = None,
    ) -> None:
        self.height, self.width = labels.shape
        self.pixel_size_um = pixel_size_um
        self._labels, self._name = labels, name

    def read(self, top: int, bottom: int) -> Uint32Array:
        """Rows ``top`` … ``bottom - 1`` as ``(rows, W)`` uint32."""
        return _to_ids(self._labels[top:bottom], self._name)


class FileLabelRows:
    """A TIFF label image of whole numbers, decoded as far as its rows are asked for."""

    def __init__(self, source: ImageSource) -> None:
        self.height, self.width = source.height, source.width
        size_mm = source.pixel_size_mm
        self.pixel_size_um = size_mm and (size_mm[0] * UM_PER_MM, size_mm[1] * UM_PER_MM)
        self._source = source

    def read(self, top: int, bottom: int) -> Uint32Array:
        """Rows ``top`` … ``bottom - 1`` as ``(rows, W)`` uint32.

        Raises:
            ImageReadError: if the file is damaged there or holds negative numbers.
        """
        return _to_ids(self._source.read_channels(top, bottom)[:, :, 0], self._source.name)


@contextmanager
def open_label_rows(path: Path) -> Iterator[FileLabelRows | ArrayLabelRows]:
    """Open a label file for a ``with`` block.

    TIFF of one channel of integers is read by rows; any other file that holds labels is read whole,
    by the rules of ``read_labels``.

    Args:
        path: the file.

    Raises:
        ImageReadError: if it is damaged or holds no labels.
    """
    pixel_size_um = None
    if path.suffix.lower() in (".tif", ".tiff"):
        with open_image(path) as source:
            rows = FileLabelRows(source)
            is_plain = isinstance(source, TiffSource) and source.holds_plain_numbers
            if is_plain and source.dtype.kind in "iu" and not source.warnings:
                yield rows
                return
            pixel_size_um = rows.pixel_size_um
    yield ArrayLabelRows(read_labels(path), path.name, pixel_size_um)


def _to_ids(rows: npt.NDArray[np.integer[Any]], name: str) -> Uint32Array:
    if rows.dtype.kind == "i" or rows.dtype.itemsize > np.dtype(np.uint32).itemsize:
        low, high = int(rows.min(initial=0)), int(rows.max(initial=0))
        if low < 0 or high > _MAX_ID:
            raise ImageReadError(
                f"{name}: found labels from {low} to {high}, expected 0 to {_MAX_ID}; number the"
                " cells from 1 and the background 0"
            )
    return np.ascontiguousarray(rows, dtype=np.uint32)
