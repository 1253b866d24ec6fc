"""The models on one device: windows of an image in, logits out, in batches that fit."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from mediar_infer.arrays import AnyArray
from mediar_infer.config import EngineConfig, FlipName
from mediar_infer.engine.array_ops import DeviceArray, HostOps, select_array_ops
from mediar_infer.engine.packing import fill_sheet, list_places
from mediar_infer.engine.preprocess import Scaling
from mediar_infer.engine.tta import flip_windows, unflip_logits
from mediar_infer.engine.windows import WindowGrid
from mediar_infer.image_trace import Trace
from mediar_infer.images.sources import ImageSource
from mediar_infer.network.backends import Backend
from mediar_infer.row_buffer import RowBuffer

_ROWS_READ_AT_ONCE: Final = 16
_MAX_BLANK: Final = 4
"""Colours whose logits are kept for later windows of that single colour; 3 MiB each."""
_SheetKey = tuple[int, ...] | int
"""Colour of a sheet of a single colour, otherwise its place in the batch."""


@dataclass(frozen=True, slots=True)
class Window:
    """One place where the network looks, in one pass."""

    flip: FlipName
    """How the network sees it; logits are turned back."""
    grid: WindowGrid
    """The windows of its pass."""
    top: int
    """First image row; negative where the image is padded."""
    left: int
    """First image column; negative where the image is padded."""


_Sheet = Sequence[Window]
"""What one call of the network sees: a window, or several packed ones."""
_ON_HOST: Final = HostOps()


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
        """Copy the pixels of a window without its margins: uint8, zero outside the image."""
        top, left = window.grid.margins
        return self._rows.crop(window.top + top, window.left + left, *window.grid.part_shape)


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
        """Windows or sheets per call; halved when device memory is full."""
        self.n_predicted = 0
        """Windows or sheets that went through the network; the others were of a single, known
        colour."""
        self._members, self._trace = members, trace
        self._blank: dict[_SheetKey, DeviceArray] = {}

    def predict(
        self, windows: Sequence[Window], rows: InputRows
    ) -> Generator[tuple[Window, DeviceArray], None, None]:
        """Predict windows, batch by batch.

        Args:
            windows: windows of any pass, at least one; all with the same margins.
            rows: holds all image rows that the windows touch.

        Yields:
            Each window, in the given order, with its logits summed over the members:
            ``(3, h, w)`` float32 on the device, the window without its margins, unflipped, not
            weighted. Arrays may share memory and must not be modified.

        Raises:
            RuntimeError: as torch raises it, if device memory does not suffice for a single window.
        """
        grid = windows[0].grid
        places = list_places(grid.part_shape, grid.roi_size)
        first = 0
        while first < len(windows):
            group = windows[first : first + self.batch * len(places)]
            sheets = [group[i : i + len(places)] for i in range(0, len(group), len(places))]
            crops = [_crop_sheet(sheet, places, rows) for sheet in sheets]
            # Sheets of a single colour are the same to the network wherever they lie and however
            # they are flipped: each colour is predicted once. All others are known by their place.
            keys: list[_SheetKey] = [_only_colour(crop) or i for i, crop in enumerate(crops)]
            fresh = {key: keys.index(key) for key in keys if key not in self._blank}
            inputs, running = None, []
            try:
                if fresh:
                    inputs = self._to_inputs(crops, sheets, list(fresh.values()))
                    # All are started before the first is waited for, so that no core is idle.
                    running = [member.start(inputs) for member in self._members]
                outputs = self._collect(sheets, places, keys, fresh, running)
            except self.ops.out_of_memory:
                if len(sheets) == 1:
                    raise
                self.batch = len(sheets) // 2
                self._trace.warn(f"device memory is full; batch is now {self.batch}")
                continue
            finally:
                # Device memory for the next batch, or for half of this one.
                del inputs, running
            self.n_predicted += len(fresh)
            first += len(group)
            yield from zip(group, outputs, strict=True)
            del outputs

    def _collect(
        self,
        sheets: Sequence[_Sheet],
        places: Sequence[tuple[int, int]],
        keys: Sequence[_SheetKey],
        fresh: Iterable[_SheetKey],
        running: Sequence[Callable[[], DeviceArray]],
    ) -> list[DeviceArray]:
        """Wait for the members, and give each window its summed logits, unflipped."""
        logits = self._blank.copy()
        if running:
            logits.update(zip(fresh, _wait_for_sum(running), strict=True))
        height, width = sheets[0][0].grid.part_shape
        outputs = [
            unflip_logits(
                logits[key][:, top : top + height, left : left + width], window.flip, self.ops
            )
            for key, sheet in zip(keys, sheets, strict=True)
            for window, (top, left) in zip(sheet, places, strict=False)
        ]
        self._keep_blank({key: logits[key] for key in fresh if isinstance(key, tuple)})
        return outputs

    def _to_inputs(
        self, crops: Sequence[AnyArray], sheets: Sequence[_Sheet], chosen: Sequence[int]
    ) -> DeviceArray:
        """Flip and stack some of the crops: ``(n, 3, roi, roi)`` float32 in [0, 1]."""
        inputs = self.ops.to_inputs([crops[i] for i in chosen])
        if sheets[0][0].grid.margins != (0, 0):
            return inputs  # flipped one by one as they were packed
        flips = [sheets[i][0].flip for i in chosen]
        return self.ops.stack(
            [flip_windows(x, flip, self.ops) for x, flip in zip(inputs, flips, strict=True)]
        )

    def _keep_blank(self, logits: Mapping[_SheetKey, DeviceArray]) -> None:
        """Keep logits of single colours for later windows, the latest few."""
        self._blank |= {colour: self.ops.copy(maps) for colour, maps in logits.items()}
        for colour in list(self._blank)[:-_MAX_BLANK]:
            del self._blank[colour]


def _crop_sheet(sheet: _Sheet, places: Sequence[tuple[int, int]], rows: InputRows) -> AnyArray:
    """The pixels of a window, or of several that are flipped and packed: ``(3, roi, roi)``."""
    parts = [rows.crop(window) for window in sheet]
    if len(places) == 1:
        return parts[0]
    flipped = [
        flip_windows(part, window.flip, _ON_HOST) for part, window in zip(parts, sheet, strict=True)
    ]
    return fill_sheet(flipped, places, sheet[0].grid.roi_size)


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
