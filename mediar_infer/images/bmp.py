"""BMP headers."""

import struct

from mediar_infer.images.faults import DamagedFile
from mediar_infer.images.palettes import to_colours
from mediar_infer.images.raster_header import RasterHeader

_RUN_PIXELS = 255
"""Largest run of a run-length coded file, in two bytes."""


def read_bmp_header(data: bytes) -> RasterHeader:
    """Read the header and check that the file is long enough.

    Args:
        data: the whole file.

    Raises:
        DamagedFile: if the data cannot fill the image.
    """
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
        colours = to_colours(data[start : min(start + count * entry, offset)], entry)
        palette = colours[:, 2::-1]
    return RasterHeader(
        height, width, 3, decoder_bytes=height * width * 6 + len(data), palette=palette
    )
