"""Rows of what is made in blocks of rows, such as chunks, of which the last one is kept."""

from collections.abc import Callable

import numpy as np

from mediar_infer.arrays import AnyArray


class RowBlocks:
    """Gives any rows, and makes each block once as long as rows are asked for downwards.

    Args:
        read: number of a block, from 0 → its rows.
        step: rows of a block; the last one may have fewer.
    """

    def __init__(self, read: Callable[[int], AnyArray], step: int) -> None:
        self._read, self.step = read, step
        self._kept: tuple[int, AnyArray] | None = None

    def rows(self, top: int, bottom: int) -> AnyArray:
        """Rows ``top`` … ``bottom - 1``."""
        parts = []
        for number in range(top // self.step, max(bottom - 1, top) // self.step + 1):
            start = number * self.step
            parts.append(self._block(number)[max(top - start, 0) : bottom - start])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _block(self, number: int) -> AnyArray:
        if self._kept is None or self._kept[0] != number:
            self._kept = number, self._read(number)
        return self._kept[1]
