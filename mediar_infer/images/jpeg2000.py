"""JPEG 2000 data: headers, and signs of damage that the decoder ignores.

OpenJPEG decodes damaged packets without a word, and the format has no checksum. What can be known
is checked: tile parts that are cut off, markers inside coded data, and blocks of zeros as a failed
copy leaves them. Other damage cannot be noticed.
"""

import struct
from collections.abc import Iterator
from math import ceil

import numpy as np

from mediar_infer.images.faults import DamagedFile
from mediar_infer.images.raster_header import ZEROS_NOTE, RasterHeader

_START = b"\xff\x4f\xff\x51"
"""Start of a codestream and of its size segment."""
_END = b"\xff\xd9"
_TILE_PART, _TILE_DATA = 0xFF90, 0xFF93
_CODING_STYLE = 0xFF52
_TRANSFORM_AT = 13
"""Place of the wavelet's number in the segment of the coding style; 1 is the reversible one."""
_PACKET_MARKERS = (0x91, 0x92)
"""Second bytes of the two markers that may stand between packets."""
_ZEROS = bytes(512)
"""A block of a disk. Coded data are never zero for that long unless the image is nearly empty."""
_DECODER_BYTES = 8
"""OpenJPEG holds every sample as 32 bits, in a tile and in the image."""


def read_jpeg2000_header(data: bytes) -> RasterHeader:
    """Read the size of an image and check that its codestream is whole.

    Args:
        data: the whole file, with boxes or without.

    Raises:
        DamagedFile: if the header is damaged, or tile parts are incomplete or hold foreign bytes.
    """
    start = data.find(_START)
    if start < 0:
        raise DamagedFile("no codestream")
    right, bottom, left, top = struct.unpack_from(">IIII", data, start + 8)
    (n_channels,) = struct.unpack_from(">H", data, start + 40)
    height, width = bottom - top, right - left
    check_jpeg2000(data)
    notes = []
    if _ZEROS in data[start:]:
        notes.append(ZEROS_NOTE.format("JPEG 2000"))
    is_boxed = start > 0  # a bare codestream says nothing about the meaning of its channels
    return RasterHeader(
        height,
        width,
        n_channels,
        decoder_bytes=max(height, 0) * max(width, 0) * n_channels * _DECODER_BYTES + len(data),
        has_alpha=is_boxed and _has_alpha(data[:start], n_channels),
        warnings=tuple(notes),
    )


def is_reversible(data: bytes) -> bool:
    """Whether a codestream uses the wavelet that can give back the pixels as they were.

    Args:
        data: a file, or a TIFF strip or tile; its beginning is enough.

    Raises:
        DamagedFile: if its header does not say so.
    """
    start = data.find(_START)
    position = start + 2 if start >= 0 else len(data)
    while position + _TRANSFORM_AT < len(data):
        marker, length = struct.unpack_from(">HH", data, position)
        if marker == _CODING_STYLE:
            return data[position + _TRANSFORM_AT] == 1
        position += 2 + length
    raise DamagedFile("no codestream that states its coding style")


def check_jpeg2000(data: bytes) -> None:
    """Check the tiles of a codestream.

    Args:
        data: a file, or a TIFF strip or tile.

    Raises:
        DamagedFile: if a tile is missing, cut off or holds a marker that cannot be there.
    """
    start = data.find(_START)
    end = data.rfind(_END)
    if start < 0 or end < start:
        raise DamagedFile("the end-of-codestream marker is missing")
    found = set()
    for tile, first, stop in _tile_data(data, start, end):
        found.add(tile)
        if stop > end:
            raise DamagedFile(f"a tile part of {stop - first:,} bytes, {end - first:,} found")
        coded = np.frombuffer(data, np.uint8, stop - first, first)
        second = coded[1:][(coded[:-1] == 0xFF) & (coded[1:] > 0x8F)]
        if not np.isin(second, _PACKET_MARKERS).all():
            raise DamagedFile("a marker inside coded data")
    n_tiles = _count_tiles(data, start)
    if len(found) != n_tiles:
        raise DamagedFile(f"{len(found):,} of {n_tiles:,} tiles")


def _count_tiles(data: bytes, start: int) -> int:
    """Number of tiles that cover the image, by the size segment."""
    right, bottom, _, _, width, height, left, top = struct.unpack_from(">8I", data, start + 8)
    if width == 0 or height == 0:
        raise DamagedFile(f"tiles of {height} × {width} pixels")
    n_tiles: int = ceil((right - left) / width) * ceil((bottom - top) / height)
    return n_tiles


def _tile_data(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number of the tile, first and last position of the coded data of each tile part."""
    position = start + 2
    while position < end:
        marker, length = struct.unpack_from(">HH", data, position)
        if marker != _TILE_PART:  # segments of the main header
            if not 0xFF50 <= marker <= 0xFF7F:
                raise DamagedFile(f"no marker at byte {position}")
            position += 2 + length
            continue
        tile, n_bytes = struct.unpack_from(">HI", data, position + 4)
        stop = position + n_bytes if n_bytes else end
        while (marker := struct.unpack_from(">H", data, position)[0]) != _TILE_DATA:
            if not 0xFF50 <= marker <= 0xFF90:
                raise DamagedFile(f"no marker at byte {position}")
            position += 2 + struct.unpack_from(">H", data, position + 2)[0]
        yield tile, position + 2, max(stop, position + 2)
        position = max(stop, position + 2)


def _has_alpha(boxes: bytes, n_channels: int) -> bool:
    """Whether a channel is opacity: by the channel definitions, else by the number of channels."""
    definitions = _find_box(_find_box(boxes, b"jp2h") or b"", b"cdef")
    if definitions is None:
        return n_channels in (2, 4)
    (n_defined,) = struct.unpack_from(">H", definitions)
    kinds = [struct.unpack_from(">HHH", definitions, 2 + 6 * k)[1] for k in range(n_defined)]
    return any(kind in (1, 2) for kind in kinds)  # opacity, premultiplied opacity


def _find_box(boxes: bytes, wanted: bytes) -> bytes | None:
    """Content of the first box of a kind; the boxes in other boxes are not searched."""
    position = 0
    while position + 8 <= len(boxes):
        length, kind = struct.unpack_from(">I4s", boxes, position)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", boxes, position + 8)
            head = 16
        end = len(boxes) if length == 0 else position + length
        if end < position + head:
            raise DamagedFile(f"a box of {length} bytes")
        if kind == wanted:
            return boxes[position + head : end]
        position = end
    return None
