"""JPEG data: headers, and strict decoding, by which damage is an error and not grey pixels.

libjpeg fills what it cannot decode with grey and merely warns. simplejpeg passes its warnings on.
JPEG has no checksum: a changed byte that still decodes to a complete image cannot be noticed.
"""

import struct
from math import ceil

import numpy as np

from mediar_infer.arrays import AnyArray
from mediar_infer.images.exif import count_pictures, exif_orientation
from mediar_infer.images.faults import DamagedFile
from mediar_infer.images.raster_header import PICTURES_NOTE, ZEROS_NOTE, RasterHeader

_NO_FRAMES = (0xC4, 0xC8, 0xCC)
"""Markers among those of frames that are tables and extensions."""
_PROGRESSIVE = (0xC2, 0xC6)
_LOSSLESS = (0xC3, 0xC7)
_ARITHMETIC = 0xC9
"""First marker of arithmetic coding, which may take less than a bit for a block."""
_END = b"\xff\xd9"
_ZEROS = bytes(1024)
_DAMAGE = ("Corrupt JPEG data", "Premature end")
"""How libjpeg's warnings about missing or wrong pixels begin; others are about the header."""


def read_jpeg_header(data: bytes) -> RasterHeader:
    """Read the frame header and check that the data can fill the frame.

    Args:
        data: the whole file.

    Raises:
        DamagedFile: if the header is damaged, the end is missing, or the data are too short.
    """
    frame: tuple[int, int] | None = None
    orientation = n_pictures = 1
    position = 2
    while (marker := data[position + 1]) != 0xDA:  # start of scan
        if data[position] != 0xFF:
            raise DamagedFile(f"no marker at byte {position}")
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        length = int(struct.unpack_from(">H", data, position + 2)[0])
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAMES:
            frame = (marker, position)
        elif marker == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0":
            orientation = exif_orientation(data[position + 10 : position + 2 + length])
        elif marker == 0xE2 and data[position + 4 : position + 8] == b"MPF\0":
            n_pictures = count_pictures(data[position + 8 : position + 2 + length])
        position += 2 + length
    if frame is None:
        raise DamagedFile("no frame header")
    # inside a scan 0xFF is always escaped, so the last end-of-image marker after its start tells
    # that the file is whole
    if data.rfind(_END) < position:
        raise DamagedFile("the end-of-image marker is missing")
    marker, start = frame
    bits, height, width, n_channels = struct.unpack_from(">BHHB", data, start + 4)
    n_bits = _least_bits(data, marker, start)
    if n_bits > 8 * (len(data) - position):
        raise DamagedFile(
            f"{height:,} × {width:,} pixels claimed, {len(data) - position:,} bytes cannot fill"
            " them"
        )
    n_bytes = height * width * n_channels * (1 if bits <= 8 else 2)
    notes = (PICTURES_NOTE.format(n_pictures),) if n_pictures > 1 else ()
    if marker in _PROGRESSIVE:  # all coefficients are held, 16 bits each
        n_bytes += 2 * height * width * n_channels
        # zeros are valid code in most of its scans; only a wide flat area would be coded so
        if data.find(_ZEROS, position) >= 0:
            notes = (*notes, ZEROS_NOTE.format("JPEG"))
    return RasterHeader(
        height,
        width,
        n_channels,
        decoder_bytes=n_bytes + len(data),
        orientation=orientation,
        warnings=notes,
    )


def _least_bits(data: bytes, marker: int, start: int) -> int:
    """The smallest number of bits in which the frame can be coded."""
    _, height, width, n = struct.unpack_from(">BHHB", data, start + 4)
    factors = [divmod(data[start + 11 + 3 * k], 16) for k in range(n)]
    if marker >= _ARITHMETIC or not factors:
        return 0
    if marker in _LOSSLESS:
        return int(height * width)
    across, down = max(f[0] for f in factors), max(f[1] for f in factors)
    if across == 0 or down == 0:
        raise DamagedFile("a sampling factor of 0")
    n_blocks: int = sum(
        ceil(ceil(width * f[0] / across) / 8) * ceil(ceil(height * f[1] / down) / 8)
        for f in factors
    )
    # one bit for the mean of a block; in a sequential frame one for the end of the rest
    return n_blocks if marker in _PROGRESSIVE else 2 * n_blocks


def decode_jpeg(data: bytes, header: RasterHeader) -> tuple[AnyArray, tuple[str, ...]]:
    """Decode a whole file.

    Args:
        data: the file.
        header: its header; of 1 or 3 channels.

    Returns:
        ``(H, W)`` or ``(H, W, 3)``, in the order red, green, blue, and sentences about data behind
        a complete image.

    Raises:
        DamagedFile: if the decoder warns of damage.
    """
    import imagecodecs
    import simplejpeg

    colours = "GRAY" if header.n_channels == 1 else "RGB"
    try:
        image = simplejpeg.decode_jpeg(data, colorspace=colours)
    except ValueError as exc:
        notes = _judge(data, str(exc))
        return imagecodecs.jpeg_decode(data), notes
    return np.asarray(image)[:, :, 0] if header.n_channels == 1 else np.asarray(image), ()


def check_jpeg(data: bytes) -> tuple[str, ...]:
    """Check data without keeping the image, for half the cost of decoding colours.

    Args:
        data: a file, or a TIFF strip or tile with its tables.

    Returns:
        Sentences about data behind a complete image.

    Raises:
        DamagedFile: if the decoder warns of damage.
    """
    import simplejpeg

    try:
        simplejpeg.decode_jpeg(data, colorspace="GRAY")
    except ValueError as exc:
        return _judge(data, str(exc))
    return ()


def _judge(data: bytes, message: str) -> tuple[str, ...]:
    """What a complaint of the strict decoder means.

    Returns:
        A sentence for data that are merely in excess; nothing where this decoder does not know the
        kind of JPEG (12 bits, odd sampling) or complains about a harmless field.

    Raises:
        DamagedFile: if pixels are wrong or missing.
    """
    if not message.startswith(_DAMAGE):
        return ()
    if "extraneous bytes before marker 0xd9" in message:
        return (f"JPEG data beyond the image ({message}): parts may be wrong, compare the picture",)
    raise DamagedFile(message)


def with_tables(tables: bytes | None, segment: bytes) -> bytes:
    """A TIFF strip or tile as a file of its own.

    Args:
        tables: content of the JPEGTables tag, if the file has one.
        segment: the strip or tile.
    """
    if not tables or segment[:2] != b"\xff\xd8" or not tables.endswith(_END):
        return segment
    return tables[:-2] + segment[2:]
