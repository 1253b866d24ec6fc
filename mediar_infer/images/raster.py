"""PNG, JPEG, BMP and JPEG 2000 files: checked, then decoded whole."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mediar_infer.arrays import AnyArray
from mediar_infer.errors import ImageReadError
from mediar_infer.images.bmp import decode_masked, read_bmp_header
from mediar_infer.images.channels import DROPPED_OPACITY
from mediar_infer.images.exif import turn_upright
from mediar_infer.images.faults import DamagedFile, reading
from mediar_infer.images.jpeg import check_jpeg, decode_jpeg, read_jpeg_header
from mediar_infer.images.jpeg2000 import read_jpeg2000_header
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.palettes import COLOURS_NOTE, RAMP_NOTE, is_grey, is_ramp
from mediar_infer.images.planes import choose_planes
from mediar_infer.images.png import read_png_header
from mediar_infer.images.raster_header import RasterHeader
from mediar_infer.images.sources import ArraySource

_HEADERS: dict[str, Callable[[bytes], RasterHeader]] = {
    "PNG": read_png_header,
    "JPEG": read_jpeg_header,
    "BMP": read_bmp_header,
    "JPEG 2000": read_jpeg2000_header,
}


def open_raster(
    format_name: str, path: Path, options: ReadOptions, notes: tuple[str, ...]
) -> ArraySource:
    """Read and decode a whole file.

    Args:
        format_name: ``PNG``, ``JPEG``, ``BMP`` or ``JPEG 2000``.
        path: the file.
        options: limits, and whether an orientation is applied.
        notes: sentences to start the warnings with.

    Returns:
        The image.

    Raises:
        ImageReadError: if the file is damaged, incomplete, too large or not supported.
    """
    with reading(path.name, f"{format_name} data"):
        data = path.read_bytes()
    header = read_header(path.name, format_name, data)
    options.check_decoded(path.name, header.height, header.width, header.decoder_bytes)
    found = [*notes, *choose_planes(path.name, (), options, shown="")[1], *header.warnings]
    with reading(path.name, f"{format_name} data"):
        image, more = _decode(format_name, data, header)
        found += more
        if header.palette is not None:
            image, more = _judge_palette(image, header)
            found += more
        if header.is_transparent:
            image, more = _without_transparency(image)
            found += more
    if header.orientation != 1:
        image, note = _oriented(image, header.orientation, apply=options.apply_orientation)
        found.append(note)
    return ArraySource(
        image,
        path.name,
        has_alpha=header.has_alpha,
        warnings=found,
        channels=options.channels,
        is_channels_last=True,
    )


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


def decode(name: str, format_name: str, data: bytes, header: RasterHeader) -> AnyArray:
    """Decode a whole file into its stored channels.

    Args:
        name: file name, for messages.
        format_name: as in :func:`read_header`.
        data: the whole file.
        header: its header.

    Returns:
        ``(H, W)`` or ``(H, W, C)`` as stored, colours in the order red, green, blue[, alpha].

    Raises:
        ImageReadError: if the file is damaged or of an unsupported kind.
    """
    with reading(name, f"{format_name} data"):
        return _decode(format_name, data, header)[0]


def _decode(
    format_name: str, data: bytes, header: RasterHeader
) -> tuple[AnyArray, tuple[str, ...]]:
    import imagecodecs

    notes: tuple[str, ...] = ()
    if format_name == "PNG":
        image = imagecodecs.png_decode(data)
    elif format_name == "JPEG 2000":
        image = imagecodecs.jpeg2k_decode(data)
    elif format_name == "BMP":
        masked = decode_masked(data)
        image = _decode_by_opencv(data) if masked is None else masked
    elif header.n_channels in (1, 3):
        image, notes = decode_jpeg(data, header)
    else:  # only OpenCV knows inverted CMYK and YCCK
        notes = check_jpeg(data)
        image = _decode_by_opencv(data)
    if image.shape[:2] != (header.height, header.width):
        raise DamagedFile(
            f"{image.shape[:2]} decoded, {(header.height, header.width)} in the header"
        )
    return image, notes


def _decode_by_opencv(data: bytes) -> AnyArray:
    import cv2

    # with IMREAD_UNCHANGED, CMYK would stay unconverted in some builds; colour never turns here
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    # its own words on the standard error would not name the file
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    finally:
        cv2.utils.logging.setLogLevel(level)
    if image is None:
        raise DamagedFile("not decodable")
    return np.asarray(image)[:, :, ::-1]


def _judge_palette(image: AnyArray, header: RasterHeader) -> tuple[AnyArray, tuple[str, ...]]:
    """Decoded colours of a table, or the brightness of a one-colour table as grey."""
    palette = header.palette
    if palette is None or is_grey(palette):
        return image, ()
    if is_ramp(palette):
        grey = image[:, :, int(palette[-1].argmax())]
        if header.is_transparent:
            grey = np.dstack([grey, image[:, :, -1]])
        return grey, (RAMP_NOTE,)
    return image, (COLOURS_NOTE,)


def _without_transparency(image: AnyArray) -> tuple[AnyArray, tuple[str, ...]]:
    opacity = image[:, :, -1]
    varies = bool((opacity != opacity[0, 0]).any())
    return image[:, :, :-1], (DROPPED_OPACITY,) if varies else ()


def _oriented(image: AnyArray, orientation: int, *, apply: bool) -> tuple[AnyArray, str]:
    """The image as stored, or upright, and a sentence about it."""
    if apply:
        return turn_upright(image, orientation), f"EXIF orientation {orientation} is applied"
    return image, (
        f"EXIF orientation {orientation} is not applied: labels lie on the rows as stored;"
        " turn them with --apply-orientation"
    )
