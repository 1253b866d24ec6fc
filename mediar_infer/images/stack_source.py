"""Images of microscopes' own formats: planes and channels, of which the wanted ones are read."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mediar_infer.arrays import AnyArray
from mediar_infer.images.channels import channel_notes, find_channels, keep_picked
from mediar_infer.images.geometry import to_geometry
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.planes import Projection, StackAxes, choose_planes
from mediar_infer.images.sources import ImageSource, check_samples


@dataclass(frozen=True, slots=True)
class StackLayout:
    """What a file says of the image that it holds."""

    height: int
    """Rows."""
    width: int
    """Columns."""
    dtype: np.dtype[Any]
    """Type of the samples."""
    axes: StackAxes
    """Axes of the planes."""
    n_samples: tuple[int, ...]
    """Interleaved samples of each channel: 1, or 3 for colours."""
    channel_names: tuple[str, ...]
    """A name for each channel, empty where the file states none."""
    pixel_size_um: tuple[float, float] | None = None
    """Height and width of a pixel as the file states them, perhaps no lengths; None if it does not.
    """
    step: int = 1
    """Rows that are decoded together."""


class StackSource(ImageSource):
    """Some channels of one plane, or of the maximum over planes, read by rows.

    Args:
        name: file name, for messages.
        layout: what the file holds.
        options: plane, projection, channels and limits.
        notes: sentences to start the warnings with.

    Raises:
        ImageReadError: if it is open which plane is meant, or the image is too large or has
            samples that are no intensities.
    """

    def __init__(
        self, name: str, layout: StackLayout, options: ReadOptions, notes: Sequence[str]
    ) -> None:
        check_samples(name, layout.dtype)
        options.check_size(name, layout.height, layout.width)
        letters = "".join(letter for letter, _ in layout.axes)
        sizes = " × ".join(str(size) for _, size in (*layout.axes, ("Y", layout.height)))
        shown = f"axes {letters}YX, shape {sizes} × {layout.width}"
        planes, more = choose_planes(name, layout.axes, options, shown=shown)
        stored = [
            (channel, sample)
            for channel, n_samples in enumerate(layout.n_samples)
            for sample in range(n_samples)
        ]
        names = [layout.channel_names[channel] for channel, _ in stored]
        if layout.n_samples == (3,):  # the name of a channel is not that of its colours
            names = ["", "", ""]
        picked = find_channels(name, options.channels, names)
        if options.all_channels:
            kept = list(range(len(stored)))
        else:
            kept, picked = keep_picked(picked, len(stored))
        if not options.channels:
            more = [*more, *channel_notes(len(stored))]
        self._wanted = [stored[k] for k in kept]
        self.planes = planes
        """Planes that are read."""
        self.channels = tuple(dict.fromkeys(channel for channel, _ in self._wanted))
        """Stored channels that are read."""
        self._projection = Projection(
            self._read_plane,
            planes,
            height=layout.height,
            row_bytes=layout.width * len(kept) * layout.dtype.itemsize,
            step=min(layout.step, layout.height),
        )
        super().__init__(
            name,
            height=layout.height,
            width=layout.width,
            dtype=layout.dtype,
            warnings=(*notes, *more),
            geometry=to_geometry(layout.pixel_size_um),
            channel_names=[names[k] for k in kept],
            picked=picked,
        )

    def _read_channels(self, top: int, bottom: int) -> AnyArray:
        return self._projection.rows(top, bottom)

    def _read_plane(self, plane: int, top: int, bottom: int) -> AnyArray:
        channels = {
            channel: self._read_channel(plane, channel, top, bottom) for channel in self.channels
        }
        parts = [
            channels[channel] if channels[channel].ndim == 2 else channels[channel][:, :, sample]
            for channel, sample in self._wanted
        ]
        return parts[0][:, :, None] if len(parts) == 1 else np.stack(parts, axis=-1)

    @abstractmethod
    def _read_channel(self, plane: int, channel: int, top: int, bottom: int) -> AnyArray:
        """Rows of one channel of one plane, ``(rows, width)`` or ``(rows, width, samples)``."""
