"""PNG, JPEG, BMP and JPEG 2000 files: recognised by content, checked, decoded whole."""

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mediar_infer.errors import ImageReadError
from mediar_infer.images.sources import AnyArray

_MAGIC: dict[bytes, str] = {
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"ObjectType": "MHA",
    b"Comment =": "MHA",
    b"NDims": "MHA",
    b"GIF8": "GIF",
    b"RIFF": "RIFF (WebP or AVI)",
    b"%PDF": "PDF",
    b"PK\x03\x04": "ZIP",
    b"\x1f\x8b": "gzip",
    b"\x89HDF": "HDF5",
    b"ZISRAWFILE": "Zeiss CZI",
    b"\xda\xce\xbe\x0a": "Nikon ND2",
    b"\xd0\xcf\x11\xe0": "OLE container (OIB, ZVI)",
}
READABLE = frozenset({"TIFF", "PNG", "JPEG", "BMP", "JPEG 2000", "MHA"})
"""Formats that can be opened."""
HEAD_BYTES = 32
"""How much of a file ``find_format`` wants to see."""


@dataclass(frozen=True, slots=True)
class RasterHeader:
    """What a file says of itself before it is decoded."""

    height: int
    """Rows as stored, before the orientation is applied."""
    width: int
    """Columns as stored."""
    n_channels: int
    """Stored channels; 0 where the header does not tell."""
    has_alpha: bool = False
    """The last decoded channel is opacity."""
    orientation: int = 1
    """EXIF orientation, 1 … 8; 1 is upright."""


def find_format(head: bytes) -> str:
    """Name the format of a file by its first bytes.

    Args:
        head: the first ``HEAD_BYTES`` bytes, fewer if the file is shorter.

    Returns:
        A member of ``READABLE``, or a description of what else was found.
    """
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    if not head.strip(b"\0"):
        return "zero bytes"
    if all(byte in b"\t\n\r\f" or byte >= 32 for byte in head) and b"\x7f" not in head:
        return "text"
    return f"unknown content (first bytes {head[:8].hex(' ')})"


def read_header(name: str, format_name: str, data: bytes) -> RasterHeader:
    """Read the size and check that the file is complete, as far as the format can tell.

    Args:
        name: file name, for messages.
        format_name: ``PNG``, ``JPEG``, ``BMP`` or ``JPEG 2000``.
        data: the whole file.

    Returns:
        The header.

    Raises:
        ImageReadError: if the header is damaged or the end of the file is missing.
    """
    try:
        header = _HEADERS[format_name](data)
    except (struct.error, IndexError):
        raise _damaged(name, format_name, "the header is cut off") from None
    except _DamagedFileError as exc:
        raise _damaged(name, format_name, str(exc)) from None
    if header.height < 1 or header.width < 1:
        found = f"an image of {header.height} × {header.width} pixels"
        raise ImageReadError(f"{name}: found {found}, expected at least 1 × 1; export it again")
    return header


def decode(name: str, format_name: str, data: bytes, header: RasterHeader) -> AnyArray:
    """Decode a whole file and turn it upright.

    Args:
        name: file name, for messages.
        format_name: as in ``read_header``.
        data: the whole file.
        header: its header.

    Returns:
        ``(H, W)`` or ``(H, W, C)``, colours in the order red, green, blue[, alpha].

    Raises:
        ImageReadError: if the file is damaged or of an unsupported variant.
    """
    import cv2
    import imagecodecs

    try:
        if (format_name, header.n_channels) == ("JPEG", 4) or format_name == "BMP":
            # only OpenCV knows run lengths (BMP) and inverted CMYK and YCCK (JPEG)
            image = _decode_by_opencv(data)
        elif format_name == "PNG":
            image = imagecodecs.png_decode(data)
        elif format_name == "JPEG":
            image = imagecodecs.jpeg_decode(data)
        else:
            image = imagecodecs.jpeg2k_decode(data)
    except (RuntimeError, ValueError, TypeError, NotImplementedError, cv2.error) as exc:
        raise _damaged(name, format_name, str(exc)) from exc
    if image.shape[:2] != (header.height, header.width):
        detail = f"{image.shape[:2]} decoded, {(header.height, header.width)} in the header"
        raise _damaged(name, format_name, detail)
    return _turn_upright(image, header.orientation)


def _decode_by_opencv(data: bytes) -> AnyArray:
    import cv2

    # with IMREAD_UNCHANGED, CMYK would stay unconverted in some builds; colour never turns here
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise ValueError("not decodable")
    return np.asarray(image)[:, :, ::-1]


def _turn_upright(image: AnyArray, orientation: int) -> AnyArray:
    """Undo an EXIF orientation (5 … 8 exchange height and width)."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image


class _DamagedFileError(Exception):
    """What is wrong with the bytes, without the file's name."""


def _damaged(name: str, format_name: str, detail: str) -> ImageReadError:
    return ImageReadError(
        f"{name}: found a truncated, damaged or unsupported {format_name} file ({detail}), "
        f"expected a complete one; copy or export it again"
    )


def _png_header(data: bytes) -> RasterHeader:
    width, height, _, colour_type = struct.unpack_from(">IIBB", data, 16)
    n_channels = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}.get(colour_type, 0)
    orientation = 1
    has_transparency = False
    position = 8
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"eXIf":
            orientation = _exif_orientation(data[position + 8 : position + 8 + length])
        has_transparency |= kind == b"tRNS"
        if kind == b"IEND":
            break
        position += length + 12
    else:
        raise _DamagedFileError("the end of the image is missing")
    # libpng expands a transparent colour to an alpha channel
    has_alpha = colour_type in (4, 6) or has_transparency
    return RasterHeader(height, width, n_channels, has_alpha, orientation)


def _jpeg_header(data: bytes) -> RasterHeader:
    size: tuple[int, int, int] | None = None
    orientation = 1
    position = 2
    while (marker := data[position + 1]) != 0xDA:  # start of scan
        if data[position] != 0xFF:
            raise _DamagedFileError(f"no marker at byte {position}")
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        length = int(struct.unpack_from(">H", data, position + 2)[0])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            size = struct.unpack_from(">HHB", data, position + 5)
        elif marker == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0":
            orientation = _exif_orientation(data[position + 10 : position + 2 + length])
        position += 2 + length
    if size is None:
        raise _DamagedFileError("no frame header")
    # libjpeg would fill what is missing with grey; inside a scan 0xFF is always escaped,
    # so the last end-of-image marker after its start tells that the file is whole
    if data.rfind(b"\xff\xd9") < position:
        raise _DamagedFileError("the end-of-image marker is missing")
    return RasterHeader(size[0], size[1], size[2], False, orientation)


def _bmp_header(data: bytes) -> RasterHeader:
    (offset, header_bytes) = struct.unpack_from("<II", data, 10)
    if header_bytes == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    row_bytes = (width * bits + 31) // 32 * 4
    is_packed = compression in (0, 3, 6)
    if is_packed and offset + row_bytes * abs(height) > len(data):
        raise _DamagedFileError(
            f"{offset + row_bytes * abs(height)} bytes needed, {len(data)} found"
        )
    return RasterHeader(abs(height), width, 3)


def _jpeg2000_header(data: bytes) -> RasterHeader:
    start = data.find(b"\xff\x4f\xff\x51")  # start of codestream and its size segment
    if start < 0:
        raise _DamagedFileError("no codestream")
    right, bottom, left, top = struct.unpack_from(">IIII", data, start + 8)
    (n_channels,) = struct.unpack_from(">H", data, start + 40)
    if data.rfind(b"\xff\xd9") < start:
        raise _DamagedFileError("the end-of-codestream marker is missing")
    is_boxed = start > 0  # a bare codestream says nothing about the meaning of its channels
    has_alpha = is_boxed and _has_jpeg2000_alpha(data[:start], n_channels)
    return RasterHeader(bottom - top, right - left, n_channels, has_alpha)


def _has_jpeg2000_alpha(boxes: bytes, n_channels: int) -> bool:
    """Whether a channel is opacity: by the channel definitions, else by the number of channels."""
    definitions = _find_box(_find_box(boxes, b"jp2h") or b"", b"cdef")
    if definitions is None:
        return n_channels in (2, 4)
    (n_defined,) = struct.unpack_from(">H", definitions)
    kinds = [struct.unpack_from(">HHH", definitions, 2 + 6 * k)[1] for k in range(n_defined)]
    return any(kind in (1, 2) for kind in kinds)  # opacity, premultiplied opacity


def _find_box(boxes: bytes, wanted: bytes) -> bytes | None:
    """Content of the first JPEG 2000 box of a kind; other boxes are not looked into."""
    position = 0
    while position + 8 <= len(boxes):
        length, kind = struct.unpack_from(">I4s", boxes, position)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", boxes, position + 8)
            head = 16
        end = len(boxes) if length == 0 else position + length
        if end < position + head:
            raise _DamagedFileError(f"a box of {length} bytes")
        if kind == wanted:
            return boxes[position + head : end]
        position = end
    return None


_HEADERS: dict[str, Callable[[bytes], RasterHeader]] = {
    "PNG": _png_header,
    "JPEG": _jpeg_header,
    "BMP": _bmp_header,
    "JPEG 2000": _jpeg2000_header,
}


def _exif_orientation(exif: bytes) -> int:
    """The orientation tag of an EXIF block (a small TIFF); 1 if it has none or is damaged."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (n_tags,) = struct.unpack_from(f"{order}H", exif, start)
        for k in range(n_tags):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, start + 2 + 12 * k)
            if tag == 0x0112:
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1
