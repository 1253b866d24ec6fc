"""An image at another scale, as the networks see it.

Pixels are normalised before they are resized. The constants are therefore those of the image, the
same at every scale; what normalisation clips, such as hot pixels, does not bleed into neighbours;
and the resized rows are the 8-bit numbers that the network takes.
"""

from collections.abc import Generator, Sequence
from typing import Final

import numpy as np

from mediar_infer.arrays import AnyArray, Float32Array
from mediar_infer.config import EngineConfig
from mediar_infer.engine.bands import predict_bands
from mediar_infer.engine.paced_bands import predict_paced_bands
from mediar_infer.engine.pacing import Pacer
from mediar_infer.engine.preprocess import Scaling
from mediar_infer.engine.resampling import AxisTable, RowResampler, scaled_shape
from mediar_infer.image_trace import Trace
from mediar_infer.images.sources import ImageSource
from mediar_infer.network.backends import Backend

_ROWS_READ_AT_ONCE: Final = 16
_LEVELS: Final = np.arange(256, dtype=np.uint8)
NORMALISED: Final = Scaling(low=0, high=255, lut=_LEVELS)
"""Scaling of rows that are normalised already."""


class ScaledSource(ImageSource):
    """The normalised image at another scale, as uint8.

    Rows may be asked for in any order, but each step up reads the image again.

    Args:
        source: the image; closed by whoever opened it.
        scaling: its normalisation constants.
        scale: size of the result relative to the image.
    """

    def __init__(self, source: ImageSource, scaling: Scaling, scale: float) -> None:
        height, width = scaled_shape((source.height, source.width), scale)
        super().__init__(
            source.name,
            height=height,
            width=width,
            dtype=np.dtype(np.uint8),
            channel_names=("",) * 3,
        )
        self._source, self._scaling = source, scaling
        self._rows = AxisTable.of_axis(source.height, self.height, is_cubic=True)
        self._columns = AxisTable.of_axis(source.width, self.width, is_cubic=True)
        self._resampler = RowResampler(3, self._rows, self._columns)

    def _read_channels(self, top: int, bottom: int) -> AnyArray:
        if top == bottom:
            return np.empty((0, self.width, 3), np.uint8)
        if top != self._resampler.top:
            self._resampler = RowResampler(3, self._rows, self._columns, top)
        rows = np.empty((bottom - top, self.width, 3), np.uint8)
        first, last = top, self._rows.needed(top, bottom)[1]
        while first < bottom:
            taken = self._resampler.take(min(_ROWS_READ_AT_ONCE, bottom - first))
            taken = np.rint(taken, out=taken).clip(0, 255)
            rows[first - top : first - top + taken.shape[1]] = taken.transpose(1, 2, 0)
            first += taken.shape[1]
            if first < bottom and not taken.shape[1]:
                start = self._resampler.bottom
                fresh = self._source.read_rows(start, min(start + _ROWS_READ_AT_ONCE, last))
                self._resampler.add(self._scaling.apply(fresh).transpose(2, 0, 1))
        return rows


def predict_scaled_bands(
    source: ImageSource,
    scaling: Scaling,
    scale: float,
    members: Sequence[Backend],
    config: EngineConfig,
    trace: Trace,
    *,
    rows: tuple[int, int] | None = None,
    pacer: Pacer | None = None,
) -> Generator[Float32Array, None, None]:
    """Predict the merged maps of an image that the networks see at another scale.

    Args:
        source: the image.
        scaling: its normalisation constants.
        scale: size at which it is shown.
        members: the models of the ensemble, all on one device.
        config: plan (flips, overlap) and window size.
        trace: gains stages, the progress, and warnings.
        rows: first row of the scaled image and row after the last one; by default all.
        pacer: chooses the plan, under a time budget; then all rows are predicted.

    Returns:
        Bands ``(3, rows, W)`` of the scaled image, from top to bottom without gaps.

    Raises:
        PredictionError: if the network's output is not finite.
    """
    if scale != 1:
        source, scaling = ScaledSource(source, scaling, scale), NORMALISED
    if pacer is None:
        return predict_bands(source, scaling, members, config, trace, rows)
    pacer.label_area = scale**2
    return predict_paced_bands(source, scaling, members, config, trace, pacer)
