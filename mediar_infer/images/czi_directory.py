"""The directory of a Zeiss CZI file: where its tiles are, and what the metadata say of them.

Reference:
    Zeiss, ZISRAW (CZI) file format, design specification; libCZI's reader is the tests' oracle.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree

from mediar_infer.images.faults import DamagedFile
from mediar_infer.images.file_bytes import FileBytes

SEGMENT_BYTES: Final = 32
"""Length of the header of every segment."""
_FILE_HEADER: Final = struct.Struct("<16sqq 2i 8x 16s16s i q q")
_SEGMENT: Final = struct.Struct("<16sqq")
_DIRECTORY_HEADER_BYTES: Final = 128
_METADATA_HEADER_BYTES: Final = 256
_ENTRY: Final = struct.Struct("<2s i q i i 6x i")
_DIMENSION: Final = struct.Struct("<4s i i f i")
_MAX_DIMENSIONS: Final = 40

SAMPLE_TYPES: Final[Mapping[int, tuple[str, int]]] = {
    0: ("u1", 1),
    1: ("<u2", 1),
    2: ("<f4", 1),
    3: ("u1", 3),
    4: ("<u2", 3),
    8: ("<f4", 3),
    9: ("u1", 4),
    12: ("<u4", 1),
    13: ("<f8", 1),
}
"""Pixel type → type of a sample, and samples per pixel: blue, green, red[, opacity]."""
_MICROMETRES_PER_METRE: Final = 1e6


@dataclass(frozen=True, slots=True)
class CziTile:
    """One tile at full resolution."""

    position: int
    """Of its segment in the file."""
    pixel_type: int
    """See ``SAMPLE_TYPES``."""
    compression: int
    """How its pixels are stored."""
    y: int
    """First row, in the coordinates of the file."""
    x: int
    """First column."""
    height: int
    """Rows."""
    width: int
    """Columns."""
    index: Mapping[str, int]
    """Place along the other axes: C for channels, S for scenes, M for the order of tiles, Z, T …"""
    entry_bytes: int
    """Length of its directory entry, which its segment repeats."""


@dataclass(frozen=True, slots=True)
class CziMetadata:
    """What the metadata say of the image; nothing is there for sure."""

    channel_names: Mapping[int, str]
    """Number of a channel → name."""
    scene_names: Mapping[int, str]
    """Number of a scene → name."""
    pixel_size_um: tuple[float, float] | None
    """Height and width of a pixel."""


def read_czi(file: FileBytes) -> tuple[list[CziTile], CziMetadata]:
    """Read the directory and the metadata of a file.

    Args:
        file: the open file.

    Returns:
        All tiles at full resolution, in the order of the file, and the metadata.

    Raises:
        DamagedFile: if the directory is missing or damaged, or its tiles lie in other files.
        ImageReadError: if the file ends before it.
    """
    header = bytes(file.read(0, _FILE_HEADER.size))
    fields = _FILE_HEADER.unpack(header)
    part, directory, metadata = fields[-3:]
    if part != 0:
        raise DamagedFile(f"part {part} of an image in several files, of which the first is needed")
    if directory <= 0:
        raise DamagedFile("no directory: the file was not written to its end")
    data = _segment_data(file, directory, b"ZISRAWDIRECTORY")
    tiles = list(_tiles(data))
    if not tiles:
        raise DamagedFile("no tile at full resolution")
    for tile in tiles:
        file.check_range(tile.position, SEGMENT_BYTES)
    return tiles, _read_metadata(file, metadata)


def _segment_data(file: FileBytes, position: int, kind: bytes) -> bytes:
    if position < 0:
        raise DamagedFile(f"a segment at byte {position}")
    name, _, n_used = _SEGMENT.unpack(bytes(file.read(position, SEGMENT_BYTES)))
    if name.rstrip(b"\0") != kind or n_used < 0:
        raise DamagedFile(f"no segment {kind.decode()} at byte {position:,}")
    return bytes(file.read(position + SEGMENT_BYTES, n_used))


def _tiles(directory: bytes) -> Iterator[CziTile]:
    (n_entries,) = struct.unpack_from("<i", directory)
    offset = _DIRECTORY_HEADER_BYTES
    for _ in range(n_entries):
        schema, pixel_type, position, part, compression, n_axes = _ENTRY.unpack_from(
            directory, offset
        )
        if schema != b"DV" or not 0 < n_axes <= _MAX_DIMENSIONS:
            raise DamagedFile(f"a directory entry of kind {schema!r} with {n_axes} axes")
        entry_bytes = _ENTRY.size + n_axes * _DIMENSION.size
        axes = {}
        for k in range(n_axes):
            letter, start, size, _, stored = _DIMENSION.unpack_from(
                directory, offset + _ENTRY.size + k * _DIMENSION.size
            )
            axes[letter.rstrip(b"\0").decode("ascii")] = start, size, stored
        offset += entry_bytes
        if part != 0:
            raise DamagedFile(f"a tile that lies in part {part} of the file, another file")
        (y, height, stored_height), (x, width, stored_width) = axes.pop("Y"), axes.pop("X")
        if stored_height not in (0, height) or stored_width not in (0, width):
            continue  # of a pyramid
        if height < 1 or width < 1 or any(size > 1 for _, size, _ in axes.values()):
            sizes = ", ".join(f"{letter} {size}" for letter, (_, size, _) in axes.items())
            raise DamagedFile(f"a tile of {height} × {width} pixels ({sizes})")
        index = {letter: start for letter, (start, _, _) in axes.items()}
        yield CziTile(position, pixel_type, compression, y, x, height, width, index, entry_bytes)


def _read_metadata(file: FileBytes, position: int) -> CziMetadata:
    """The metadata, as far as they can be read: the image can be read without them."""
    try:
        data = _segment_data(file, position, b"ZISRAWMETADATA")
        (n_bytes,) = struct.unpack_from("<i", data)
        xml = data[_METADATA_HEADER_BYTES:][: max(n_bytes, 0)]
        root = ElementTree.fromstring(xml)
    except (DamagedFile, struct.error, ElementTree.ParseError):
        return CziMetadata({}, {}, None)
    image = "Metadata/Information/Image/Dimensions"
    channels = root.findall(f"{image}/Channels/Channel")
    scenes = root.findall(f"{image}/S/Scenes/Scene")
    return CziMetadata(
        {number: each.get("Name", "").strip() for number, each in enumerate(channels)},
        {
            _to_index(each.get("Index"), number): each.get("Name", "").strip()
            for number, each in enumerate(scenes)
        },
        _pixel_size(root),
    )


def _to_index(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isdecimal() else default


def _pixel_size(root: ElementTree.Element) -> tuple[float, float] | None:
    found = {
        each.get("Id"): each.findtext("Value") or ""
        for each in root.iterfind("Metadata/Scaling/Items/Distance")
    }
    try:
        height, width = (float(found[letter]) * _MICROMETRES_PER_METRE for letter in "YX")
    except (KeyError, ValueError):
        return None
    return height, width
