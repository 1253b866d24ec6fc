"""Leica LIF and LOF images: liffile finds the images, and rows are read where they lie."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.etree.ElementTree import Element

import numpy as np

from mediar_infer.arrays import AnyArray
from mediar_infer.images.faults import DamagedFile, reading
from mediar_infer.images.file_bytes import FileBytes
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.planes import choose_scene
from mediar_infer.images.stack_source import StackLayout, StackSource

_LETTERS: Final = {1: "X", 2: "Y", 3: "Z", 4: "T", 10: "M"}
"""DimID of an axis → its letter; M are the tiles of a mosaic, each a plane."""
_MICROMETRES: Final = {"m": 1e6, "mm": 1e3, "µm": 1.0, "um": 1.0, "nm": 1e-3}
_COLOURS: Final = (1, 2, 3)
"""ChannelTag of red, green and blue."""
_KINDS: Final = {"0": "u", "1": "f"}


def list_lif_images(path: Path) -> list[str]:
    """Name the images of a file.

    Raises:
        ImageReadError: if the file is damaged.
    """
    import liffile

    with reading(path.name, "LIF structure"), liffile.LifFile(path) as lif:
        return [image.path for image in lif.images]


@dataclass(frozen=True, slots=True)
class _Axis:
    letter: str
    size: int
    step_bytes: int
    pixel_um: float | None


@dataclass(frozen=True, slots=True)
class _Channel:
    dtype: np.dtype[Any]
    offset: int
    name: str
    tag: int


class LifSource(StackSource):
    """One image of a LIF file."""

    def __init__(self, path: Path, options: ReadOptions, notes: tuple[str, ...] = ()) -> None:
        """Find an image and check that all its bytes are there.

        Args:
            path: the file.
            options: scene, plane, channels and limits.
            notes: sentences to start the warnings with.

        Raises:
            ImageReadError: if the file is damaged, ambiguous, too large or not supported.
        """
        import liffile

        with reading(path.name, "file"):
            self._file = FileBytes(path)
        try:
            with reading(path.name, "LIF structure"), liffile.LifFile(path) as lif:
                images = list(lif.images)
                if not images:
                    raise DamagedFile("no image")
                scene, more = choose_scene(path.name, [each.path for each in images], options)
                element, block = images[scene].xml_element, images[scene].memory_block
                self._start, n_bytes = int(block.offset), int(block.size)
            with reading(path.name, "LIF metadata"):
                layout = self._lay_out(element, n_bytes)
            self._file.check_range(self._start, n_bytes)
            super().__init__(path.name, layout, options, (*notes, *more))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _lay_out(self, element: Element, n_bytes: int) -> StackLayout:
        axes = {axis.letter: axis for axis in _axes(element)}
        if not {"X", "Y"} <= axes.keys():
            raise DamagedFile(f"axes {''.join(axes)} without rows and columns")
        self._y, self._x = axes.pop("Y"), axes.pop("X")
        self._axes = sorted(axes.values(), key=lambda axis: -axis.step_bytes)
        self._channels = _channels(element)
        last = sum((axis.size - 1) * axis.step_bytes for axis in (self._x, self._y, *self._axes))
        for channel in self._channels:
            if channel.offset + last + channel.dtype.itemsize > n_bytes:
                raise DamagedFile(f"an image of more than the {n_bytes:,} bytes of its block")
        sizes = self._y.pixel_um, self._x.pixel_um
        return StackLayout(
            height=self._y.size,
            width=self._x.size,
            dtype=np.result_type(*[channel.dtype for channel in self._channels]),
            axes=[(axis.letter, axis.size) for axis in self._axes],
            n_samples=(1,) * len(self._channels),
            channel_names=tuple(channel.name for channel in self._channels),
            pixel_size_um=None if None in sizes else sizes,  # type: ignore[arg-type]
        )

    def _read_channel(self, plane: int, channel: int, top: int, bottom: int) -> AnyArray:
        place = self._channels[channel]
        index = np.unravel_index(plane, [axis.size for axis in self._axes]) if self._axes else ()
        start = self._start + place.offset + top * self._y.step_bytes
        start += sum(int(k) * axis.step_bytes for k, axis in zip(index, self._axes, strict=True))
        shape = bottom - top, self._x.size
        if bottom == top:
            return np.empty(shape, place.dtype)
        strides = self._y.step_bytes, self._x.step_bytes
        n_bytes = sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        data = self._file.read(start, n_bytes + place.dtype.itemsize)
        return np.ndarray(shape, place.dtype, data, strides=strides)


def _axes(element: Element) -> list[_Axis]:
    found = []
    for each in element.iterfind("Data/Image/ImageDescription/Dimensions/DimensionDescription"):
        code = int(each.attrib["DimID"])
        size, step_bytes = int(each.attrib["NumberOfElements"]), int(each.attrib["BytesInc"])
        if size < 1 or step_bytes < 0 or (size > 1 and step_bytes == 0):
            raise DamagedFile(f"axis {code} of {size} elements, {step_bytes} bytes apart")
        found.append(
            _Axis(_LETTERS.get(code, f"({code})"), size, step_bytes, _pixel_um(each.attrib, size))
        )
    return found


def _pixel_um(attributes: Mapping[str, str], size: int) -> float | None:
    """Distance of neighbours: the stated length is that from the first to the last."""
    try:
        length = abs(float(attributes["Length"])) * _MICROMETRES[attributes["Unit"].strip()]
        return length / (size - 1)
    except (KeyError, ValueError, ZeroDivisionError):
        return None


def _channels(element: Element) -> Sequence[_Channel]:
    found = [
        _Channel(
            _to_dtype(each.attrib["DataType"], int(each.attrib["Resolution"])),
            int(each.attrib["BytesInc"]),
            _dye(each) or each.get("LUTName", "").strip(),
            int(each.get("ChannelTag", "0")),
        )
        for each in element.iterfind("Data/Image/ImageDescription/Channels/ChannelDescription")
    ]
    if not found or any(channel.offset < 0 for channel in found):
        raise DamagedFile("no channels, or one before the beginning")
    if sorted(channel.tag for channel in found) == list(_COLOURS):
        found.sort(key=lambda channel: channel.tag)
    return found


def _dye(channel: Element) -> str:
    for each in channel.iterfind("ChannelProperty"):
        if each.findtext("Key") == "DyeName":
            return (each.findtext("Value") or "").strip()
    return ""


def _to_dtype(kind: str, n_bits: int) -> np.dtype[Any]:
    n_bytes = next((size for size in (1, 2, 4, 8) if n_bits <= 8 * size), 0)
    if kind not in _KINDS or n_bits < 1 or not n_bytes or (kind, n_bytes) == ("1", 1):
        raise DamagedFile(f"samples of {n_bits} bits of kind {kind}")
    return np.dtype(f"<{_KINDS[kind]}{n_bytes}")
