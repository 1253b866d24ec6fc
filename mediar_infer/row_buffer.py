"""Rows of a tall image that are held while they are needed."""

from typing import Any

import numpy as np
import numpy.typing as npt


class RowBuffer:
    """Consecutive rows of an array ``(..., rows, W)``, addressed by image row.

    Args:
        shape: leading dimensions, then the width; ``(W,)`` or ``(2, W)``.
        dtype: type of the values.
    """

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        *leading, width = shape
        self._held: npt.NDArray[Any] = np.zeros((*leading, 0, width), dtype=dtype)
        self.top = 0
        """First row held."""

    @property
    def bottom(self) -> int:
        """Row after the last one held."""
        return self.top + int(self._held.shape[-2])

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Add rows below the last one."""
        self._held = np.concatenate([self._held, rows], axis=-2)

    def extend_to(self, bottom: int) -> None:
        """Add zero rows until ``bottom``."""
        missing = bottom - self.bottom
        if missing > 0:
            shape = (*self._held.shape[:-2], missing, self._held.shape[-1])
            self.append(np.zeros(shape, dtype=self._held.dtype))

    def rows(self, top: int, bottom: int) -> npt.NDArray[Any]:
        """View of rows ``top`` … ``bottom``, all of which must be held."""
        assert self.top <= top <= bottom <= self.bottom, (self.top, top, bottom, self.bottom)
        return self._held[..., top - self.top : bottom - self.top, :]

    def drop_above(self, row: int) -> None:
        """Forget rows above ``row``."""
        n = min(row, self.bottom) - self.top
        if n > 0:
            self._held = self._held[..., n:, :].copy()
            self.top += n

    def crop(self, top: int, left: int, height: int, width: int) -> npt.NDArray[Any]:
        """Copy of any rectangle, zero outside the image and outside the rows held."""
        shape = (*self._held.shape[:-2], height, width)
        cropped = np.zeros(shape, dtype=self._held.dtype)
        first, last = max(top, self.top), min(top + height, self.bottom)
        start, stop = max(left, 0), min(left + width, self._held.shape[-1])
        if first < last and start < stop:
            cropped[..., first - top : last - top, start - left : stop - left] = self.rows(
                first, last
            )[..., start:stop]
        return cropped
