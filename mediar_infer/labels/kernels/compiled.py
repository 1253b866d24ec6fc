"""The label stage's loops in C (``label_kernels.c``), shared by the threads of the CPU.

The library is built when the package is installed. It does not use the Python API: ctypes passes
pointers and releases the interpreter lock during a call, so plain threads run the parts.
"""

import ctypes
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mediar_infer.arrays import FLOW_SCALE, BoolArray, Float32Array, LabelArray
from mediar_infer.labels.kernels import (
    BASIN_HITS,
    CELL,
    MIN_SPEED,
    N_STEPS,
    SEED_HITS,
    Float64Array,
    Frame,
    Int32Array,
    Region,
)
from mediar_infer.labels.kernels.field import FieldAxis, describe_axes
from mediar_infer.process import POOL_PREFIX

_ROWS_PER_PART = 32
_CELLS_PER_PART = 32


class _Frame(ctypes.Structure):
    """``frame_t``: array pixels → coordinates of the padded field, and their limits."""

    _fields_ = [(name, ctypes.c_float * 2) for name in ("scale", "shift", "low", "high")]


@cache
def load_library() -> ctypes.CDLL | None:
    """Load the compiled library; ``None`` if the package was installed without a C compiler."""
    library = open_library(Path(__file__).with_name("_label_kernels"))
    if library is not None:
        library.mediar_track.restype = ctypes.c_int64
        library.mediar_find_seeds.restype = ctypes.c_int64
        library.mediar_fill_holes.restype = ctypes.c_int64
    return library


def open_library(stem: Path) -> ctypes.CDLL | None:
    """Open a library that was built with the package; ``None`` if it was not.

    Args:
        stem: its file without the suffix, which depends on the platform.
    """
    for suffix in EXTENSION_SUFFIXES:
        path = stem.with_name(stem.name + suffix)
        if path.is_file():
            return ctypes.CDLL(str(path))
    return None


def pointer(array: npt.NDArray[Any], dtype: npt.DTypeLike) -> ctypes.c_void_p:
    """Address of a contiguous array of a known data type, for a library."""
    assert array.dtype == dtype, (array.dtype, dtype)
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


def to_int64(value: int) -> ctypes.c_int64:
    """A whole number as a library takes it."""
    return ctypes.c_int64(value)


class CompiledKernels:
    """Implements :class:`mediar_infer.labels.kernels.LabelKernels`.

    Args:
        library: from :func:`load_library`.
        n_threads: threads that share the work.
    """

    def __init__(self, library: ctypes.CDLL, n_threads: int) -> None:
        self._library = library
        self._n_threads = n_threads
        self._start_threads()

    def _start_threads(self) -> None:
        self._process = os.getpid()
        self._pool = ThreadPoolExecutor(self._n_threads, thread_name_prefix=f"{POOL_PREFIX}labels")

    def _share(
        self, part: Callable[[ctypes.c_int64, ctypes.c_int64], Any], n_items: int, part_size: int
    ) -> Iterator[Any]:
        """Run ``part(first, last)`` over all items, in threads if there is more than one part."""
        bounds = [
            (to_int64(first), to_int64(min(first + part_size, n_items)))
            for first in range(0, n_items, part_size)
        ]
        if self._n_threads == 1 or len(bounds) <= 1:
            return iter([part(first, last) for first, last in bounds])
        if self._process != os.getpid():
            # Threads do not survive a fork: the pool would wait for those of the parent for ever.
            self._start_threads()
        return iter(list(self._pool.map(part, *zip(*bounds, strict=True))))

    def track(
        self,
        flow: Float32Array,
        foreground: BoolArray,
        frame: Frame,
        region: Region | None = None,
        n_steps: int = N_STEPS,
    ) -> tuple[Int32Array, int]:
        """See :meth:`LabelKernels.track`; pixels at rest are not followed further."""
        height, width = foreground.shape
        region = region or Region(0, 0, height, width)
        c_frame, least, most = _to_c_frame(describe_axes(frame, height, width))
        flow_pointer = pointer(flow, np.float32)
        inside = pointer(foreground, np.bool_)
        field = np.empty((height + 2, width + 2, 2), np.float32)
        field_pointer = pointer(field, np.float32)
        size = to_int64(height), to_int64(width)
        scale = ctypes.c_float(FLOW_SCALE)

        def make_field(first: ctypes.c_int64, last: ctypes.c_int64) -> None:
            self._library.mediar_make_field(
                flow_pointer, inside, *size, scale, ctypes.byref(c_frame), field_pointer,
                first, last,
            )  # fmt: skip

        self._share(make_field, height + 2, 4 * _ROWS_PER_PART)
        corners = (ctypes.c_int32 * 4)(region.top, region.left, region.bottom, region.right)
        ends = np.empty((region.bottom - region.top, region.right - region.left), np.int32)
        ends_pointer = pointer(ends, np.int32)

        def track(first: ctypes.c_int64, last: ctypes.c_int64) -> int:
            n_walked: int = self._library.mediar_track(
                field_pointer, flow_pointer, inside, size[1], corners, ctypes.byref(c_frame),
                least, most, ctypes.c_float(MIN_SPEED * FLOW_SCALE), ctypes.c_int(n_steps),
                ends_pointer, first, last,
            )  # fmt: skip
            return n_walked

        return ends, sum(self._share(track, len(ends), _ROWS_PER_PART))

    def add_hits(self, ends: Int32Array, hits: Int32Array) -> None:
        """See :meth:`LabelKernels.add_hits`."""
        self._library.mediar_count_hits(
            pointer(ends, np.int32), to_int64(ends.size), pointer(hits, np.int32)
        )

    def find_basins(
        self, hits: Int32Array, top: int, bottom: int, first_id: int
    ) -> tuple[Int32Array, LabelArray]:
        """See :meth:`LabelKernels.find_basins`."""
        size = to_int64(hits.shape[0]), to_int64(hits.shape[1])
        hits_pointer = pointer(hits, np.int32)
        capacity = int(np.count_nonzero(hits[top:bottom] > SEED_HITS))
        seeds = np.empty((capacity, 2), np.int32)
        n_seeds = self._library.mediar_find_seeds(
            hits_pointer, *size, ctypes.c_int32(SEED_HITS), to_int64(top), to_int64(bottom),
            pointer(seeds, np.int32), to_int64(capacity),
        )  # fmt: skip
        seeds = seeds[:n_seeds].copy()
        basins = np.zeros(hits.shape, np.int32)
        self._library.mediar_grow_basins(
            hits_pointer, *size, ctypes.c_int32(BASIN_HITS), pointer(seeds, np.int32),
            to_int64(n_seeds), ctypes.c_int32(first_id), pointer(basins, np.int32),
        )  # fmt: skip
        return seeds, basins

    def measure_cells(self, labels: LabelArray, n_labels: int) -> npt.NDArray[np.void]:
        """See :meth:`LabelKernels.measure_cells`."""
        cells = np.empty(n_labels, CELL)
        self._library.mediar_measure_cells(
            pointer(labels, np.int32), to_int64(labels.shape[0]), to_int64(labels.shape[1]),
            pointer(cells, CELL), to_int64(n_labels),
        )  # fmt: skip
        return cells

    def diffuse(self, labels: LabelArray, n_labels: int, *, same_iterations: bool) -> Float64Array:
        """See :meth:`LabelKernels.diffuse`; cells in balance are not iterated further.

        Raises:
            MemoryError: if the bounding box of a cell does not fit into memory.
        """
        height, width = labels.shape
        labels_pointer = pointer(labels, np.int32)
        cells = self.measure_cells(labels, n_labels)
        cells_pointer = pointer(cells, CELL)
        warmth = np.zeros((height + 2, width + 2), np.float64)
        present = cells[cells["size"] > 0]
        if not len(present):
            return warmth
        extent = present["bottom"] - present["top"] + present["right"] - present["left"] + 2
        n_iterations = to_int64(2 * int(extent.max()) if same_iterations else 0)
        warmth_pointer = pointer(warmth, np.float64)

        def diffuse(first: ctypes.c_int64, last: ctypes.c_int64) -> int:
            status: int = self._library.mediar_diffuse(
                labels_pointer, to_int64(width), cells_pointer, n_iterations, warmth_pointer,
                first, last,
            )  # fmt: skip
            return status

        if any(self._share(diffuse, n_labels, _CELLS_PER_PART)):
            raise MemoryError(f"pseudo-diffusion of a cell {int(extent.max())} pixels across")
        return warmth

    def unit_flow(self, labels: LabelArray, warmth: Float64Array) -> Float32Array:
        """See :meth:`LabelKernels.unit_flow`."""
        height, width = labels.shape
        unit_flow = np.empty((2, height, width), np.float32)
        arguments = (
            pointer(labels, np.int32), to_int64(height), to_int64(width),
            pointer(warmth, np.float64), pointer(unit_flow, np.float32),
        )  # fmt: skip
        self._share(
            lambda first, last: self._library.mediar_unit_flow(*arguments, first, last),
            height,
            4 * _ROWS_PER_PART,
        )
        return unit_flow

    def add_flow_errors(
        self,
        labels: LabelArray,
        warmth: Float64Array,
        flow: Float32Array,
        errors: Float64Array,
    ) -> None:
        """See :meth:`LabelKernels.add_flow_errors`."""
        height, width = labels.shape
        assert flow.dtype == np.float32
        assert flow.strides[1:] == (4 * width, 4), flow.strides
        self._library.mediar_add_flow_errors(
            pointer(labels, np.int32), to_int64(height), to_int64(width),
            pointer(warmth, np.float64), ctypes.c_void_p(flow.ctypes.data),
            to_int64(flow.strides[0] // 4), ctypes.c_float(FLOW_SCALE),
            pointer(errors, np.float64),
        )  # fmt: skip


def _to_c_frame(
    axes: tuple[FieldAxis, FieldAxis],
) -> tuple[_Frame, ctypes.Array[ctypes.c_float], ctypes.Array[ctypes.c_int32]]:
    """Transform from array pixels to the padded field; first and last pixel to end in."""
    c_frame = _Frame()
    for name in ("scale", "shift", "low", "high"):
        getattr(c_frame, name)[:] = [getattr(axis, name) for axis in axes]
    least = (ctypes.c_float * 2)(*(axis.first for axis in axes))
    most = (ctypes.c_int32 * 2)(*(axis.last for axis in axes))
    return c_frame, least, most
