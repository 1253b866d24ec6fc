"""Models × flips × windows → bands of merged maps, streaming from top to bottom.

All passes move down the image together and add into one ring of ``roi_size`` rows: every window's
weights are divided beforehand by the sum over its own pass (``windows.py``), so the sum over
passes divided by their number is the released result. A row leaves the ring when no later window
of any pass touches it. Memory therefore grows with the width of the image, never with its height.

A band is a ``(3, rows, W)`` float32 array: FLOW_Y, FLOW_X (network scale), CELLPROB (mean logit).
Bands come without gaps, so their place in the image follows from their order.
"""

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import lru_cache, partial
from itertools import islice
from typing import Final

import numpy as np
import numpy.typing as npt

from mediar_infer.arrays import Float32Array
from mediar_infer.config import EngineConfig
from mediar_infer.engine.array_ops import ArrayOps, DeviceArray
from mediar_infer.engine.ensemble import Ensemble, InputRows, Window
from mediar_infer.engine.packing import count_places, window_margins
from mediar_infer.engine.preprocess import Scaling
from mediar_infer.engine.windows import WindowGrid, normalised_importance
from mediar_infer.errors import PredictionError
from mediar_infer.image_trace import Trace
from mediar_infer.images.sources import ImageSource
from mediar_infer.network.backends import Backend

logger = logging.getLogger(__name__)

BAND_ROWS: Final = 64
"""Most rows of a band: what is computed from one is held next to the rows that wait."""
_SHEETS_AT_ONCE: Final = 4
"""Windows of several rows are packed together until so many sheets are full."""


class RingOfRows:
    """Accumulator of ``roi_size`` rows on a device; image row y lies at y modulo ``roi_size``.

    Args:
        roi_size: side of the windows: the number of rows held.
        height: rows of the image.
        width: columns of the image.
        ops: operations on the device where the sums are kept.
        n_channels: values per pixel.
    """

    def __init__(
        self, roi_size: int, height: int, width: int, ops: ArrayOps, n_channels: int = 3
    ) -> None:
        self._size, self._height, self._width, self._ops = roi_size, height, width, ops
        self._sums = ops.zeros(n_channels, roi_size, width)

    def _pieces(self, top: int, bottom: int) -> Iterator[tuple[slice, slice]]:
        """Rows ``top`` … ``bottom - 1`` as (ring rows, rows counted from ``top``)."""
        row = top
        while row < bottom:
            place = row % self._size
            n = min(self._size - place, bottom - row)
            yield slice(place, place + n), slice(row - top, row - top + n)
            row += n

    def add(self, window: Window, weighted: DeviceArray) -> None:
        """Add a window to the sums; the part outside the image is ignored.

        The rows of the window inside the image must be in the ring: not taken yet, and fewer than
        ``roi_size`` below the first row that is not.

        Args:
            window: where the values lie.
            weighted: ``(channels, h, w)`` float32 on the ring's device, the window without its
                margins: logits times importance weights. Not modified.
        """
        first_row = window.top + window.grid.margins[0]
        first_column = window.left + window.grid.margins[1]
        height, width = window.grid.part_shape
        top, bottom = max(first_row, 0), min(first_row + height, self._height)
        left, right = max(first_column, 0), min(first_column + width, self._width)
        inside = weighted[:, top - first_row :, left - first_column : right - first_column]
        for ring, rows in self._pieces(top, bottom):
            self._sums[:, ring, left:right] += inside[:, rows]

    def take(self, top: int, bottom: int) -> DeviceArray:
        """Take finished rows out of the ring and make room for the rows below.

        Args:
            top: first image row.
            bottom: row after the last one; at most ``roi_size`` rows.

        Returns:
            ``(channels, bottom - top, W)`` float32 sums on the device, a new array owned by the
            caller. In the ring these rows are zero afterwards.
        """
        pieces = [self._sums[:, ring] for ring, _ in self._pieces(top, bottom)]
        taken = self._ops.concatenate(pieces, axis=1)
        for piece in pieces:
            piece[...] = 0
        return taken


def _windows_by_top(height: int, width: int, config: EngineConfig) -> dict[int, list[Window]]:
    windows: dict[int, list[Window]] = {}
    for flip in config.plan.flips:
        grid = WindowGrid.of_image(
            height,
            width,
            config.roi_size,
            config.plan.overlap,
            flip,
            margins=window_margins(height, width, config.plan, config.roi_size),
        )
        for top in grid.tops:
            row = windows.setdefault(top, [])
            row.extend(Window(flip, grid, top, left) for left in grid.lefts)
    return dict(sorted(windows.items()))


def _group_window_rows(
    height: int, width: int, config: EngineConfig
) -> list[list[tuple[int, list[Window]]]]:
    """Window rows, and which of them are predicted together: several where windows are packed.

    The groups are those of the whole image, so a window has the same neighbours in its sheet
    whatever rows are asked for.
    """
    groups: list[list[tuple[int, list[Window]]]] = []
    n_places = count_places(height, width, config.plan, config.roi_size)
    n_wanted = n_held = _SHEETS_AT_ONCE * n_places if n_places > 1 else 1
    for top, windows in _windows_by_top(height, width, config).items():
        if n_held >= n_wanted:
            groups.append([])
            n_held = 0
        groups[-1].append((top, windows))
        n_held += len(windows)
    return groups


def list_window_rows(height: int, width: int, config: EngineConfig) -> list[int]:
    """List the image rows at which windows of any pass begin.

    Ranges of rows that end there share the fewest windows with each other, which makes these rows
    the best places to split an image between workers.

    Args:
        height: rows of the image.
        width: columns of the image.
        config: flips, overlap and window size.

    Returns:
        Rows in increasing order; the first one is 0, as a window that starts above the image
        counts from its first row.
    """
    return sorted({max(top, 0) for top in _windows_by_top(height, width, config)})


def count_windows(height: int, width: int, config: EngineConfig, n_members: int) -> int:
    """Count the single-window forward passes that an image takes.

    Args:
        height: rows of the image.
        width: columns of the image.
        config: flips, overlap and window size.
        n_members: number of models.
    """
    grid = WindowGrid.of_image(height, width, config.roi_size, config.plan.overlap)
    return len(grid.tops) * len(grid.lefts) * len(config.plan.flips) * n_members


class NormalisedWeights:
    """Importance weights of windows, normalised over all windows of a pass.

    Args:
        ops: operations on the device where the weights are kept.
    """

    def __init__(self, ops: ArrayOps) -> None:
        # Most windows of an image lie alike among their neighbours: few maps serve all. The cache
        # must not hold this object: in a cycle, the maps would outlive their image.
        self._cached = lru_cache(maxsize=64)(partial(_importance_on_device, ops))

    def of_window(self, window: Window) -> DeviceArray:
        """Look up the weights of a window without its margins; not to be modified."""
        neighbours = window.grid.neighbours(window.top, window.left)
        return window.grid.without_margins(self._cached(window.grid.roi_size, *neighbours))


def _importance_on_device(
    ops: ArrayOps, roi_size: int, rows: tuple[int, ...], columns: tuple[int, ...]
) -> DeviceArray:
    return ops.from_host(normalised_importance(roi_size, rows, columns))


class _FinishedRows:
    """Rows that no further window touches: from the ring to the host, some bands in flight.

    Args:
        ring: the sums of all passes.
        n_passes: by which they are divided.
        ops: operations on the device of the ring.
        trace: gains the stage ``network``.
        top: first row that is in the ring.
        rows: first row that is wanted and row after the last one; what is above is dropped.
    """

    def __init__(
        self,
        ring: RingOfRows,
        n_passes: int,
        ops: ArrayOps,
        trace: Trace,
        top: int,
        rows: tuple[int, int],
    ) -> None:
        self._ring, self._n_passes, self._ops, self._trace = ring, n_passes, ops, trace
        self._taken = top
        self._start, self._stop = rows
        self._waiting: deque[Callable[[], Float32Array]] = deque()

    def take_to(self, bottom: int) -> Iterator[Float32Array]:
        """Take the rows above ``bottom``; yield the bands ``(3, rows, W)`` that have arrived."""
        while self._taken < min(bottom, self._stop):
            end = min(self._taken + BAND_ROWS, bottom, self._stop)
            with self._trace.stage("network"):
                sums = self._ring.take(self._taken, end)[:, max(self._start - self._taken, 0) :]
                sums /= self._n_passes
                if sums.shape[1]:
                    self._waiting.append(self._ops.start_to_host(sums))
            self._taken = end
            # No windows follow the last bands.
            n_held = self._ops.bands_in_flight if end < self._stop else 0
            while len(self._waiting) > n_held:
                with self._trace.stage("network"):
                    maps = self._waiting.popleft()()
                yield maps


def predict_bands(
    source: ImageSource,
    scaling: Scaling,
    members: Sequence[Backend],
    config: EngineConfig,
    trace: Trace,
    rows: tuple[int, int] | None = None,
) -> Generator[Float32Array, None, None]:
    """Predict the merged maps of an image, or of some of its rows, band by band.

    A row is always summed over the same windows in the same order, so its maps are the same to the
    last bit whatever rows are asked for.

    Args:
        source: the image.
        scaling: its normalisation constants.
        members: the models of the ensemble, all on one device.
        config: plan (flips, overlap) and window size.
        trace: gains the stages ``read``, ``preprocess`` and ``network``, and the progress.
        rows: first row and row after the last one; by default all.

    Yields:
        Bands ``(3, rows, W)`` from top to bottom without gaps; together they cover the rows.

    Raises:
        PredictionError: if the network's output is not finite.
    """
    start, stop = rows or (0, source.height)
    ensemble = Ensemble(members, config, trace)
    height, width = source.height, source.width
    weights = NormalisedWeights(ensemble.ops)
    ring = RingOfRows(config.roi_size, height, width, ensemble.ops)
    groups = [
        group
        for group in _group_window_rows(height, width, config)
        if any(top < stop and top + config.roi_size > start for top, _ in group)
    ]
    n_windows = count_windows(height, width, config, len(members))
    logger.debug("%s: %dx%d, %d windows in all", source.name, height, width, n_windows)
    n_passes = len(members) * len(config.plan.flips)
    tops = [max(top, 0) for group in groups for top, _ in group]
    ends = iter([*tops[1:], stop])
    finished = _FinishedRows(ring, n_passes, ensemble.ops, trace, tops[0], (start, stop))
    inputs = InputRows(source, scaling, trace, tops[0])
    row = start
    for group in groups:
        inputs.move_to(max(group[0][0], 0), min(group[-1][0] + config.roi_size, height))
        # Windows are predicted as they are taken.
        predicted = ensemble.predict([each for _, windows in group for each in windows], inputs)
        for (top, windows), end in zip(group, ends, strict=False):
            if top >= stop:
                break  # only there to be packed with windows above
            with trace.stage("network"):
                for window, logits in islice(predicted, len(windows)):
                    ring.add(window, logits * weights.of_window(window))
            if top == group[-1][0]:
                predicted.close()  # gives back the last batch
            for maps in finished.take_to(end):
                check_finite(maps, source.name, row)
                row += maps.shape[1]
                trace.on_progress((row - start) / (stop - start))
                yield maps


def check_finite(maps: npt.NDArray[np.float32], name: str, top: int) -> None:
    """Refuse merged maps that are not finite.

    Raises:
        PredictionError: naming the image and the first row of the band.
    """
    # One sum is NaN or infinite if any value is, and needs no array of flags.
    with np.errstate(invalid="ignore"):
        total = maps.sum(dtype=np.float64)
    if not np.isfinite(total):
        raise PredictionError(
            f"{name}: found NaN or infinity in the network's output from row {top} on, expected"
            " finite maps; run with --precision float32 (or bfloat16) and check the weights with"
            " 'weights verify'"
        )
