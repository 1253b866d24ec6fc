"""The cells of a label image one by one, in bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol

import numpy as np

from mediar_infer.exports.compiled import (
    CellIndex,
    Float64Array,
    Int32Array,
    Int64Array,
    Uint32Array,
    measure_shape,
    trace_rings,
)
from mediar_infer.row_buffer import RowBuffer

BAND_ROWS: Final = 64
"""Rows that are read at once."""


class LabelRows(Protocol):
    """A label image that is read by rows, any number of times."""

    height: int
    """Rows in pixels."""
    width: int
    """Columns in pixels."""
    pixel_size_um: tuple[float, float] | None
    """(y, x) size of a pixel in µm; None if unknown."""

    def read(self, top: int, bottom: int) -> Uint32Array:
        """Rows ``top`` … ``bottom - 1`` as ``(rows, W)`` uint32, C-contiguous."""


class Cell:
    """One cell of a label image; valid until the next one is asked for.

    Args:
        cell_id: its label.
        place: its row in ``CellIndex``.
        box: its row of ``CellIndex.boxes``.
        rows: ``(rows, W)`` uint32 rows that hold all of it.
        top: image row of the first one.
    """

    def __init__(
        self, cell_id: int, place: int, box: Int64Array, rows: Uint32Array, top: int
    ) -> None:
        self.id = cell_id
        """Its label in the image."""
        self.place = place
        """Its row in ``ids`` and ``boxes`` of ``CellIndex``."""
        self.box = box
        """First row, first column, row after the last, column after the last, area in px."""
        self._rows, self._top = rows, top

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(self.box[4])

    @cached_property
    def parts(self) -> tuple["Part", ...]:
        """Its 4-connected parts, the largest first."""
        return group_rings(*trace_rings(self._rows, self._top, self.id, self.box))

    @cached_property
    def shape(self) -> Float64Array:
        """Sums, perimeter and hull; see ``compiled.measure_shape``."""
        return measure_shape(self._rows, self._top, self.id, self.box)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A 4-connected part of a cell, as closed rings of ``(n, 2)`` corners (x, y) in pixels."""

    shell: Int32Array
    """Outer ring, counter-clockwise with y upwards; the first point is not repeated."""
    holes: tuple[Int32Array, ...]
    """Rings of holes, clockwise."""


def group_rings(rings: list[Int32Array], areas: list[int]) -> tuple[Part, ...]:
    """Give each hole to the part that it lies in.

    Args:
        rings: all rings of one cell, and
        areas: their signed areas, as ``compiled.trace_rings`` gives them.

    Returns:
        Parts, the one with the largest shell first.
    """
    if len(rings) == 1:
        return (Part(rings[0], ()),)
    order = sorted(range(len(rings)), key=lambda k: -areas[k])
    shells = [rings[k] for k in order if areas[k] > 0]
    holes: list[list[Int32Array]] = [[] for _ in shells]
    for k in order[len(shells) :]:
        # From the smallest shell on: an island in a hole lies inside the outer shell too.
        inside = (n for n in reversed(range(len(shells))) if _borders_inside(rings[k], shells[n]))
        holes[next(inside) if len(shells) > 1 else 0].append(rings[k])
    return tuple(Part(shell, tuple(inner)) for shell, inner in zip(shells, holes, strict=True))


def _borders_inside(ring: Int32Array, shell: Int32Array) -> bool:
    """Whether the pixel of the cell to the right of a ring's first step lies in a shell."""
    (x0, y0), (x1, y1) = ring[0].tolist(), ring[1].tolist()
    step_x, step_y = np.sign(x1 - x0), np.sign(y1 - y0)
    # To the right with y downwards, half a pixel from the middle of the first crack.
    x, y = x0 + (step_x - step_y) / 2, y0 + (step_y + step_x) / 2
    left, right = shell.astype(np.float64), np.roll(shell, -1, axis=0).astype(np.float64)
    crosses = (left[:, 1] > y) != (right[:, 1] > y)
    # Shells run along pixel edges: an edge that crosses the row of a centre is vertical.
    return bool(np.count_nonzero(crosses & (left[:, 0] > x)) % 2)


def index_cells(labels: LabelRows) -> CellIndex:
    """Find all cells of a label image and their boxes: the first reading."""
    index = CellIndex()
    for top in range(0, labels.height, BAND_ROWS):
        index.add(labels.read(top, min(top + BAND_ROWS, labels.height)), top)
    return index


def iterate_cells(labels: LabelRows, index: CellIndex) -> Iterator[Cell]:
    """Give the cells of a label image one after the other: the second reading.

    Rows are held from the first row of the topmost unfinished cell on, so that memory grows with
    the width of the image and the height of its tallest cells.

    Args:
        labels: the image.
        index: its cells, from ``index_cells``.

    Yields:
        Every cell once, in the order of their last rows, then of their ids.
    """
    ids, boxes = index.ids, index.boxes
    order = np.lexsort((ids, boxes[:, 2]))
    first_rows = boxes[order, 0]
    # Topmost row that the cells from each place on still need.
    needed = np.minimum.accumulate(first_rows[::-1])[::-1]
    held = RowBuffer((labels.width,), np.uint32)
    n_done = 0
    for top in range(0, labels.height, BAND_ROWS):
        if n_done == len(order):
            return
        bottom = min(top + BAND_ROWS, labels.height)
        held.append(labels.read(top, bottom))
        while n_done < len(order) and boxes[order[n_done], 2] <= bottom:
            place = int(order[n_done])
            rows = held.rows(held.top, held.bottom)
            yield Cell(int(ids[place]), place, boxes[place], rows, held.top)
            n_done += 1
        held.drop_above(int(needed[n_done]) if n_done < len(order) else bottom)
