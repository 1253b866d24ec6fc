"""The streaming engine under a time budget: passes can be dropped while an image is computed.

Where ``engine.py`` adds all passes into one ring of rows, here every pass (one model, one flip) has
a ring and a sum of weights of its own. So a pass can be left out from any row on, and its windows
can be laid further apart from any window on: each pass stays the weighted mean of the windows that
it has, and the maps stay the mean of the passes that are complete. Without a change the maps are
those of ``engine.py`` to float32 rounding.

Memory: ``roi_size × width × 16`` bytes per pass, against ``roi_size × width × 12`` in all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mediar_infer.arrays import Float32Array
from mediar_infer.config import EngineConfig, FlipName, Plan
from mediar_infer.engine.bands import (
    BAND_ROWS,
    InputRows,
    MapBand,
    Members,
    RingOfRows,
    Window,
    check_finite,
)
from mediar_infer.engine.pacing import Pacer, Work
from mediar_infer.engine.preprocess import Scaling
from mediar_infer.engine.windows import WindowGrid, continued_starts, importance_map
from mediar_infer.images.sources import ImageSource
from mediar_infer.network.backends import Backend
from mediar_infer.stopwatch import Stopwatch

_N_MAPS = 3


@dataclass(slots=True)
class _Pass:
    """One model with one flip on its way down the image."""

    member: int
    flip: FlipName
    overlap: float
    """Overlap at which the windows to come are laid."""
    ring: RingOfRows
    """Three weighted sums and the sum of weights."""
    tops: list[int]
    """Rows of windows to come, the one at work first."""
    lefts: list[int]
    """Windows to come in the row at work."""
    last_top: int | None = None
    """The row of windows before; none at the start."""
    last_left: int | None = None
    """The window before in the row at work; none at its start."""


class _Sweep:
    """All passes of an image, and how far each has come."""

    def __init__(
        self, height: int, width: int, config: EngineConfig, plan: Plan, device: torch.device
    ) -> None:
        self._height, self._width, self._roi_size = height, width, config.roi_size
        self._weights = torch.from_numpy(importance_map(config.roi_size).copy()).to(device)[None]
        self._grids: dict[tuple[FlipName, float], WindowGrid] = {}
        self.done = 0
        self.passes = []
        for flip in plan.flips:
            grid = self._grid(flip, plan.overlap)
            for member in range(plan.max_members):
                ring = RingOfRows(config.roi_size, width, device, n_channels=_N_MAPS + 1)
                tops, lefts = list(grid.tops), list(grid.lefts)
                self.passes.append(_Pass(member, flip, plan.overlap, ring, tops, lefts))

    def _grid(self, flip: FlipName, overlap: float) -> WindowGrid:
        """Windows of a pass that keeps to one overlap."""
        if (flip, overlap) not in self._grids:
            self._grids[flip, overlap] = WindowGrid.of_image(
                self._height,
                self._width,
                self._roi_size,
                overlap,
                flip_rows=flip == "vertical",
                flip_columns=flip == "horizontal",
            )
        return self._grids[flip, overlap]

    @property
    def top(self) -> int | None:
        """The next row of windows, of any pass; none at the end of the image."""
        return min((each.tops[0] for each in self.passes if each.tops), default=None)

    @property
    def finished_to(self) -> int:
        """Row above which no pass has a window to come."""
        return self._height if self.top is None else max(self.top, 0)

    def _to_come(self, each: _Pass, overlap: float) -> tuple[list[int], list[int]]:
        """Rows of windows to come and windows to come in the first of them, at an overlap."""
        if overlap == each.overlap or not each.tops:
            return each.tops, each.lefts
        grid = self._grid(each.flip, overlap)
        if each.last_left is not None:
            top = each.tops[0]
            below = continued_starts(top, self._height, self._roi_size, overlap)
            lefts = continued_starts(each.last_left, self._width, self._roi_size, overlap)
            return [top, *below], lefts
        if each.last_top is None:
            return list(grid.tops), list(grid.lefts)
        tops = continued_starts(each.last_top, self._height, self._roi_size, overlap)
        return tops, list(grid.lefts)

    def follow(self, plan: Plan) -> None:
        """Drop the passes that the plan does without; lay windows to come at its overlap."""
        self.passes = [each for each in self.passes if _uses(plan, each)]
        for each in self.passes:
            each.tops, each.lefts = self._to_come(each, plan.overlap)
            each.overlap = plan.overlap

    def count_windows(self, plan: Plan) -> Sequence[int]:
        """Windows per model that a plan would still predict."""
        counts = [0] * plan.max_members
        for each in self.passes:
            if each.tops and _uses(plan, each):
                tops, lefts = self._to_come(each, plan.overlap)
                n_columns = len(self._grid(each.flip, plan.overlap).lefts)
                counts[each.member] += len(lefts) + (len(tops) - 1) * n_columns
        return counts

    def take_windows(self, each: _Pass, n_windows: int) -> list[Window]:
        """The next windows of the row that a pass is at."""
        lefts, each.lefts = each.lefts[:n_windows], each.lefts[n_windows:]
        each.last_left = lefts[-1]
        grid = self._grid(each.flip, each.overlap)
        return [Window(each.flip, grid, each.tops[0], left) for left in lefts]

    def end_row(self, each: _Pass) -> None:
        """Move a pass to its next row of windows."""
        each.last_top, each.last_left = each.tops[0], None
        each.tops = each.tops[1:]
        each.lefts = list(self._grid(each.flip, each.overlap).lefts)

    def add(self, each: _Pass, window: Window, logits: torch.Tensor) -> None:
        """Add the logits ``(3, roi, roi)`` of a window to its pass."""
        weighted = torch.cat([logits * self._weights, self._weights])
        each.ring.add(window, weighted, self._height, self._width)

    def take_rows(self) -> Float32Array:
        """Merged maps ``(3, rows, W)`` of some rows that are finished and not taken yet."""
        end = min(self.done + BAND_ROWS, self.finished_to)
        merged = np.zeros((_N_MAPS, end - self.done, self._width), dtype=np.float32)
        for each in self.passes:
            sums = each.ring.take(self.done, end)
            merged += sums[:_N_MAPS] / sums[_N_MAPS]
        merged /= len(self.passes)
        self.done = end
        return merged


def _uses(plan: Plan, each: _Pass) -> bool:
    return each.member < plan.max_members and each.flip in plan.flips


def predict_paced_bands(
    source: ImageSource,
    scaling: Scaling,
    members: Sequence[Backend],
    config: EngineConfig,
    stopwatch: Stopwatch,
    pacer: Pacer,
) -> Iterator[MapBand]:
    """Predict the merged maps of an image, band by band, as richly as time allows.

    Args:
        source: the image; gains a warning for each change of plan on the way.
        scaling: its normalisation constants.
        members: the models, all on one device.
        config: window size and batch; the plan is the pacer's.
        stopwatch: gains the stages ``read``, ``preprocess`` and ``network``.
        pacer: chooses the plan, and watches the time.

    Yields:
        Bands from top to bottom without gaps; together they cover the image. A row's maps are the
        mean of the passes that the plan has when the row is finished.

    Raises:
        PredictionError: if the network's output is not finite.
    """
    rows = InputRows(source, scaling, stopwatch)
    sweep = _Sweep(source.height, source.width, config, pacer.plan, members[0].device)
    runner = _PassRunner(source, members, config, rows, sweep, pacer)
    while (top := sweep.top) is not None:
        rows.move_to(max(top, 0), min(top + config.roi_size, source.height))
        runner.read_to = min(top + config.roi_size, source.height)
        with stopwatch("network"):
            runner.run_row(top)
        while (row := sweep.done) < sweep.finished_to:
            with stopwatch("network"):
                maps = sweep.take_rows()
            check_finite(maps, source.name, row)
            yield MapBand(row, maps)


class _PassRunner:
    """Predicts the windows of one row of windows, pass after pass, and times them."""

    def __init__(
        self,
        source: ImageSource,
        members: Sequence[Backend],
        config: EngineConfig,
        rows: InputRows,
        sweep: _Sweep,
        pacer: Pacer,
    ) -> None:
        self._source, self._rows, self._sweep, self._pacer = source, rows, sweep, pacer
        self._members = [Members([member], config) for member in members]
        self.read_to = 0

    def run_row(self, top: int) -> None:
        """Predict the windows at ``top``: first those of the pass that is dropped last."""
        self._review()
        # A look at the passes for each batch: reviews change them.
        while waiting := [each for each in self._sweep.passes if each.tops[:1] == [top]]:
            each = waiting[0]
            if each.lefts:
                self._run_batch(each)
                self._review()
            else:
                self._sweep.end_row(each)

    def _run_batch(self, each: _Pass) -> None:
        member = self._members[each.member]
        # One window of the first pass is part of every plan: it is timed before anything is chosen.
        n_windows = member.batch if self._pacer.costs.is_known else 1
        windows = self._sweep.take_windows(each, n_windows)
        before, began = member.n_predicted, self._pacer.now()
        for window, logits in member.predict_logits(windows, self._rows, self._source):
            self._sweep.add(each, window, logits)
        _wait_for(member.device)
        # Windows that took no time of the network tell nothing of those to come.
        if n_predicted := member.n_predicted - before:
            self._pacer.note_windows(each.member, n_predicted, self._pacer.now() - began)

    def _review(self) -> None:
        n_told = len(self._pacer.warnings)
        work = Work(
            row=self._sweep.done,
            n_rows_to_read=self._source.height - self.read_to,
            n_windows=self._sweep.count_windows,
        )
        self._pacer.review(work)
        self._source.warnings += self._pacer.warnings[n_told:]
        self._sweep.follow(self._pacer.plan)


def _wait_for(device: torch.device) -> None:
    """Calls of an accelerator return before their work is done, which would not be timed."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
