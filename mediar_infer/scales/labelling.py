"""Labels of an image from the maps of a scaled image.

Labels are made where the maps are, and are resized afterwards. With flow brought to the grid of the
image instead, small cells are lost (their flow cannot be followed on large pixels), and large ones
fall apart (many seeds on small pixels); see ``benchmarks/NOTES.md``. Sizes in pixels, such as
``min_size``, are therefore those that the networks see.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Final

import numpy as np
import numpy.typing as npt

from mediar_infer.arrays import Float32Array, LabelArray
from mediar_infer.engine.resampling import AxisTable, scaled_shape
from mediar_infer.labels.blocks import Labelling, label_bands
from mediar_infer.labels.confidence import CellConfidence
from mediar_infer.row_buffer import RowBuffer

_ROWS_AT_ONCE: Final = 64


def label_rescaled(
    bands: Iterable[Float32Array], shape: tuple[int, int], how: Labelling
) -> Iterator[LabelArray]:
    """Turn bands of maps into bands of labels of the image.

    Args:
        bands: ``(3, rows, W)`` from top to bottom, at the scale in the trace once the first is
            there.
        shape: height and width of the image.
        how: settings, and what takes note; of resized labels the confidence of all cells is known
            only after the last band.

    Yields:
        ``(rows, W)`` int32 from top to bottom, ids 1 … n.
    """
    iterator = iter(bands)
    maps = chain([next(iterator)], iterator)  # now the scale is known
    scale = how.trace.scale
    if scale == 1:
        yield from label_bands(maps, shape, how)
        return
    grid = scaled_shape(shape, scale)
    measured = None if how.confidence is None else CellConfidence()
    labels = label_bands(maps, grid, replace(how, confidence=measured))
    ids = NewIds()
    yield from how.trace.time_items("labels", resize_labels(labels, grid, shape, ids))
    if how.confidence is not None and measured is not None:
        how.confidence.take_cells(measured, ids.old_ids)


class NewIds:
    """Ids without gaps, in the order in which the old ones appear."""

    def __init__(self) -> None:
        self._new_ids: npt.NDArray[np.int32] = np.zeros(1, np.int32)
        self._n_cells = 0

    @property
    def old_ids(self) -> npt.NDArray[np.intp]:
        """Old id of each new one, from 1 on."""
        old = np.flatnonzero(self._new_ids)
        return old[np.argsort(self._new_ids[old])]

    def renumber(self, labels: LabelArray) -> LabelArray:
        """Give the cells of a label image, or its next rows, their new ids."""
        ids, places = np.unique(labels, return_index=True)
        ids = ids[np.argsort(places)]
        n_missing = int(ids.max()) + 1 - len(self._new_ids)
        if n_missing > 0:
            room = np.zeros(max(n_missing, len(self._new_ids)), np.int32)
            self._new_ids = np.concatenate([self._new_ids, room])
        fresh = ids[(ids > 0) & (self._new_ids[ids] == 0)]
        self._new_ids[fresh] = self._n_cells + np.arange(1, len(fresh) + 1)
        self._n_cells += len(fresh)
        renumbered: LabelArray = self._new_ids[labels]
        return renumbered


def resize_labels(
    bands: Iterable[LabelArray],
    grid: tuple[int, int],
    shape: tuple[int, int],
    numbers: NewIds | None = None,
) -> Iterator[LabelArray]:
    """Resize labels: each pixel gets the id that has most of the four pixels around its middle.

    Weights are those of linear interpolation, so outlines stay smooth when cells are enlarged.

    Args:
        bands: ``(rows, W)`` from top to bottom.
        grid: height and width of these labels.
        shape: height and width that they get.
        numbers: gives the new ids.

    Yields:
        ``(rows, W)`` int32 from top to bottom, ids 1 … n in the order in which they appear; a cell
        that has the most of no pixel has none.
    """
    rows, columns = (AxisTable.of_points(*lengths) for lengths in zip(grid, shape, strict=True))
    held = RowBuffer((grid[1],), np.int32)
    numbers = numbers or NewIds()
    row = 0
    for band in bands:
        held.append(band)
        n_complete = rows.n_complete(held.bottom)
        while row < n_complete:
            stop = min(row + _ROWS_AT_ONCE, n_complete)
            yield numbers.renumber(_vote(held, rows, columns, slice(row, stop)))
            row = stop
        if row < shape[0]:
            held.drop_above(rows.needed(row, row + 1)[0])


def _vote(held: RowBuffer, rows: AxisTable, columns: AxisTable, wanted: slice) -> LabelArray:
    first, last = rows.needed(wanted.start, wanted.stop)
    near = held.rows(first, last)
    ids, weights = [], []
    for row_tap in range(2):
        picked = near[rows.positions[wanted, row_tap] - first]
        for column_tap in range(2):
            ids.append(picked[:, columns.positions[:, column_tap]])
            weights.append(np.outer(rows.weights[wanted, row_tap], columns.weights[:, column_tap]))
    winner, most = ids[0], _sum_where(ids, weights, ids[0])
    for rival in ids[1:]:
        share = _sum_where(ids, weights, rival)
        winner = np.where(share > most, rival, winner)
        np.maximum(most, share, out=most)
    return winner


def _sum_where(
    ids: list[LabelArray], weights: list[Float32Array], wanted: LabelArray
) -> Float32Array:
    total = np.zeros(wanted.shape, np.float32)
    for each, weight in zip(ids, weights, strict=True):
        np.add(total, weight, out=total, where=each == wanted)
    return total
