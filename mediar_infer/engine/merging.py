"""Channels that are merged into one: the maximum of channels that are normalised by themselves.

Markers differ in brightness by orders of magnitude, so the maximum of stored values would be that
of the brightest marker alone.
"""

import numpy as np

from mediar_infer.arrays import AnyArray
from mediar_infer.engine.preprocess import compute_scaling
from mediar_infer.images.sources import ImageSource


def merge_channels(source: ImageSource) -> ImageSource:
    """Replace an image of which channels are to be merged by one in which they are.

    Each chosen channel is normalised by itself, merged or not, by constants of the whole image.
    That takes a reading of the image for each (of 32 bits two, of 64 bits four).

    Args:
        source: the image, read by rows.

    Returns:
        An image of uint8 that closes the other one; the image itself if nothing is to be merged, or
        if that is done.

    Raises:
        ImageReadError: if the image is damaged, or a channel has no finite pixel.
    """
    if isinstance(source, _MergedSource) or all(len(pick) < 2 for pick in source.picked):
        return source
    return _MergedSource(source)


class _OneChannel(ImageSource):
    """One channel of an image, as a grey image."""

    def __init__(self, source: ImageSource, number: int) -> None:
        super().__init__(source.name, height=source.height, width=source.width, dtype=source.dtype)
        self._source, self._number = source, number

    def _read_channels(self, top: int, bottom: int) -> AnyArray:
        return self._source.read_channels(top, bottom)[:, :, self._number]


class _MergedSource(ImageSource):
    """The levels, from 0 to 255, of channels that are normalised by themselves, as an image."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source
        used = sorted({number for pick in source.picked for number in pick})
        self._scalings = {n: compute_scaling(_OneChannel(source, n)) for n in used}
        notes = [
            f"channel {source.channel_names[n] or n}: {warning}"
            for n, scaling in self._scalings.items()
            for warning in scaling.warnings
        ]
        super().__init__(
            source.name,
            height=source.height,
            width=source.width,
            dtype=np.dtype(np.uint8),
            warnings=(*source.warnings, *notes),
            geometry=source.geometry,
            channel_names=source.channel_names,
            picked=source.picked,
        )
        self.stored_dtype = source.stored_dtype

    def read_channels(self, top: int, bottom: int) -> AnyArray:
        return self._source.read_channels(top, bottom)  # as stored, for measurements

    def _read_channels(self, top: int, bottom: int) -> AnyArray:
        rows = self._source.read_channels(top, bottom)
        levels = np.zeros(rows.shape, np.uint8)
        for number, scaling in self._scalings.items():
            levels[:, :, number] = scaling.apply(rows[:, :, number])
        return levels

    def close(self) -> None:
        self._source.close()
