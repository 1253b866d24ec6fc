"""Models x flips x windows → finished rows of merged maps, streaming from top to bottom.

All passes go down the image together and add into one ring of ``roi_size`` rows: every window's
weights are divided beforehand by the sum over its own pass (``windows.py``), so the sum over
passes, over their number, is the released result. A row leaves the ring when no later window of
any pass touches it. Memory therefore grows with the width of the image, never with its height.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mediar_infer.arrays import Float32Array
from mediar_infer.config import EngineConfig, FlipName
from mediar_infer.engine.preprocess import Scaling
from mediar_infer.engine.tta import flip_inputs, unflip_logits
from mediar_infer.engine.windows import WindowGrid, normalised_importance
from mediar_infer.errors import PredictionError
from mediar_infer.images.sources import ImageSource
from mediar_infer.network.backends import Backend
from mediar_infer.row_buffer import RowBuffer
from mediar_infer.stopwatch import Stopwatch

logger = logging.getLogger(__name__)

BAND_ROWS: Final = 64
"""Most rows of a band: what is made of one is held beside the rows that wait."""
_ROWS_READ_AT_ONCE: Final = 16
_MAX_BLANK = 4
"""Colours whose logits are kept for further windows of one colour; 3 MiB each."""
_WindowKey = tuple[int, ...] | int
"""Colour of a window that has one only, else its place in the batch."""


@dataclass(frozen=True, slots=True)
class MapBand:
    """Finished rows of the merged maps."""

    top: int
    """Image row of the first row."""
    maps: Float32Array
    """``(3, rows, W)``: FLOW_Y, FLOW_X (network scale), CELLPROB (mean logit)."""


@dataclass(frozen=True, slots=True)
class Window:
    """One place where the network looks, in one pass."""

    flip: FlipName
    grid: WindowGrid
    top: int
    left: int


class InputRows:
    """Normalised rows of the image from ``top`` on, each read and normalised once."""

    def __init__(
        self, source: ImageSource, scaling: Scaling, stopwatch: Stopwatch, top: int = 0
    ) -> None:
        self._source, self._scaling, self._stopwatch = source, scaling, stopwatch
        normalised = scaling.apply(np.zeros((0, source.width, 3), source.dtype))
        self._rows = RowBuffer((3, source.width), normalised.dtype, top)

    def move_to(self, top: int, bottom: int) -> None:
        """Hold rows ``top`` … ``bottom`` of the image; must not move up."""
        self._rows.drop_above(top)
        for first in range(self._rows.bottom, bottom, _ROWS_READ_AT_ONCE):
            with self._stopwatch("read"):
                fresh = self._source.read_rows(first, min(first + _ROWS_READ_AT_ONCE, bottom))
            with self._stopwatch("preprocess"):
                self._rows.append(self._scaling.apply(fresh).transpose(2, 0, 1))

    def crop(self, window: Window) -> Tensor:
        """``(3, roi, roi)`` uint8, zero outside the image."""
        size = window.grid.roi_size
        return torch.from_numpy(self._rows.crop(window.top, window.left, size, size))


class RingOfRows:
    """Accumulator ``(channels, roi_size, W)``; image row y lies at y modulo roi_size."""

    def __init__(
        self, roi_size: int, width: int, device: torch.device, n_channels: int = 3
    ) -> None:
        self._size = roi_size
        self._sums = torch.zeros(n_channels, roi_size, width, dtype=torch.float32, device=device)

    def _pieces(self, top: int, bottom: int) -> Iterator[tuple[slice, slice]]:
        """Rows ``top`` … ``bottom`` as (ring rows, rows counted from ``top``)."""
        row = top
        while row < bottom:
            place = row % self._size
            n = min(self._size - place, bottom - row)
            yield slice(place, place + n), slice(row - top, row - top + n)
            row += n

    def add(self, window: Window, weighted: Tensor, height: int, width: int) -> None:
        """Add ``(channels, roi, roi)`` of a window, leaving out what lies outside the image."""
        top, bottom = max(window.top, 0), min(window.top + self._size, height)
        left, right = max(window.left, 0), min(window.left + self._size, width)
        inside = weighted[:, top - window.top :, left - window.left : right - window.left]
        for ring, rows in self._pieces(top, bottom):
            self._sums[:, ring, left:right] += inside[:, rows]

    def take(self, top: int, bottom: int) -> Float32Array:
        """Rows ``top`` … ``bottom``, which are zero afterwards."""
        n_channels, _, width = self._sums.shape
        taken = np.empty((n_channels, bottom - top, width), dtype=np.float32)
        for ring, rows in self._pieces(top, bottom):
            taken[:, rows] = self._sums[:, ring].cpu().numpy()
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
    """Image rows at which windows of any pass begin, increasing; the first one is 0.

    A range of rows between two of them is finished by :func:`predict_bands` with the fewest
    windows that it shares with other ranges.
    """
    return sorted({max(top, 0) for top in _windows_by_top(height, width, config)})


def count_windows(height: int, width: int, config: EngineConfig, n_members: int) -> int:
    """Number of single-window forward passes that an image takes."""
    grid = WindowGrid.of_image(height, width, config.roi_size, config.plan.overlap)
    return len(grid.tops) * len(grid.lefts) * len(config.plan.flips) * n_members


class Members:
    """The ensemble: predicts windows in batches that fit the device, weighted for the sum.

    ``n_predicted`` counts the windows that went through the network; the others were of one colour
    and known.
    """

    def __init__(self, members: Sequence[Backend], config: EngineConfig) -> None:
        self.device = members[0].device
        self.batch = config.runtime.batch or members[0].batch
        self._members = members
        self.n_predicted = 0
        self._blank: dict[_WindowKey, Tensor] = {}
        # Most windows of an image lie alike among their neighbours: few maps serve all.
        self._weights = lru_cache(maxsize=64)(self._make_weights)

    def _make_weights(
        self, roi_size: int, rows: tuple[int, ...], columns: tuple[int, ...]
    ) -> Tensor:
        return torch.from_numpy(normalised_importance(roi_size, rows, columns)).to(self.device)

    def predict(
        self, windows: Sequence[Window], rows: InputRows, source: ImageSource
    ) -> Iterator[tuple[Window, Tensor]]:
        """Weighted logits ``(3, roi, roi)`` of each window, summed over the members."""
        for window, logits in self.predict_logits(windows, rows, source):
            neighbours = window.grid.neighbours(window.top, window.left)
            yield window, logits * self._weights(window.grid.roi_size, *neighbours)

    def predict_logits(
        self, windows: Sequence[Window], rows: InputRows, source: ImageSource
    ) -> Iterator[tuple[Window, Tensor]]:
        """Logits ``(3, roi, roi)`` of each window as it lies, summed over the members."""
        first = 0
        while first < len(windows):
            group = windows[first : first + self.batch]
            try:
                logits = self._predict_group(group, rows)
            except torch.OutOfMemoryError:
                if len(group) == 1:
                    raise
                self.batch = len(group) // 2
                source.warnings.append(f"device memory is full; batch is now {self.batch}")
                continue
            first += len(group)
            yield from zip(group, logits, strict=True)

    def _predict_group(self, group: Sequence[Window], rows: InputRows) -> Tensor:
        crops = [rows.crop(window) for window in group]
        # Windows of one colour are the same to the network, wherever they lie and however they are
        # flipped: each colour is predicted once. All others are known by their place.
        keys: list[_WindowKey] = [_only_colour(crop) or i for i, crop in enumerate(crops)]
        fresh = {key: keys.index(key) for key in keys if key not in self._blank}
        found = self._blank.copy()
        if fresh:
            places = list(fresh.values())
            inputs = torch.stack([crops[i] for i in places]).to(self.device, torch.float32) / 255
            flips = [group[i].flip for i in places]
            inputs = torch.stack(
                [flip_inputs(x[None], f)[0] for x, f in zip(inputs, flips, strict=True)]
            )
            found.update(zip(fresh, self._predict_sum(inputs), strict=True))
        self._blank |= {key: found[key].clone() for key in fresh if isinstance(key, tuple)}
        for key in list(self._blank)[:-_MAX_BLANK]:
            del self._blank[key]
        return torch.stack(
            [unflip_logits(found[key][None], w.flip)[0] for key, w in zip(keys, group, strict=True)]
        )

    def _predict_sum(self, inputs: Tensor) -> Tensor:
        self.n_predicted += len(inputs)
        # All are started before the first is waited for, so that none leaves a core idle.
        first, *others = [member.start(inputs) for member in self._members]
        logits = first()
        for finish in others:
            logits += finish()
        return logits


def _only_colour(crop: Tensor) -> tuple[int, ...] | None:
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
    stopwatch: Stopwatch,
    rows: tuple[int, int] | None = None,
) -> Iterator[MapBand]:
    """Predict the merged maps of an image, or of some of its rows, band by band.

    A row is always summed over the same windows in the same order, so that its maps are the same to
    the last bit whatever rows are asked for.

    Args:
        source: the image.
        scaling: its normalisation constants.
        members: the models of the ensemble, all on one device.
        config: plan (flips, overlap) and window size.
        stopwatch: gains the stages ``read``, ``preprocess`` and ``network``.
        rows: first row and row after the last one; by default all.

    Yields:
        Bands from top to bottom without gaps; together they cover the rows.

    Raises:
        PredictionError: if the network's output is not finite.
    """
    height, width = source.height, source.width
    start, stop = rows or (0, height)
    ensemble = Members(members, config)
    ring = RingOfRows(config.roi_size, width, ensemble.device)
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
    inputs = InputRows(source, scaling, stopwatch, done)
    for (top, windows), end in zip(by_top.items(), [*tops[1:], stop], strict=True):
        inputs.move_to(max(top, 0), min(top + config.roi_size, height))
        with stopwatch("network"):
            for window, weighted in ensemble.predict(windows, inputs, source):
                ring.add(window, weighted, height, width)
        while done < end:
            bottom = min(done + BAND_ROWS, end)
            with stopwatch("network"):
                maps = ring.take(done, bottom)[:, max(start - done, 0) :]
                maps /= n_passes
            done = bottom
            if maps.shape[1]:
                check_finite(maps, source.name, done - maps.shape[1])
                yield MapBand(done - maps.shape[1], maps)


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
