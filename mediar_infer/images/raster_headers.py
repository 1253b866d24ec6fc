"""What PNG, BMP and JPEG 2000 files say of themselves, checked before anything is decoded."""

import struct
from collections.abc import Callable
from math import ceil

import numpy as np
import numpy.typing as npt

from mediar_infer.errors import ImageReadError
from mediar_infer.images.exif import exif_orientation
from mediar_infer.images.faults import DamagedFile, reading
from mediar_infer.images.jpeg import read_jpeg_header
from mediar_infer.images.jpeg2000 import read_jpeg2000_header
from mediar_infer.images.raster_header import RasterHeader

_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Colour type → stored samples per pixel."""
_DEFLATE_RATIO = 1032
"""No deflated byte holds more bytes than this."""
_RUN_PIXELS = 255
"""Largest run of a run-length coded BMP, in two bytes."""


def read_header(name: str, format_name: str, data: bytes) -> RasterHeader:
    """Read the size and check that the file is complete, as far as the format can tell.

    Args:
        name: file name, for messages.
        format_name: ``PNG``, ``JPEG``, ``BMP`` or ``JPEG 2000``.
        data: the whole file.

    Returns:
        The header.

    Raises:
        ImageReadError: if the header is damaged, the end of the file is missing, or its bytes
            cannot fill the image.
    """
    with reading(name, f"{format_name} data"):
        try:
            header = _HEADERS[format_name](data)
        except (struct.error, IndexError):
            raise DamagedFile("the header is cut off") from None
    if header.height < 1 or header.width < 1:
        found = f"an image of {header.height} × {header.width} pixels"
        raise ImageReadError(f"{name}: found {found}, expected at least 1 × 1; export it again")
    return header


def _png_header(data: bytes) -> RasterHeader:
    width, height, bits, colour_type, _, _, _ = struct.unpack_from(">IIBBBBB", data, 16)
    n_stored = _PNG_CHANNELS.get(colour_type, 1)
    orientation, n_deflated = 1, 0
    is_transparent = False
    palette = None
    position = 8
    while True:
        if position >= len(data):
            raise DamagedFile("the end of the image is missing")
        length, kind = struct.unpack_from(">I4s", data, position)
        content = position + 8
        if kind == b"eXIf":
            orientation = exif_orientation(data[content : content + length])
        elif kind == b"PLTE" and colour_type == 3:
            palette = _colours(data[content : content + length], 3)
        elif kind == b"IDAT":
            n_deflated += length
        is_transparent |= kind == b"tRNS"
        if kind == b"IEND":
            break
        position += length + 12
    n_raw = height * (1 + ceil(width * n_stored * bits / 8))
    if n_raw > _DEFLATE_RATIO * (n_deflated + 64):
        raise DamagedFile(
            f"{height:,} × {width:,} pixels claimed, {n_deflated:,} bytes cannot fill them"
        )
    n_decoded = (3 if colour_type == 3 else n_stored) + is_transparent
    return RasterHeader(
        height,
        width,
        n_decoded,
        decoder_bytes=height * width * n_decoded * (2 if bits == 16 else 1) + len(data),
        has_alpha=colour_type in (4, 6),
        is_transparent=is_transparent and colour_type in (0, 2, 3),
        orientation=orientation,
        palette=palette,
    )


def _bmp_header(data: bytes) -> RasterHeader:
    (offset, header_bytes) = struct.unpack_from("<II", data, 10)
    n_colours = compression = 0
    if header_bytes == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
        (n_colours,) = struct.unpack_from("<I", data, 46)
    height = abs(height)
    if not 1 <= bits <= 32:
        raise DamagedFile(f"{bits} bits per pixel")
    row_bytes = (width * bits + 31) // 32 * 4
    needed = row_bytes * height
    if compression not in (0, 3, 6):
        needed = height * width // _RUN_PIXELS * 2
    if offset + needed > len(data):
        raise DamagedFile(f"{offset + needed:,} bytes needed, {len(data):,} found")
    palette = None
    if bits <= 8:
        entry = 3 if header_bytes == 12 else 4
        start, count = 14 + header_bytes, min(n_colours or 1 << bits, 1 << bits)
        colours = _colours(data[start : min(start + count * entry, offset)], entry)
        palette = colours[:, 2::-1]
    return RasterHeader(
        height, width, 3, decoder_bytes=height * width * 6 + len(data), palette=palette
    )


def _colours(table: bytes, entry: int) -> npt.NDArray[np.uint8]:
    n = len(table) // entry
    return np.frombuffer(table, np.uint8, n * entry).reshape(n, entry)


_HEADERS: dict[str, Callable[[bytes], RasterHeader]] = {
    "PNG": _png_header,
    "JPEG": read_jpeg_header,
    "BMP": _bmp_header,
    "JPEG 2000": read_jpeg2000_header,
}
