"""PNG headers."""

import struct
from math import ceil

from mediar_infer.images.exif import exif_orientation
from mediar_infer.images.faults import DamagedFile
from mediar_infer.images.palettes import to_colours
from mediar_infer.images.raster_header import PICTURES_NOTE, RasterHeader

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Colour type → stored samples per pixel."""
_DEFLATE_RATIO = 1032
"""No deflated byte holds more bytes than this."""


def read_png_header(data: bytes) -> RasterHeader:
    """Read the header and find the end; the decoder checks what lies between by its checksums.

    Args:
        data: the whole file.

    Raises:
        DamagedFile: if the end is missing, or the data cannot fill the image.
    """
    width, height, bits, colour_type, _, _, _ = struct.unpack_from(">IIBBBBB", data, 16)
    n_stored = _CHANNELS.get(colour_type, 1)
    orientation, n_deflated = 1, 0
    is_transparent = False
    palette = None
    n_frames, is_first_frame = 0, False
    position = 8
    while True:
        if position >= len(data):
            raise DamagedFile("the end of the image is missing")
        length, kind = struct.unpack_from(">I4s", data, position)
        content = position + 8
        if kind == b"eXIf":
            orientation = exif_orientation(data[content : content + length])
        elif kind == b"PLTE" and colour_type == 3:
            palette = to_colours(data[content : content + length], 3)
        elif kind == b"acTL":
            (n_frames,) = struct.unpack_from(">I", data, content)
        elif kind == b"fcTL" and n_deflated == 0:
            is_first_frame = True
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
    n_pictures = n_frames if is_first_frame or n_frames == 0 else n_frames + 1
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
        warnings=(PICTURES_NOTE.format(n_pictures),) if n_pictures > 1 else (),
    )
