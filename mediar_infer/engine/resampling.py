"""Rows of one size into rows of another: streaming, and the same for any number of rows at a time.

An axis is resized by a table: for each output position, the input positions that it is made of and
their weights. Columns are resized first, as rows come; rows are combined afterwards. Each output
row is the same sum in the same order, however many rows are added or taken at once.

The corners of both grids coincide, as in OpenCV, scikit-image and torch (``align_corners=False``).
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mediar_infer.arrays import Float32Array
from mediar_infer.row_buffer import RowBuffer

_ROWS_AT_ONCE: Final = 16
"""Rows whose columns are resized at once; keeps intermediate arrays small."""
_CUBIC: Final = -0.75
"""Parameter of the cubic kernel, that of OpenCV and torch."""


def scaled_length(length: int, scale: float) -> int:
    """Length of an axis at another scale; at least 1."""
    return max(1, int(length * scale + 0.5))


def scaled_shape(shape: tuple[int, int], scale: float) -> tuple[int, int]:
    """Height and width of an image at another scale."""
    height, width = shape
    return scaled_length(height, scale), scaled_length(width, scale)


@dataclass(frozen=True, slots=True)
class AxisTable:
    """What each position of a resized axis is made of."""

    positions: npt.NDArray[np.intp]
    """``(n, taps)`` input positions, not decreasing along either axis; inside the input."""
    weights: Float32Array
    """``(n, taps)``; the weights of a position sum to 1."""

    @classmethod
    def of_axis(cls, n_in: int, n_out: int, *, is_cubic: bool = False) -> "AxisTable":
        """Make the table that keeps most: means when shrinking, interpolation when enlarging.

        Args:
            n_in: length of the axis.
            n_out: length that it gets.
            is_cubic: enlarge by cubic instead of linear interpolation, which is sharper but may
                leave the range of the values.
        """
        if n_out >= n_in:
            return cls.of_points(n_in, n_out, is_cubic=is_cubic)
        ratio = n_in / n_out
        start = np.arange(n_out)[:, None] * ratio
        positions = np.floor(start).astype(np.intp) + np.arange(int(np.ceil(ratio)) + 1)
        covered = np.minimum(start + ratio, positions + 1) - np.maximum(start, positions)
        return cls._normalised(n_in, positions, np.maximum(covered, 0))

    @classmethod
    def of_points(cls, n_in: int, n_out: int, *, is_cubic: bool = False) -> "AxisTable":
        """Make the table that interpolates at the middle of each position of the result."""
        centre = (np.arange(n_out)[:, None] + 0.5) * (n_in / n_out) - 0.5
        offsets = np.arange(-1, 3) if is_cubic else np.arange(2)
        positions = np.floor(centre).astype(np.intp) + offsets
        distance = np.abs(centre - positions)
        weights = _cubic_weights(distance) if is_cubic else 1 - distance
        return cls._normalised(n_in, positions, weights)

    @classmethod
    def _normalised(
        cls, n_in: int, positions: npt.NDArray[np.intp], weights: npt.NDArray[np.float64]
    ) -> "AxisTable":
        weights = weights / weights.sum(axis=1, keepdims=True)
        # Beyond the border lie copies of the outermost value.
        return cls(np.clip(positions, 0, n_in - 1), weights.astype(np.float32))

    def needed(self, start: int, stop: int) -> tuple[int, int]:
        """Input positions of ``start`` … ``stop - 1``: the first, and one past the last."""
        return int(self.positions[start, 0]), int(self.positions[stop - 1, -1]) + 1

    def n_complete(self, n_in: int) -> int:
        """Count the positions that are made of the first ``n_in`` input positions alone."""
        return int(np.searchsorted(self.positions[:, -1], n_in))

    def resize_columns(self, rows: Float32Array) -> Float32Array:
        """Resize the last axis of an array."""
        resized = rows[..., self.positions[:, 0]] * self.weights[:, 0]
        for tap in range(1, self.positions.shape[1]):
            resized += rows[..., self.positions[:, tap]] * self.weights[:, tap]
        return resized

    def combine_rows(self, rows: Float32Array, top: int, start: int, stop: int) -> Float32Array:
        """Make the rows ``start`` … ``stop - 1`` of the resized image.

        Args:
            rows: ``(channels, rows, W)``, all that ``needed`` names.
            top: position of the first of them.
            start: first row to be made.
            stop: row after the last one.

        Returns:
            ``(channels, stop - start, W)``, a new array.
        """
        positions, weights = self.positions[start:stop] - top, self.weights[start:stop, :, None]
        combined = rows[:, positions[:, 0]] * weights[:, 0]
        for tap in range(1, positions.shape[1]):
            combined += rows[:, positions[:, tap]] * weights[:, tap]
        return combined


def _cubic_weights(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * _CUBIC
    return np.where(distance <= 1, near, far)


def resize_whole(
    values: Float32Array, height: int, width: int, *, is_cubic: bool = False
) -> Float32Array:
    """Resize an array ``(channels, H, W)`` that is in memory; see :meth:`AxisTable.of_axis`."""
    rows, columns = (
        AxisTable.of_axis(n_in, n_out, is_cubic=is_cubic)
        for n_in, n_out in zip(values.shape[1:], (height, width), strict=True)
    )
    return rows.combine_rows(columns.resize_columns(values), 0, 0, height)


class RowResampler:
    """Takes rows of an image and gives rows of the resized image, both downwards without gaps.

    Args:
        n_channels: values per pixel.
        rows: table of the vertical axis.
        columns: table of the horizontal axis.
        top: first row of the resized image that will be taken.
    """

    def __init__(self, n_channels: int, rows: AxisTable, columns: AxisTable, top: int = 0) -> None:
        self._rows, self._columns = rows, columns
        shape = n_channels, len(columns.positions)
        self._held = RowBuffer(shape, np.float32, rows.needed(top, top + 1)[0])
        self._empty = np.empty((n_channels, 0, shape[1]), np.float32)
        self.top = top
        """First row of the resized image that has not been taken."""

    @property
    def bottom(self) -> int:
        """Row of the image that is to be added next."""
        return self._held.bottom

    def add(self, rows: npt.NDArray[Any]) -> None:
        """Add the next rows ``(channels, rows, W)`` of the image."""
        for top in range(0, rows.shape[1], _ROWS_AT_ONCE):
            piece = rows[:, top : top + _ROWS_AT_ONCE].astype(np.float32, copy=False)
            self._held.append(self._columns.resize_columns(piece))

    def take(self, n_rows: int) -> Float32Array:
        """Take the next resized rows ``(channels, rows, W)`` that are complete, at most so many."""
        stop = min(self.top + n_rows, self._rows.n_complete(self.bottom))
        if stop <= self.top:
            return self._empty
        first, last = self._rows.needed(self.top, stop)
        taken = self._rows.combine_rows(self._held.rows(first, last), first, self.top, stop)
        self.top = stop
        if stop < len(self._rows.positions):
            self._held.drop_above(self._rows.needed(stop, stop + 1)[0])
        return taken
