"""The loops over cells in C (``cell_kernels.c``): boxes, sums, outlines and shapes."""

import ctypes
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from mediar_infer.errors import ExportError
from mediar_infer.labels.kernels.compiled import open_library, pointer, to_int64

Uint32Array = npt.NDArray[np.uint32]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]

N_BOX: Final = 5
"""Columns of a box: first row, first column, row after the last, column after the last, area."""
N_SHAPE: Final = 7
"""Numbers of ``measure_shape``."""
_FIRST_CAPACITY: Final = 1 << 10


@cache
def load_cell_kernels() -> ctypes.CDLL:
    """Load the compiled library.

    Raises:
        ExportError: if the package was installed without a C compiler.
    """
    library = open_library(Path(__file__).with_name("_cell_kernels"))
    if library is None:
        raise ExportError(
            "found no compiled loops for outlines and measurements, expected those that are built"
            " when the package is installed; install a C compiler and reinstall mediar-infer"
        )
    library.mediar_add_boxes.restype = ctypes.c_int64
    library.mediar_trace.restype = ctypes.c_int64
    library.mediar_measure.restype = ctypes.c_int
    return library


class CellIndex:
    """Which cells a label image holds, and the box of each, gathered band by band.

    Ids may have gaps and come in any order. Memory grows with the number of cells only.
    """

    def __init__(self) -> None:
        self._n_cells = 0
        self._ids: Uint32Array = np.zeros(_FIRST_CAPACITY, np.uint32)
        self._boxes: Int64Array = np.zeros((_FIRST_CAPACITY, N_BOX), np.int64)
        # An open-addressing table, at most half full: id → place in ids and boxes.
        self._keys: Uint32Array = np.zeros(2 * _FIRST_CAPACITY, np.uint32)
        self._places: Int32Array = np.zeros(2 * _FIRST_CAPACITY, np.int32)

    @property
    def ids(self) -> Uint32Array:
        """``(n,)`` ids in the order in which they were first met."""
        return self._ids[: self._n_cells]

    @property
    def boxes(self) -> Int64Array:
        """``(n, 5)``: first row, first column, row after the last, column after the last, area."""
        return self._boxes[: self._n_cells]

    def add(self, labels: Uint32Array, top: int) -> None:
        """Note the cells of a band.

        Args:
            labels: ``(rows, W)`` uint32, 0 = background, C-contiguous.
            top: image row of the first one.
        """
        add_boxes = load_cell_kernels().mediar_add_boxes
        width = labels.shape[1]
        n_cells = ctypes.c_int64(self._n_cells)
        done = 0
        while done < len(labels):
            if self._n_cells + width > len(self._ids):
                self._grow(self._n_cells + width)
            rest = labels[done:]
            done += add_boxes(
                pointer(rest, np.uint32), to_int64(len(rest)), to_int64(width),
                to_int64(top + done),
                pointer(self._keys, np.uint32), pointer(self._places, np.int32),
                to_int64(len(self._keys)), pointer(self._ids, np.uint32),
                pointer(self._boxes, np.int64), to_int64(len(self._ids)), ctypes.byref(n_cells),
            )  # fmt: skip
            self._n_cells = n_cells.value

    def add_values(
        self, labels: Uint32Array, values: Float64Array, sums: Float64Array, maxima: Float64Array
    ) -> None:
        """Add the intensities of a band to its cells, all of which must be known.

        Args:
            labels: ``(rows, W)`` uint32, C-contiguous.
            values: ``(rows, W, C)`` float64, C-contiguous.
            sums: ``(n, C)`` float64, changed in place; rows as in ``ids``.
            maxima: ``(n, C)`` float64, changed in place.
        """
        load_cell_kernels().mediar_add_values(
            pointer(labels, np.uint32), pointer(values, np.float64), to_int64(labels.size),
            to_int64(values.shape[2]), pointer(self._keys, np.uint32),
            pointer(self._places, np.int32), to_int64(len(self._keys)), pointer(sums, np.float64),
            pointer(maxima, np.float64),
        )  # fmt: skip

    def _grow(self, least: int) -> None:
        capacity = len(self._ids)
        while capacity < least:
            capacity *= 2
        n_more = capacity - len(self._ids)
        self._ids = np.concatenate([self._ids, np.zeros(n_more, np.uint32)])
        self._boxes = np.concatenate([self._boxes, np.zeros((n_more, N_BOX), np.int64)])
        keys, places = np.zeros(2 * capacity, np.uint32), np.zeros(2 * capacity, np.int32)
        load_cell_kernels().mediar_move_slots(
            pointer(self._keys, np.uint32), pointer(self._places, np.int32),
            to_int64(len(self._keys)), pointer(keys, np.uint32), pointer(places, np.int32),
            to_int64(len(keys)),
        )  # fmt: skip
        self._keys, self._places = keys, places


def trace_rings(
    labels: Uint32Array, top: int, cell_id: int, box: Int64Array
) -> tuple[list[Int32Array], list[int]]:
    """Follow the outlines of a cell along the cracks between pixels.

    Args:
        labels: ``(rows, W)`` uint32 rows of the image that hold the whole cell, C-contiguous.
        top: image row of the first one.
        cell_id: which cell.
        box: its row of ``CellIndex.boxes``.

    Returns:
        Closed rings without their first point again, ``(n, 2)`` int32 corners (x, y) in pixels from
        the upper left corner of the image. With x to the right and y upwards, the outer ring of
        each 4-connected part is counter-clockwise and holes are clockwise. No ring touches itself.
        And twice the signed area of each, in px²: above 0 for outer rings.
    """
    height, width = box[2] - box[0], box[3] - box[1]
    area = int(box[4])
    # Each pixel has four cracks, and each ring at least four.
    capacity = min(4 * area, 4 * int(height) * int(width)) + 4
    points = np.empty((capacity, 2), np.int32)
    ends, areas = np.empty((2, area + 1), np.int64)
    n_rings = load_cell_kernels().mediar_trace(
        pointer(labels, np.uint32), to_int64(labels.shape[1]), to_int64(top),
        ctypes.c_uint32(cell_id),
        pointer(box, np.int64), pointer(points, np.int32), to_int64(capacity),
        pointer(ends, np.int64), pointer(areas, np.int64), to_int64(len(ends)),
    )  # fmt: skip
    if n_rings < 0:
        raise MemoryError(f"outline of cell {cell_id}")
    bounds = [0, *ends[:n_rings].tolist()]
    points = points[: bounds[-1]].copy()
    rings = [points[first:last] for first, last in pairwise(bounds)]
    return rings, areas[:n_rings].tolist()


def measure_shape(labels: Uint32Array, top: int, cell_id: int, box: Int64Array) -> Float64Array:
    """Measure a cell.

    Args:
        labels: ``(rows, W)`` uint32 rows of the image that hold the whole cell, C-contiguous.
        top: image row of the first one.
        cell_id: which cell.
        box: its row of ``CellIndex.boxes``.

    Returns:
        ``(7,)`` float64: sums of y and x from the box's corner; sums of yy, xx and xy about the
        centroid, in px²; perimeter in px (Benkrid and Crookes 2000, 4 neighbours); area of the
        convex hull in px.
    """
    shape = np.empty(N_SHAPE, np.float64)
    failed = load_cell_kernels().mediar_measure(
        pointer(labels, np.uint32), to_int64(labels.shape[1]), to_int64(top),
        ctypes.c_uint32(cell_id),
        pointer(box, np.int64), pointer(shape, np.float64),
    )  # fmt: skip
    if failed:
        raise MemoryError(f"shape of cell {cell_id}")
    return shape
