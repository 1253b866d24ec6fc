"""Labels of large images: a moving band of rows in, finished rows of labels out.

**Assumption: a track is at most ``REACH`` = 256 pixels long.** It is enforced: flow vectors longer
than ``MAX_SPEED`` = 1.27 pixels per step are shortened. Trained flow has length 1, so no cell with
a radius below 200 pixels is affected; of a larger one, the released system does not reach the
centre either (200 steps).

Cells are neither cut nor estimated. With that assumption, the rows that decide a row of end points,
of seeds and of labels are known beforehand, and every pixel is tracked once, together with all that
it can meet:

    maps ──clean──► foreground ──track──► end points ──count──► hits ──seeds──► basins
                                              └───────look up───────────────────┘
                                                         ▼
    rows out ◄──final ids── decided cells ◄──errors── warmth ◄──diffuse── complete cells

Each arrow has a row that it has reached; all of them move down together, however many rows arrive
at a time, so the result does not depend on the block size. Quantities that the released code takes
from the whole image or block are taken per cell (iterations of the pseudo-diffusion) or from the
whole image (the 90 % rule), and ids follow the row-major order of the seeds, as in that code.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from mediar_infer.arrays import CELLPROB, FLOW_SCALE, Float32Array, LabelArray
from mediar_infer.config import MaskConfig
from mediar_infer.labels.confidence import CellConfidence
from mediar_infer.labels.flows import FlowCheck
from mediar_infer.labels.kernels import BASIN_STEPS, N_STEPS, Frame, LabelKernels, Region
from mediar_infer.labels.kernels.choice import select_kernels
from mediar_infer.labels.masks import foreground_of, remove_small
from mediar_infer.row_buffer import RowBuffer

REACH: Final = 256
"""Longest track in pixels."""
MAX_SPEED: Final = (REACH - 2) / N_STEPS
"""Longest step in pixels; trained flows have unit length, so only outliers are shortened."""
_TILE_ROWS: Final = 64
_TILE_COLUMNS: Final = 1024
_SEED_MARGIN: Final = BASIN_STEPS + 3
_PIXELS_AT_ONCE: Final = 1 << 21
_ROWS_AT_ONCE: Final = 64
"""Rows that a step processes in one round."""


@dataclass(slots=True)
class _Cells:
    """Facts about cells, indexed by id - base - 1; ids follow the row-major order of the seeds."""

    base: int = 0
    """Number of cells dropped from the tables because all of their rows were returned."""
    row: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    column: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    size: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    expected: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    top: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    bottom: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    error: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0, np.float64))
    final_id: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))

    def add(self, seeds: npt.NDArray[np.int64]) -> None:
        n = len(seeds)
        far = np.iinfo(np.int64).max
        self.row = np.concatenate([self.row, seeds[:, 0]])
        self.column = np.concatenate([self.column, seeds[:, 1]])
        self.size = np.concatenate([self.size, np.zeros(n, np.int64)])
        self.expected = np.concatenate([self.expected, np.zeros(n, np.int64)])
        self.top = np.concatenate([self.top, np.full(n, far)])
        self.bottom = np.concatenate([self.bottom, np.full(n, -1, np.int64)])
        self.error = np.concatenate([self.error, np.zeros(n)])
        self.final_id = np.concatenate([self.final_id, np.zeros(n, np.int32)])

    def forget(self, n_first: int) -> None:
        self.base += n_first
        for name in ("row", "column", "size", "expected", "top", "bottom", "error", "final_id"):
            setattr(self, name, getattr(self, name)[n_first:].copy())

    def index(self, labels: LabelArray) -> LabelArray:
        """Labels → 1 + index into the tables, 0 for the background."""
        indices: LabelArray = np.maximum(labels - np.int32(self.base), 0)
        return indices

    def first_row_after(self, n_first: int, otherwise: int) -> int:
        """First row of all cells but the first ``n_first``, at most ``otherwise``."""
        return int(min(self.top[n_first:].min(initial=otherwise), otherwise))


class StitchedLabels:
    """Turns bands of maps into bands of labels; see the module's description.

    Args:
        height: rows of the whole image.
        width: columns of the whole image.
        config: thresholds.
        kernels: implementation of the loops; by default the fastest one for a CPU.
        flow_check: gains the cells that the flow check examined and removed.
        confidence: gains the flow errors of the cells that remain; they are computed for it even
            without a flow check.
    """

    def __init__(
        self,
        height: int,
        width: int,
        config: MaskConfig,
        kernels: LabelKernels | None = None,
        flow_check: FlowCheck | None = None,
        confidence: CellConfidence | None = None,
    ) -> None:
        self._flow_check, self._confidence = flow_check or FlowCheck(), confidence
        self._needs_errors = config.max_flow_error is not None or confidence is not None
        self._height, self._width = height, width
        self._config, self._kernels = config, kernels or select_kernels()
        self._raw = RowBuffer((width,), np.bool_)
        self._foreground = RowBuffer((width,), np.bool_)
        self._flow = RowBuffer((2, width), np.float32)
        self._shift = RowBuffer((2, width), np.int16)
        self._lowest = RowBuffer((1,), np.int64)
        self._hits = RowBuffer((width,), np.int32)
        self._basins = RowBuffer((width,), np.int32)
        self._labels = RowBuffer((width,), np.int32)
        self._warmth = RowBuffer((width,), np.float32)
        self._cells = _Cells()
        self._tracked = self._seeded = self._summed = self._measured = self._emitted = 0
        self._n_complete = self._n_decided = 0
        self._n_final = 0
        self._rows_at_once = config.block_size or _ROWS_AT_ONCE
        self._worked_on = 0

    @property
    def n_cells(self) -> int:
        """Cells whose final id is known."""
        return self._n_final

    def add(self, maps: Float32Array) -> Iterator[LabelArray]:
        """Take the next rows of the maps and yield the rows of labels that are finished.

        Args:
            maps: ``(3, rows, W)``, directly below those of the call before.

        Yields:
            ``(rows, W)`` int32, directly below those yielded before; after the last rows of the
            image, all remaining ones.
        """
        threshold = self._config.cellprob_threshold
        self._raw.append(foreground_of(maps[CELLPROB], threshold))
        self._flow.append(_cap_speed(maps[:CELLPROB]))
        n_waiting = self._raw.bottom - self._worked_on
        if n_waiting < self._rows_at_once and self._raw.bottom < self._height:
            return
        self._worked_on = self._raw.bottom
        self._clean()
        # Round by round: no step gets far ahead of those that free its rows.
        reached: tuple[int, ...] = ()
        while reached != (reached := self._progress()):
            self._track()
            self._find_seeds()
            self._label_pixels()
            self._diffuse_complete_cells()
            self._measure_errors()
            self._decide()
            finished = self._emit()
            if len(finished):
                yield finished

    def _progress(self) -> tuple[int, ...]:
        return self._tracked, self._seeded, self._labels.bottom, self._measured, self._emitted

    def _reached(self, row: int, lag: int) -> int:
        """Row that a step has reached if it lags behind another one, except at the last row."""
        return self._height if row == self._height else max(row - lag, 0)

    def _clean(self) -> None:
        """Clean rows; a small component spans fewer rows than it has pixels, and there are two."""
        margin = 2 * self._config.min_size
        start, stop = self._foreground.bottom, self._reached(self._raw.bottom, margin)
        if stop <= start:
            return
        first = max(start - margin, 0)
        cleaned = remove_small(self._raw.rows(first, self._raw.bottom), self._config.min_size)
        self._foreground.append(cleaned[start - first : stop - first])
        self._raw.drop_above(stop - margin)

    def _track(self) -> None:
        """Track a row of tiles whose surroundings within reach are clean."""
        top, bottom = self._tracked, min(self._tracked + _TILE_ROWS, self._height)
        if top == bottom or self._foreground.bottom < min(top + _TILE_ROWS + REACH, self._height):
            return
        self._shift.extend_to(bottom)
        for left in range(0, self._width, _TILE_COLUMNS):
            self._track_tile(top, left)
        farthest = self._shift.rows(top, bottom)[0].max(axis=1)
        self._lowest.append((np.arange(top, bottom) + farthest)[:, None])
        self._count_hits(top, bottom)
        self._tracked = bottom
        self._foreground.drop_above(self._tracked - REACH)

    def _track_tile(self, top: int, left: int) -> None:
        # The layout of a tile and its surroundings does not depend on the rows of a call: every
        # track is computed with the same rounding.
        rows, columns = _TILE_ROWS + 2 * REACH, _TILE_COLUMNS + 2 * REACH
        corner = (top - REACH, left - REACH, rows, columns)
        foreground = self._foreground.crop(*corner)
        core = Region(REACH, REACH, REACH + _TILE_ROWS, REACH + _TILE_COLUMNS)
        if not foreground[core.top : core.bottom, core.left : core.right].any():
            return
        frame = Frame(corner[0], corner[1], self._height, self._width)
        ends, _ = self._kernels.track(self._flow.crop(*corner), foreground, frame, core)
        shift = self._shift.rows(top, min(top + _TILE_ROWS, self._height))
        shift = shift[:, :, left : left + _TILE_COLUMNS]
        ends = ends[: shift.shape[1], : shift.shape[2]]
        shift[0] = ends // columns - np.arange(core.top, core.top + len(ends))[:, None]
        shift[1] = ends % columns - np.arange(core.left, core.left + ends.shape[1])

    def _count_hits(self, top: int, bottom: int) -> None:
        """Count the end points of tracked rows; background pixels count where they are."""
        first, last = max(top - REACH, 0), min(bottom + REACH, self._height)
        self._hits.extend_to(last)
        self._kernels.add_hits(self._ends(top, bottom, first), self._hits.rows(first, last))

    def _ends(self, top: int, bottom: int, origin: int) -> npt.NDArray[np.int32]:
        """Flat positions, from row ``origin`` on, of the pixels that rows of pixels end in."""
        shift = self._shift.rows(top, bottom)
        rows = np.arange(top - origin, bottom - origin, dtype=np.int32)[:, None]
        ends: npt.NDArray[np.int32] = (rows + shift[0]) * np.int32(self._width)
        ends += shift[1]
        ends += np.arange(self._width, dtype=np.int32)
        return ends

    def _find_seeds(self) -> None:
        """Find seeds where the histogram is complete, and grow their basins."""
        complete, start = self._reached(self._tracked, REACH), self._seeded
        stop = min(self._reached(complete, _SEED_MARGIN), start + _ROWS_AT_ONCE)
        if stop <= start:
            return
        first, complete = max(start - _SEED_MARGIN, 0), min(stop + _SEED_MARGIN, complete)
        cells = self._cells
        seeds, basins = self._kernels.find_basins(
            self._hits.rows(first, complete), start - first, stop - first,
            cells.base + len(cells.row) + 1,
        )  # fmt: skip
        self._basins.extend_to(complete)
        held = self._basins.rows(first, complete)
        np.maximum(held, basins, out=held)
        cells.add(seeds.astype(np.int64) + np.array([first, 0]))
        self._seeded = stop
        self._expect_sizes()
        self._hits.drop_above(stop - _SEED_MARGIN)

    def _expect_sizes(self) -> None:
        """Add up the hits of basins, in rows that no later seed reaches: the sizes of the cells."""
        rows = self._summed, self._reached(self._seeded, BASIN_STEPS)
        basins = self._basins.rows(*rows)
        inside = basins > 0
        hits = self._hits.rows(*rows)[inside]
        np.add.at(self._cells.expected, basins[inside] - self._cells.base - 1, hits)
        self._summed = rows[1]

    def _label_pixels(self) -> None:
        """Assign to each pixel the basin it ends in, where all basins within reach are complete."""
        start = self._labels.bottom
        complete = self._reached(self._seeded, BASIN_STEPS)
        waits = self._lowest.rows(start, self._tracked).ravel() >= complete
        stop = start + int(waits.argmax()) if waits.any() else self._tracked
        stop = min(stop, start + _ROWS_AT_ONCE)
        if stop <= start:
            return
        cells, origin = self._cells, self._basins.top
        basins = self._basins.rows(origin, self._basins.bottom)
        labels = basins.ravel()[self._ends(start, stop, origin)]
        self._labels.append(labels)
        found = self._kernels.measure_cells(cells.index(labels), len(cells.size))
        present = found["size"] > 0
        cells.size += found["size"]
        cells.top[present] = np.minimum(cells.top[present], found["top"][present] + start)
        cells.bottom[present] = found["bottom"][present] + start - 1
        self._shift.drop_above(stop)
        self._lowest.drop_above(stop)
        self._basins.drop_above(stop - REACH)

    def _diffuse_complete_cells(self) -> None:
        """Diffuse cells that have as many labelled pixels as their basins have hits."""
        cells = self._cells
        self._warmth.extend_to(self._labels.bottom)
        is_summed = cells.row < self._reached(self._summed, BASIN_STEPS)
        waits = ~(is_summed & (cells.size == cells.expected))[self._n_complete :]
        n_complete = self._n_complete + int(waits.argmax()) if waits.any() else len(cells.row)
        chosen = slice(self._n_complete, n_complete)
        self._n_complete = n_complete
        if not (self._needs_errors and cells.size[chosen].any()):
            return
        top, bottom = int(cells.top[chosen].min()), int(cells.bottom[chosen].max()) + 1
        margin = REACH + BASIN_STEPS
        n_columns = max(_PIXELS_AT_ONCE // (bottom - top), REACH)
        for left in range(0, self._width, n_columns):
            columns = slice(max(left - margin, 0), left + n_columns + margin)
            here = np.zeros(len(cells.row) + 1, dtype=np.bool_)
            column = cells.column[chosen]
            here[chosen.start + 1 : chosen.stop + 1] = (column >= left) & (
                column < left + n_columns
            )
            labels = cells.index(self._labels.rows(top, bottom)[:, columns])
            labels *= here[labels]
            if not labels.any():
                continue
            warmth = self._kernels.diffuse(labels, len(cells.row), same_iterations=False)
            held = self._warmth.rows(top, bottom)[:, columns]
            np.copyto(held, warmth[1:-1, 1:-1], where=labels > 0, casting="same_kind")

    def _measure_errors(self) -> None:
        """Sum flow errors in rows where every cell has diffused, and in the row below too."""
        cells = self._cells
        diffused = cells.first_row_after(self._n_complete, self._labels.bottom)
        start, stop = self._measured, self._reached(diffused, 1)
        if stop < self._height:
            # Whole chunks: errors are summed in the same order for every block size.
            stop -= stop % _ROWS_AT_ONCE
        if self._needs_errors:
            for top in range(start, stop, _ROWS_AT_ONCE):
                self._measure_rows(top, min(top + _ROWS_AT_ONCE, stop))
        self._measured = max(start, stop)
        self._warmth.drop_above(self._measured - 1)
        self._flow.drop_above(min(self._measured, self._tracked - REACH))

    def _measure_rows(self, top: int, bottom: int) -> None:
        warmth = self._warmth.crop(top - 1, -1, bottom - top + 2, self._width + 2)
        errors = np.zeros(len(self._cells.error) + 1)
        self._kernels.add_flow_errors(
            self._cells.index(self._labels.rows(top, bottom)),
            warmth.astype(np.float64),
            self._flow.rows(top, bottom),
            errors,
        )
        self._cells.error += errors[1:]

    def _decide(self) -> None:
        """Assign final ids, in order, to complete cells that lie entirely in measured rows."""
        cells, config = self._cells, self._config
        first = self._n_decided
        undecided = cells.bottom[first : self._n_complete] >= self._measured
        n_ready = int(undecided.argmax()) if undecided.any() else len(undecided)
        ready = slice(first, first + n_ready)
        size = cells.size[ready]
        keep = (size > 0) & (size <= config.max_fraction * self._height * self._width)
        if config.max_flow_error is not None:
            fits = cells.error[ready] <= config.max_flow_error * size
            self._flow_check.add(fits[keep])
            keep &= fits
        if self._confidence is not None:
            self._confidence.add_flow_errors(cells.error[ready][keep] / size[keep])
        cells.final_id[ready] = np.where(keep, self._n_final + keep.cumsum(), 0)
        self._n_final += int(keep.sum())
        self._n_decided = first + n_ready

    def _emit(self) -> LabelArray:
        start = self._emitted
        stop = self._cells.first_row_after(self._n_decided, self._measured)
        stop = max(start, min(stop, start + _ROWS_AT_ONCE))
        final = np.concatenate([np.zeros(1, np.int32), self._cells.final_id])
        finished: LabelArray = final[self._cells.index(self._labels.rows(start, stop))]
        self._emitted = stop
        self._labels.drop_above(self._emitted)
        self._forget_cells()
        return finished

    def _forget_cells(self) -> None:
        """Drop the first decided cells whose last row was returned: tables stay small."""
        in_use = self._cells.bottom[: self._n_decided] >= self._emitted
        n_done = int(in_use.argmax()) if in_use.any() else self._n_decided
        self._cells.forget(n_done)
        self._n_complete -= n_done
        self._n_decided -= n_done


def _cap_speed(flow: Float32Array) -> Float32Array:
    """Shorten flow vectors ``(2, rows, W)`` that are longer than ``MAX_SPEED`` after scaling."""
    longest = np.float32(MAX_SPEED * FLOW_SCALE)
    length = np.sqrt(np.square(flow).sum(axis=0))
    capped: Float32Array = flow * (longest / np.maximum(length, longest))
    return capped
