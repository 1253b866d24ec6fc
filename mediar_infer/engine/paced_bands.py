"""The streaming engine under a time budget: passes can be dropped while an image is computed.

Where ``bands.py`` adds all passes into one ring of rows, here every pass (one model, one flip) has
a ring and a sum of weights of its own. A pass can therefore be dropped from any row on, and its
windows can be laid further apart from any window on: each pass stays the weighted mean of the
windows that it has, and the maps stay the mean of the passes that are complete. Without a change
the maps are those of ``bands.py`` to float32 rounding.

Memory: ``roi_size × width × 16`` bytes per pass, where ``bands.py`` takes ``roi_size × width × 12``
bytes in all.
"""

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace

from mediar_infer.arrays import Float32Array
from mediar_infer.config import EngineConfig, FlipName, Plan
from mediar_infer.engine.array_ops import ArrayOps, DeviceArray
from mediar_infer.engine.bands import BAND_ROWS, RingOfRows, check_finite
from mediar_infer.engine.ensemble import Ensemble, InputRows, Window
from mediar_infer.engine.pacing import Pacer, Work
from mediar_infer.engine.packing import count_places, window_margins
from mediar_infer.engine.preprocess import Scaling
from mediar_infer.engine.windows import WindowGrid, continued_starts, importance_map
from mediar_infer.image_trace import Trace
from mediar_infer.images.sources import ImageSource
from mediar_infer.network.backends import Backend

_N_MAPS = 3


@dataclass(slots=True)
class _Pass:
    """One model with one flip on its way down the image."""

    member: int
    flip: FlipName
    overlap: float
    """Overlap of the windows still to be predicted."""
    ring: RingOfRows
    """Three weighted sums and the sum of weights."""
    tops: list[int]
    """First rows of the window rows still to be predicted, the current one first."""
    lefts: list[int]
    """First columns of the windows still to be predicted in the current row."""
    last_top: int | None = None
    """The previous window row; None at the start."""
    last_left: int | None = None
    """The previous window of the current row; None at its start."""
    ahead: deque[tuple[Window, DeviceArray]] = field(default_factory=deque)
    """Logits of the next windows, which were packed with earlier ones."""


class _Sweep:
    """All passes of an image, and how far each has come."""

    def __init__(
        self, height: int, width: int, config: EngineConfig, plan: Plan, ops: ArrayOps
    ) -> None:
        self._height, self._width, self._roi_size = height, width, config.roi_size
        self._ops = ops
        self._weights = ops.from_host(importance_map(config.roi_size))[None]
        self._margins = self._margins_of(plan)
        self._grids: dict[tuple[FlipName, float], WindowGrid] = {}
        self.done = 0
        self.passes = []
        for flip in plan.flips:
            grid = self._grid(flip, plan.overlap)
            for member in range(plan.max_members):
                ring = RingOfRows(config.roi_size, height, width, ops, _N_MAPS + 1)
                tops, lefts = list(grid.tops), list(grid.lefts)
                self.passes.append(_Pass(member, flip, plan.overlap, ring, tops, lefts))

    def _grid(self, flip: FlipName, overlap: float) -> WindowGrid:
        """Windows of a pass whose overlap does not change."""
        if (flip, overlap) not in self._grids:
            self._grids[flip, overlap] = WindowGrid.of_image(
                self._height, self._width, self._roi_size, overlap, flip
            )
        return self._grids[flip, overlap]

    def _margins_of(self, plan: Plan) -> tuple[int, int]:
        return window_margins(self._height, self._width, plan, self._roi_size)

    def count_places(self, plan: Plan) -> int:
        """Count the windows that a plan shows to the network at once."""
        return count_places(self._height, self._width, plan, self._roi_size)

    @property
    def top(self) -> int | None:
        """The next window row of any pass; None at the end of the image."""
        return min((each.tops[0] for each in self.passes if each.tops), default=None)

    @property
    def finished_to(self) -> int:
        """Row above which every pass is complete."""
        return self._height if self.top is None else max(self.top, 0)

    def _remaining(self, image_pass: _Pass, overlap: float) -> tuple[list[int], list[int]]:
        """Window rows still to be predicted, and the windows left in the first, at an overlap."""
        if overlap == image_pass.overlap or not image_pass.tops:
            return image_pass.tops, image_pass.lefts
        grid = self._grid(image_pass.flip, overlap)
        if image_pass.last_left is not None:
            top = image_pass.tops[0]
            below = continued_starts(top, self._height, self._roi_size, overlap)
            lefts = continued_starts(image_pass.last_left, self._width, self._roi_size, overlap)
            return [top, *below], lefts
        if image_pass.last_top is None:
            return list(grid.tops), list(grid.lefts)
        tops = continued_starts(image_pass.last_top, self._height, self._roi_size, overlap)
        return tops, list(grid.lefts)

    def follow(self, plan: Plan) -> None:
        """Drop the passes that are not in the plan; lay the remaining windows at its overlap."""
        self._margins = self._margins_of(plan)
        self.passes = [each for each in self.passes if _uses(plan, each)]
        for image_pass in self.passes:
            if plan.overlap != image_pass.overlap:
                image_pass.ahead.clear()
            image_pass.tops, image_pass.lefts = self._remaining(image_pass, plan.overlap)
            image_pass.overlap = plan.overlap

    def count_windows(self, plan: Plan) -> Sequence[int]:
        """Count per model the windows, or sheets of packed ones, that a plan would predict."""
        counts = [0] * plan.max_members
        for image_pass in self.passes:
            if image_pass.tops and _uses(plan, image_pass):
                counts[image_pass.member] += self._count_calls(image_pass, plan)
        return counts

    def _count_calls(self, image_pass: _Pass, plan: Plan) -> int:
        n_places = self.count_places(plan)
        tops, lefts = self._remaining(image_pass, plan.overlap)
        n_columns = len(self._grid(image_pass.flip, plan.overlap).lefts)
        n_below = len(tops) - 1
        if n_columns > 1:
            return -(-len(lefts) // n_places) + n_below * -(-n_columns // n_places)
        n_ahead = len(image_pass.ahead) if plan.overlap == image_pass.overlap else 0
        return -(-(len(lefts) + n_below - n_ahead) // n_places)

    def take_windows(self, image_pass: _Pass, n_windows: int) -> list[Window]:
        """Take the next windows of the current row of a pass."""
        lefts, image_pass.lefts = image_pass.lefts[:n_windows], image_pass.lefts[n_windows:]
        image_pass.last_left = lefts[-1]
        grid = self._packed_grid(image_pass)
        return [Window(image_pass.flip, grid, image_pass.tops[0], left) for left in lefts]

    def windows_below(self, image_pass: _Pass, n_windows: int) -> list[Window]:
        """List the next windows of a pass that has one in each row."""
        grid = self._packed_grid(image_pass)
        if len(grid.lefts) > 1:
            return []
        tops = image_pass.tops[1 : 1 + n_windows]
        return [Window(image_pass.flip, grid, top, grid.lefts[0]) for top in tops]

    def _packed_grid(self, image_pass: _Pass) -> WindowGrid:
        return replace(self._grid(image_pass.flip, image_pass.overlap), margins=self._margins)

    def end_row(self, image_pass: _Pass) -> None:
        """Move a pass to its next window row."""
        image_pass.last_top, image_pass.last_left = image_pass.tops[0], None
        image_pass.tops = image_pass.tops[1:]
        image_pass.lefts = list(self._grid(image_pass.flip, image_pass.overlap).lefts)

    def add(self, image_pass: _Pass, window: Window, logits: DeviceArray) -> None:
        """Add the logits of a window to its pass."""
        weights = window.grid.without_margins(self._weights)
        weighted = self._ops.concatenate([logits * weights, weights])
        image_pass.ring.add(window, weighted)

    def take_rows(self) -> Float32Array:
        """Take merged maps ``(3, rows, W)`` of rows that are finished and not taken yet."""
        end = min(self.done + BAND_ROWS, self.finished_to)
        merged = self._ops.zeros(_N_MAPS, end - self.done, self._width)
        for image_pass in self.passes:
            sums = image_pass.ring.take(self.done, end)
            merged += sums[:_N_MAPS] / sums[_N_MAPS]
        merged /= len(self.passes)
        self.done = end
        return self._ops.start_to_host(merged)()


def _uses(plan: Plan, image_pass: _Pass) -> bool:
    return image_pass.member < plan.max_members and image_pass.flip in plan.flips


def predict_paced_bands(
    source: ImageSource,
    scaling: Scaling,
    members: Sequence[Backend],
    config: EngineConfig,
    trace: Trace,
    pacer: Pacer,
) -> Generator[Float32Array, None, None]:
    """Predict the merged maps of an image, band by band, with the richest plan that time allows.

    Args:
        source: the image.
        scaling: its normalisation constants.
        members: the models, all on one device.
        config: window size and batch; the plan is the pacer's.
        trace: gains the stages ``read``, ``preprocess`` and ``network``, the progress, and a
            warning for each change of plan on the way.
        pacer: chooses the plan and watches the time.

    Yields:
        Bands from top to bottom without gaps; together they cover the image. A row's maps are the
        mean of the passes that the plan has when the row is finished.

    Raises:
        PredictionError: if the network's output is not finite.
    """
    rows = InputRows(source, scaling, trace)
    ensembles = [Ensemble([member], config, trace) for member in members]
    sweep = _Sweep(source.height, source.width, config, pacer.plan, ensembles[0].ops)
    runner = _PassRunner(source.height, config.roi_size, ensembles, rows, sweep, pacer)
    while (top := sweep.top) is not None:
        runner.read_for(top, top)
        with trace.stage("network"):
            runner.run_row(top)
        while (row := sweep.done) < sweep.finished_to:
            with trace.stage("network"):
                maps = sweep.take_rows()
            check_finite(maps, source.name, row)
            trace.on_progress(sweep.done / source.height)
            yield maps


class _PassRunner:
    """Predicts the windows of one window row, pass after pass, and times them."""

    def __init__(
        self,
        height: int,
        roi_size: int,
        ensembles: Sequence[Ensemble],
        rows: InputRows,
        sweep: _Sweep,
        pacer: Pacer,
    ) -> None:
        self._height, self._roi_size, self._ensembles = height, roi_size, ensembles
        self._rows, self._sweep, self._pacer = rows, sweep, pacer
        self._read_to = 0

    def read_for(self, first_top: int, last_top: int) -> None:
        """Read the rows of window rows, and forget those above."""
        self._read_to = max(self._read_to, min(last_top + self._roi_size, self._height))
        self._rows.move_to(max(first_top, 0), self._read_to)

    def run_row(self, top: int) -> None:
        """Predict the windows at ``top``, starting with the pass that would be dropped last."""
        self._review()
        # The passes are listed again for each batch: reviews change them.
        while passes := [each for each in self._sweep.passes if each.tops[:1] == [top]]:
            image_pass = passes[0]
            if image_pass.lefts:
                self._run_batch(image_pass)
                self._review()
            else:
                self._sweep.end_row(image_pass)

    def _run_batch(self, image_pass: _Pass) -> None:
        member = self._ensembles[image_pass.member]
        # One window of the first pass is part of every plan: it is timed before anything is chosen.
        n_windows = 1
        if self._pacer.costs.is_known:
            n_windows = member.batch * self._sweep.count_places(self._pacer.plan)
        top = image_pass.tops[0]
        windows = self._sweep.take_windows(image_pass, n_windows)
        if image_pass.ahead:
            self._sweep.add(image_pass, *image_pass.ahead.popleft())
            return
        below: list[Window] = []
        if self._sweep.count_places(self._pacer.plan) > 1:
            below = self._sweep.windows_below(image_pass, n_windows - len(windows))
            self.read_for(top, max(window.top for window in [*windows, *below]))
        before, start_s = member.n_predicted, self._pacer.now()
        for window, logits in member.predict([*windows, *below], self._rows):
            if window.top == top:
                self._sweep.add(image_pass, window, logits)
            else:
                image_pass.ahead.append((window, logits))
        member.ops.wait()
        # Windows that took no network time say nothing about the windows still to be predicted.
        if n_predicted := member.n_predicted - before:
            seconds = self._pacer.now() - start_s
            self._pacer.note_windows(image_pass.member, n_predicted, seconds)

    def _review(self) -> None:
        work = Work(
            row=self._sweep.done,
            n_rows_to_read=self._height - self._read_to,
            n_rows=self._height,
            n_windows=self._sweep.count_windows,
        )
        self._pacer.review(work)
        self._sweep.follow(self._pacer.plan)
