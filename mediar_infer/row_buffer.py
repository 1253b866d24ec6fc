"""Rows of a tall image that are held while they are needed."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

_RESERVED_ROWS: Final = 1024
"""Rows that there is room for at first; memory that is never touched costs nothing."""


class RowBuffer:
    """Consecutive rows of an array ``(..., rows, W)``, addressed by image row.

    Rows are added below and forgotten above; the memory is reused, so that a buffer never touches
    much more than an eighth above the rows it was asked to hold at once.

    Args:
        shape: leading dimensions, then the width; ``(W,)`` or ``(2, W)``.
        dtype: type of the values.
        top: image row of the first row to be added.
    """

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike, top: int = 0) -> None:
        *leading, width = shape
        self._memory: npt.NDArray[Any] = np.empty((*leading, _RESERVED_ROWS, width), dtype=dtype)
        self._offset = self._n_rows = 0
        self.top = top
        """First row held."""

    @property
    def bottom(self) -> int:
        """Row after the last one held."""
        return self.top + self._n_rows

    @property
    def _held(self) -> npt.NDArray[Any]:
        return self._memory[..., self._offset : self._offset + self._n_rows, :]

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Add rows below the last one; they are copied."""
        self._grow(rows.shape[-2])[...] = rows

    def extend_to(self, bottom: int) -> None:
        """Add zero rows until ``bottom``."""
        if bottom > self.bottom:
            self._grow(bottom - self.bottom)[...] = 0

    def _grow(self, n_rows: int) -> npt.NDArray[Any]:
        """Add rows of any content and give them to be filled."""
        needed = self._n_rows + n_rows
        if needed > self._memory.shape[-2]:
            held = self._held
            shape = (*held.shape[:-2], needed + needed // 2, held.shape[-1])
            self._memory = np.empty(shape, dtype=held.dtype)
            self._memory[..., : self._n_rows, :] = held
            self._offset = 0
        elif self._offset > self._n_rows // 8 or self._offset + needed > self._memory.shape[-2]:
            # Moved up in pieces that do not overlap, so that no second copy is made.
            for row in range(0, self._n_rows, self._offset):
                piece = self._held[..., row : row + self._offset, :]
                self._memory[..., row : row + piece.shape[-2], :] = piece
            self._offset = 0
        self._n_rows += n_rows
        return self._held[..., self._n_rows - n_rows :, :]

    def rows(self, top: int, bottom: int) -> npt.NDArray[Any]:
        """View of rows ``top`` … ``bottom``, all held; it is valid until rows are added."""
        assert self.top <= top <= bottom <= self.bottom, (self.top, top, bottom, self.bottom)
        return self._held[..., top - self.top : bottom - self.top, :]

    def drop_above(self, row: int) -> None:
        """Forget rows above ``row``."""
        n_rows = min(row, self.bottom) - self.top
        if n_rows > 0:
            self._offset += n_rows
            self._n_rows -= n_rows
            self.top += n_rows

    def crop(self, top: int, left: int, height: int, width: int) -> npt.NDArray[Any]:
        """Copy of any rectangle, zero outside the image and outside the rows held."""
        held = self._held
        cropped = np.zeros((*held.shape[:-2], height, width), dtype=held.dtype)
        first, last = max(top, self.top), min(top + height, self.bottom)
        start, stop = max(left, 0), min(left + width, held.shape[-1])
        if first < last and start < stop:
            cropped[..., first - top : last - top, start - left : stop - left] = self.rows(
                first, last
            )[..., start:stop]
        return cropped
