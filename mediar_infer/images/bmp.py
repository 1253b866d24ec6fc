"""BMP headers, and pixels whose colours lie where masks say."""

import struct
from typing import Final

import numpy as np
import numpy.typing as npt

from mediar_infer.images.faults import DamagedFile
from mediar_infer.images.palettes import to_colours
from mediar_infer.images.raster_header import RasterHeader

_SHORT_HEADER: Final = 12
"""Bytes of the oldest header, which has neither a layout nor masks."""
_BIT_FIELDS: Final = (3, 6)
"""Numbers of the layouts in which masks name the bits of each colour."""
_MASKS_AT: Final = 54
"""Behind a header of 40 bytes, or inside a longer one."""
_MASKED_BITS: Final = 32
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
    if header_bytes == _SHORT_HEADER:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
        (n_colours,) = struct.unpack_from("<I", data, 46)
    height = abs(height)
    if not 1 <= bits <= 32:
        raise DamagedFile(f"{bits} bits per pixel")
    row_bytes = (width * bits + 31) // 32 * 4
    needed = row_bytes * height
    if compression not in (0, *_BIT_FIELDS):
        needed = height * width // _RUN_PIXELS * 2
    if offset + needed > len(data):
        raise DamagedFile(f"{offset + needed:,} bytes needed, {len(data):,} found")
    palette = None
    if bits <= 8:
        entry = 3 if header_bytes == _SHORT_HEADER else 4
        start, count = 14 + header_bytes, min(n_colours or 1 << bits, 1 << bits)
        colours = to_colours(data[start : min(start + count * entry, offset)], entry)
        palette = colours[:, 2::-1]
    return RasterHeader(
        height, width, 3, decoder_bytes=height * width * 6 + len(data), palette=palette
    )


def decode_masked(data: bytes) -> npt.NDArray[np.uint8] | None:
    """Decode pixels of 32 bits by the masks of the file: OpenCV knows masks of long headers only.

    Args:
        data: the whole file, its header checked.

    Returns:
        ``(H, W, 3)`` red, green and blue; None for a file without masks, or of 16 bits.

    Raises:
        DamagedFile: if the masks are not of 8 bits each.
    """
    offset, header_bytes, width, height, _, bits, compression = struct.unpack_from(
        "<IIiiHHI", data, 10
    )
    if header_bytes == _SHORT_HEADER or bits != _MASKED_BITS or compression not in _BIT_FIELDS:
        return None
    masks = struct.unpack_from("<III", data, _MASKS_AT)
    shifts = [(mask & -mask).bit_length() - 1 for mask in masks]
    is_apart = masks[0] | masks[1] | masks[2] == sum(masks)
    if not is_apart or any(
        mask != 0xFF << max(shift, 0) for mask, shift in zip(masks, shifts, strict=True)
    ):
        shown = ", ".join(f"{mask:08x}" for mask in masks)
        raise DamagedFile(f"colour masks {shown}, three of 8 bits each expected")
    pixels = np.frombuffer(data, "<u4", abs(height) * width, offset).reshape(abs(height), width)
    rows = pixels if height < 0 else pixels[::-1]  # the lowest row comes first
    return np.stack([rows >> shift & 0xFF for shift in shifts], axis=-1).astype(np.uint8)
