"""Nikon ND2 images, read by the package nd2: one frame holds all channels of a plane."""

import mmap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from mediar_infer.arrays import AnyArray
from mediar_infer.images.faults import DamagedFile, reading
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.planes import choose_scene
from mediar_infer.images.stack_source import StackLayout, StackSource

_POSITION: Final = "P"
_FRAME_AXES: Final = frozenset("CYXS")
_COLOURS: Final = 3
_SAMPLES: Final = (1, _COLOURS)
"""Samples of a channel that is grey or in colours; any other number are channels of their own."""


def list_nd2_positions(path: Path) -> list[str]:
    """Name the positions of a file, each of which is an image.

    Raises:
        ImageReadError: if the file is damaged.
    """
    import nd2

    with _quiet(path.name, "ND2 structure"), nd2.ND2File(path) as file:
        return _positions(file)


class Nd2Source(StackSource):
    """One position of an ND2 file."""

    def __init__(self, path: Path, options: ReadOptions, notes: tuple[str, ...] = ()) -> None:
        """Read the metadata of a file.

        Args:
            path: the file.
            options: scene (a position), plane, channels and limits.
            notes: sentences to start the warnings with.

        Raises:
            ImageReadError: if the file is damaged, ambiguous, too large or not supported.
        """
        import nd2

        self._frame: tuple[int, AnyArray] | None = None
        with _quiet(path.name, "ND2 structure"):
            self._file: Any = nd2.ND2File(path)
        try:
            with _quiet(path.name, "ND2 metadata"):
                self._scene, more = choose_scene(path.name, _positions(self._file), options)
                layout = self._lay_out(path.name, options)
            super().__init__(path.name, layout, options, (*notes, *more))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._frame = None  # it may be a view of the file
        self._file.close()

    def _lay_out(self, name: str, options: ReadOptions) -> StackLayout:
        file = self._file
        sizes, stated = dict(file.sizes), file.attributes
        self._loops = [(axis, n) for axis, n in sizes.items() if axis not in _FRAME_AXES]
        self._axes = [(axis, n) for axis, n in self._loops if axis != _POSITION]
        n_channels, n_components = stated.channelCount or 1, stated.componentCount
        n_samples = n_components // n_channels
        height, width = int(stated.heightPx), int(stated.widthPx or 0)
        self._stored_shape = n_channels, height, width, n_samples
        if n_samples not in _SAMPLES:
            n_channels, n_samples = n_components, 1
        self._shape = n_channels, height, width, n_samples
        if min(self._shape) < 1:
            raise DamagedFile(f"an image of {height} × {width} pixels, {n_channels} channels")
        is_decoded = file.is_legacy or stated.compressionType is not None
        if is_decoded:
            n_bytes = height * width * n_components * file.dtype.itemsize
            options.check_decoded(name, height, width, n_bytes, where="in one frame")
        names, pixel_size_um = _describe_channels(file)
        return StackLayout(
            height=height,
            width=width,
            dtype=file.dtype,
            axes=self._axes,
            n_samples=(n_samples,) * n_channels,
            channel_names=names if len(names) == n_channels else ("",) * n_channels,
            pixel_size_um=pixel_size_um,
            step=height if is_decoded else 1,
        )

    def _read_channel(self, plane: int, channel: int, top: int, bottom: int) -> AnyArray:
        rows = self._read_frame(plane)[channel, top:bottom]
        return rows[:, :, 0] if rows.shape[2] == 1 else rows

    def _read_frame(self, plane: int) -> AnyArray:
        """All channels of a plane, ``(channels, height, width, samples)``; the last one is kept."""
        places = dict(self._axes)
        if places:
            found = np.unravel_index(plane, list(places.values()))
            places = dict(zip(places, map(int, found), strict=True))
        places[_POSITION] = self._scene
        sizes = [size for _, size in self._loops]
        index = [places[axis] for axis, _ in self._loops]
        number = int(np.ravel_multi_index(index, sizes)) if sizes else 0
        if self._frame is None or self._frame[0] != number:
            with _quiet(self.name, f"ND2 frame {number}"):
                frame = self._file.read_frame(number)
                if not self._file.is_legacy and not _is_stored(frame):
                    raise DamagedFile("no pixels, or too few")
                frame = frame.reshape(self._stored_shape)
                if frame.shape[3] not in _SAMPLES:
                    frame = frame.transpose(0, 3, 1, 2).reshape(self._shape)
                elif frame.shape[3] == _COLOURS and not self._file.is_legacy:
                    # stored as blue, green, red, which nd2 passes on; JPEG 2000 has red first
                    frame = frame[..., ::-1]
                self._frame = number, frame
        return self._frame[1]


def _is_stored(frame: AnyArray) -> bool:
    """Whether a frame shows bytes of the file; nd2 returns zeros for one that is not there."""
    owner: object = frame
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    return isinstance(owner, mmap.mmap | bytes | bytearray | memoryview)


def _positions(file: Any) -> list[str]:  # noqa: ANN401
    n_positions = int(file.sizes.get(_POSITION, 1))
    names: list[str] = []
    for loop in file.experiment:
        if loop.type == "XYPosLoop":
            names = [point.name or "" for point in loop.parameters.points]
    return names if len(names) == n_positions else [""] * n_positions


def _describe_channels(file: Any) -> tuple[tuple[str, ...], tuple[float, float] | None]:  # noqa: ANN401
    """Names of the channels, height and width of a pixel; the image can be read without them."""
    try:
        channels = file.metadata.channels or []
        names = tuple(str(each.channel.name or "").strip() for each in channels)
        if not channels or not all(channels[0].volume.axesCalibrated[:2]):
            return names, None
        x, y = channels[0].volume.axesCalibration[:2]
        return names, (float(y), float(x))
    except Exception:  # noqa: BLE001  (metadata of any origin)
        return (), None


@contextmanager
def _quiet(name: str, what: str) -> Iterator[None]:
    """Errors become those of a file; warnings of the library are not for users."""
    with reading(name, what), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
