"""Models × flips × windows → bands of merged maps, streaming from top to bottom.

All passes move down the image together and add into one ring of ``roi_size`` rows: every window's
weights are divided beforehand by the sum over its own pass (``windows.py``), so the sum over
passes divided by their number is the released result. A row leaves the ring when no later window
of any pass touches it. Memory therefore grows with the width of the image, never with its height.

A band is a ``(3, rows, W)`` float32 array: FLOW_Y, FLOW_X (network scale), CELLPROB (mean logit).
Bands come without gaps, so their place in the image follows from their order.
"""

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from mediar_infer.arrays import AnyArray, Float32Array
from mediar_infer.config import EngineConfig, FlipName
from mediar_infer.engine.array_ops import ArrayOps, DeviceArray, select_array_ops
from mediar_infer.engine.preprocess import Scaling
from mediar_infer.engine.tta import flip_windows, unflip_logits
from mediar_infer.engine.windows import WindowGrid, normalised_importance
from mediar_infer.errors import PredictionError
from mediar_infer.image_trace import Trace
from mediar_infer.images.sources import ImageSource
from mediar_infer.network.backends import Backend
from mediar_infer.row_buffer import RowBuffer

logger = logging.getLogger(__name__)

BAND_ROWS: Final = 64
"""Most rows of a band: what is computed from one is held next to the rows that wait."""
_ROWS_READ_AT_ONCE: Final = 16
_MAX_BLANK = 4
"""Colours whose logits are kept for later windows of that single colour; 3 MiB each."""
_WindowKey = tuple[int, ...] | int
"""Colour of a window of a single colour, otherwise its place in the batch."""


@dataclass(frozen=True, slots=True)
class Window:
    """One place where the network looks, in one pass."""

    flip: FlipName
    grid: WindowGrid
    top: int
    left: int


class InputRows:
    """Normalised rows of an image, each read and normalised once, from top to bottom.

    Args:
        source: the image.
        scaling: its normalisation constants.
        trace: gains the stages ``read`` and ``preprocess``.
        top: first row that is needed.
    """

    def __init__(self, source: ImageSource, scaling: Scaling, trace: Trace, top: int = 0) -> None:
        self._source, self._scaling, self._trace = source, scaling, trace
        normalised = scaling.apply(np.zeros((0, source.width, 3), source.dtype))
        self._rows = RowBuffer((3, source.width), normalised.dtype, top)

    def move_to(self, top: int, bottom: int) -> None:
        """Hold rows ``top`` … ``bottom - 1`` of the image; never moves up."""
        self._rows.drop_above(top)
        for first in range(self._rows.bottom, bottom, _ROWS_READ_AT_ONCE):
            with self._trace.stage("read"):
                fresh = self._source.read_rows(first, min(first + _ROWS_READ_AT_ONCE, bottom))
            with self._trace.stage("preprocess"):
                self._rows.append(self._scaling.apply(fresh).transpose(2, 0, 1))

    def crop(self, window: Window) -> AnyArray:
        """Copy the pixels of a window: ``(3, roi, roi)`` uint8, zero outside the image."""
        size = window.grid.roi_size
        return self._rows.crop(window.top, window.left, size, size)


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
        self._size, self._height, self._width = roi_size, height, width
        self._ops, self._n_channels = ops, n_channels
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
            weighted: ``(channels, roi_size, roi_size)`` float32 on the ring's device, logits
                times importance weights. Not modified.
        """
        top, bottom = max(window.top, 0), min(window.top + self._size, self._height)
        left, right = max(window.left, 0), min(window.left + self._size, self._width)
        inside = weighted[:, top - window.top :, left - window.left : right - window.left]
        for ring, rows in self._pieces(top, bottom):
            self._sums[:, ring, left:right] += inside[:, rows]

    def take(self, top: int, bottom: int) -> Float32Array:
        """Take finished rows out of the ring and make room for the rows below.

        Args:
            top: first image row.
            bottom: row after the last one; at most ``roi_size`` rows.

        Returns:
            ``(channels, bottom - top, W)`` float32 sums on the host, a new array owned by the
            caller. In the ring these rows are zero afterwards.
        """
        taken = np.empty((self._n_channels, bottom - top, self._width), dtype=np.float32)
        for ring, rows in self._pieces(top, bottom):
            taken[:, rows] = self._ops.to_host(self._sums[:, ring])
            self._sums[:, ring] = 0
        return taken


def _windows_by_top(height: int, width: int, config: EngineConfig) -> dict[int, list[Window]]:
    windows: dict[int, list[Window]] = {}
    for flip in config.plan.flips:
        grid = WindowGrid.of_image(
            height,
            width,
            config.roi_size,
            config.plan.overlap,
            flip_rows=flip == "vertical",
            flip_columns=flip == "horizontal",
        )
        for top in grid.tops:
            row = windows.setdefault(top, [])
            row.extend(Window(flip, grid, top, left) for left in grid.lefts)
    return dict(sorted(windows.items()))


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


class Ensemble:
    """All members on one device: predicts windows of one image in batches that fit the device.

    Args:
        members: the models.
        config: batch and window size.
        trace: gains a warning where device memory forces a smaller batch.
    """

    def __init__(self, members: Sequence[Backend], config: EngineConfig, trace: Trace) -> None:
        self.ops = select_array_ops(members[0].device)
        """Operations on the device of the members."""
        self.batch = config.runtime.batch or members[0].batch
        """Windows per call; halved when device memory is full."""
        self.n_predicted = 0
        """Windows that went through the network; the others were of a single, known colour."""
        self._members, self._trace = members, trace
        self._blank: dict[_WindowKey, DeviceArray] = {}

    def predict(
        self, windows: Sequence[Window], rows: InputRows
    ) -> Iterator[tuple[Window, DeviceArray]]:
        """Predict windows, batch by batch.

        Args:
            windows: windows of any pass.
            rows: holds all image rows that the windows touch.

        Yields:
            Each window, in the given order, with its logits summed over the members:
            ``(3, roi, roi)`` float32 on the device, unflipped, not weighted. Arrays may share
            memory and must not be modified.

        Raises:
            RuntimeError: as torch raises it, if device memory does not suffice for a single window.
        """
        first = 0
        while first < len(windows):
            group = windows[first : first + self.batch]
            crops = [rows.crop(window) for window in group]
            # Windows of a single colour are the same to the network wherever they lie and however
            # they are flipped: each colour is predicted once. All others are known by their place.
            keys: list[_WindowKey] = [_only_colour(crop) or i for i, crop in enumerate(crops)]
            fresh = {key: keys.index(key) for key in keys if key not in self._blank}
            logits = self._blank.copy()
            try:
                if fresh:
                    inputs = self._to_inputs(crops, group, list(fresh.values()))
                    # All are started before the first is waited for, so that no core is idle.
                    sums = _wait_for_sum([member.start(inputs) for member in self._members])
                    logits.update(zip(fresh, sums, strict=True))
                    self.n_predicted += len(inputs)
                outputs = [
                    unflip_logits(logits[key], window.flip, self.ops)
                    for key, window in zip(keys, group, strict=True)
                ]
                self._keep_blank({key: logits[key] for key in fresh if isinstance(key, tuple)})
            except self.ops.out_of_memory:
                if len(group) == 1:
                    raise
                logits.clear()  # frees device memory for the smaller batch
                self.batch = len(group) // 2
                self._trace.warn(f"device memory is full; batch is now {self.batch}")
                continue
            first += len(group)
            yield from zip(group, outputs, strict=True)

    def _to_inputs(
        self, crops: Sequence[AnyArray], group: Sequence[Window], places: Sequence[int]
    ) -> DeviceArray:
        """Flip and stack some of the crops: ``(n, 3, roi, roi)`` float32 in [0, 1]."""
        inputs = self.ops.to_inputs([crops[i] for i in places])
        flips = [group[i].flip for i in places]
        return self.ops.stack(
            [flip_windows(x, flip, self.ops) for x, flip in zip(inputs, flips, strict=True)]
        )

    def _keep_blank(self, logits: Mapping[_WindowKey, DeviceArray]) -> None:
        """Keep logits of single colours for later windows, the latest few."""
        self._blank |= {colour: self.ops.copy(maps) for colour, maps in logits.items()}
        for colour in list(self._blank)[:-_MAX_BLANK]:
            del self._blank[colour]


class NormalisedWeights:
    """Importance weights of windows, normalised over all windows of a pass.

    Args:
        ops: operations on the device where the weights are kept.
    """

    def __init__(self, ops: ArrayOps) -> None:
        self._ops = ops
        # Most windows of an image lie alike among their neighbours: few maps serve all.
        self._cached = lru_cache(maxsize=64)(self._make)

    def _make(self, roi_size: int, rows: tuple[int, ...], columns: tuple[int, ...]) -> DeviceArray:
        return self._ops.from_host(normalised_importance(roi_size, rows, columns))

    def of_window(self, window: Window) -> DeviceArray:
        """Look up the weights of a window: ``(roi, roi)`` float32, not to be modified."""
        neighbours = window.grid.neighbours(window.top, window.left)
        return self._cached(window.grid.roi_size, *neighbours)


def _wait_for_sum(running: Sequence[Callable[[], DeviceArray]]) -> DeviceArray:
    """Wait for the members' logits and add them up."""
    first, *others = running
    logits = first()
    for finish in others:
        logits += finish()
    return logits


def _only_colour(crop: AnyArray) -> tuple[int, ...] | None:
    """The colour of a window ``(3, roi, roi)`` that has one only."""
    first = crop[:, :1, :1]
    # A few pixels tell most windows apart.
    if not bool((crop[:, ::64, ::64] == first).all()) or not bool((crop == first).all()):
        return None
    return tuple(first.flatten().tolist())


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
    height, width = source.height, source.width
    start, stop = rows or (0, height)
    ensemble = Ensemble(members, config, trace)
    weights = NormalisedWeights(ensemble.ops)
    ring = RingOfRows(config.roi_size, height, width, ensemble.ops)
    by_top = {
        top: windows
        for top, windows in _windows_by_top(height, width, config).items()
        if top < stop and top + config.roi_size > start
    }
    n_windows = count_windows(height, width, config, len(members))
    logger.debug("%s: %dx%d, %d windows in all", source.name, height, width, n_windows)
    n_passes = len(members) * len(config.plan.flips)
    tops = [max(top, 0) for top in by_top]
    done = tops[0]
    inputs = InputRows(source, scaling, trace, done)
    for (top, windows), end in zip(by_top.items(), [*tops[1:], stop], strict=True):
        inputs.move_to(max(top, 0), min(top + config.roi_size, height))
        with trace.stage("network"):
            for window, logits in ensemble.predict(windows, inputs):
                ring.add(window, logits * weights.of_window(window))
        while done < end:
            bottom = min(done + BAND_ROWS, end)
            with trace.stage("network"):
                maps = ring.take(done, bottom)[:, max(start - done, 0) :]
                maps /= n_passes
            done = bottom
            if maps.shape[1]:
                check_finite(maps, source.name, done - maps.shape[1])
                trace.on_progress((done - start) / (stop - start))
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
