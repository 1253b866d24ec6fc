"""Headers of MHA images: read with every field checked, and written."""

import math
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from mediar_infer.images.faults import DamagedFile
from mediar_infer.images.geometry import Geometry

_DTYPES: dict[str, tuple[str, ...]] = {
    "CHAR": ("i1",),
    "UCHAR": ("u1",),
    "SHORT": ("i2",),
    "USHORT": ("u2",),
    "INT": ("i4",),
    "UINT": ("u4",),
    "LONG": ("i4", "i8"),
    "ULONG": ("u4", "u8"),
    "LONG_LONG": ("i8",),
    "ULONG_LONG": ("u8",),
    "FLOAT": ("f4",),
    "DOUBLE": ("f8",),
}
"""``ElementType`` without its prefix → numpy's types; of two the size of the data decides."""
_ELEMENT_TYPES = {"u1": "MET_UCHAR", "u2": "MET_USHORT", "u4": "MET_UINT"}
_MAX_DIMENSIONS = 7
_MAX_HEADER_BYTES = 2**16
_LOCAL = ("LOCAL", "Local", "local")


@dataclass(frozen=True, slots=True)
class MetaHeader:
    """What an MHA file says of its pixels."""

    sizes: tuple[int, ...]
    """Pixels along x, y[, z …]."""
    n_channels: int
    """Interleaved numbers per pixel."""
    dtypes: tuple[np.dtype[Any], ...]
    """Data types that an item may have, smaller ones first; the byte order of the file."""
    is_compressed: bool
    """The pixels are one deflated stream."""
    compressed_bytes: int | None
    """Bytes of that stream; ``None`` for the rest of the file."""
    data_start: int
    """Where the pixels begin in the file; -1 if they end with it."""
    geometry: Geometry
    """Place of the whole image in space."""

    @property
    def n_items(self) -> int:
        """Numbers in the file."""
        return math.prod(self.sizes) * self.n_channels


def read_meta_header(file: IO[bytes]) -> MetaHeader:
    """Read the header at the beginning of a file.

    Args:
        file: an open file; its position changes.

    Raises:
        DamagedFile: if a field is missing, contradicts others or is not supported.
    """
    fields, end = _read_fields(file)
    if fields.get("ObjectType", "Image") != "Image":
        raise DamagedFile(f"an object of type {fields['ObjectType']}")
    n_dimensions = _whole_number(fields, "NDims")
    sizes = tuple(_whole_numbers(fields, "DimSize"))
    n_channels = _whole_number(fields, "ElementNumberOfChannels", 1)
    if n_dimensions != len(sizes) or not 2 <= n_dimensions <= _MAX_DIMENSIONS:
        raise DamagedFile(f"{n_dimensions} dimensions with the sizes {sizes}")
    if min(sizes) < 1 or n_channels < 1:
        raise DamagedFile(f"the sizes {sizes} with {n_channels} channels")
    if not _flag(fields, "BinaryData", default=True):
        raise DamagedFile("pixels written as text")
    is_compressed = _flag(fields, "CompressedData", default=False)
    compressed_bytes = _whole_number(fields, "CompressedDataSize", 0)
    header_size = _whole_number(fields, "HeaderSize", 0)
    if compressed_bytes < 0 or header_size < -1 or (is_compressed and header_size == -1):
        raise DamagedFile(f"HeaderSize {header_size} with CompressedDataSize {compressed_bytes}")
    return MetaHeader(
        sizes,
        n_channels,
        _dtypes(fields),
        is_compressed,
        compressed_bytes or None,
        header_size or end,
        _geometry(fields, n_dimensions),
    )


def format_header(
    sizes: tuple[int, ...], dtype: np.dtype[Any], n_bytes: int, geometry: Geometry | None
) -> bytes:
    """The header of a compressed image in little-endian order.

    Args:
        sizes: pixels along x, y[, z …].
        dtype: uint8, uint16 or uint32.
        n_bytes: bytes of the compressed pixels.
        geometry: place in space; ``None`` for unit spacing at the origin.
    """
    n = len(sizes)
    if geometry is None:
        geometry = Geometry((1.0,) * n, (0.0,) * n, tuple(np.eye(n).ravel().tolist()))
    columns = np.reshape(geometry.direction, (n, n)).T.ravel()
    fields = {
        "ObjectType": "Image",
        "NDims": str(n),
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "True",
        "CompressedDataSize": str(n_bytes),
        "TransformMatrix": _join(columns),
        "Offset": _join(geometry.origin),
        "CenterOfRotation": _join([0] * n),
        "ElementSpacing": _join(geometry.spacing),
        "DimSize": _join(sizes),
        "ElementType": _ELEMENT_TYPES[dtype.newbyteorder("=").str[1:]],
        "ElementDataFile": "LOCAL",
    }
    return "".join(f"{key} = {value}\n" for key, value in fields.items()).encode("ascii")


def _join(numbers: Any) -> str:  # noqa: ANN401  (any sequence of numbers)
    return " ".join(f"{number:.17g}" for number in numbers)


def _read_fields(file: IO[bytes]) -> tuple[dict[str, str], int]:
    """Keys and values up to the one that ends the header, and where it ends."""
    fields: dict[str, str] = {}
    file.seek(0)
    while file.tell() < _MAX_HEADER_BYTES:
        line = file.readline(_MAX_HEADER_BYTES)
        if not line.endswith(b"\n"):
            break
        key, _, value = (part.strip() for part in line.decode("utf-8", "replace").partition("="))
        fields[key] = value
        if key == "ElementDataFile":
            if value not in _LOCAL:
                raise DamagedFile(f"the pixels are in another file, {value}")
            return fields, file.tell()
    raise DamagedFile("the header is cut off")


def _value(fields: dict[str, str], key: str) -> str:
    if key not in fields:
        raise DamagedFile(f"without a known {key}")
    return fields[key]


def _whole_numbers(fields: dict[str, str], key: str) -> list[int]:
    text = _value(fields, key)
    try:
        return [int(number) for number in text.split()]
    except ValueError:
        raise DamagedFile(f"{key} {text}, not whole numbers") from None


def _whole_number(fields: dict[str, str], key: str, default: int | None = None) -> int:
    if key not in fields and default is not None:
        return default
    numbers = _whole_numbers(fields, key)
    if len(numbers) != 1:
        raise DamagedFile(f"{key} {fields[key]}, not one whole number")
    return numbers[0]


def _flag(fields: dict[str, str], key: str, *, default: bool) -> bool:
    text = fields.get(key, str(default)).lower()
    if text not in ("true", "t", "1", "false", "f", "0"):
        raise DamagedFile(f"{key} {fields[key]}, neither True nor False")
    return text in ("true", "t", "1")


def _dtypes(fields: dict[str, str]) -> tuple[np.dtype[Any], ...]:
    kind = _value(fields, "ElementType").removeprefix("MET_").removesuffix("_ARRAY")
    if kind not in _DTYPES:
        raise DamagedFile(f"without a known {kind}")
    keys = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
    orders = {_flag(fields, key, default=False) for key in keys if key in fields}
    if len(orders) > 1:
        raise DamagedFile("two byte orders")
    order = ">" if orders == {True} else "<"
    return tuple(np.dtype(order + name) for name in _DTYPES[kind])


def _geometry(fields: dict[str, str], n: int) -> Geometry:
    """Spacing, origin and direction by any of their keys, as ITK understands them."""
    spacing = np.asarray(_numbers(fields, ("ElementSpacing", "ElementSize"), [1.0] * n))
    origin = _numbers(fields, ("Offset", "Position", "Origin"), [0.0] * n)
    identity = np.eye(n).ravel().tolist()
    matrix = _numbers(fields, ("TransformMatrix", "Rotation", "Orientation"), identity)
    axes = np.reshape(matrix, (n, n))  # one axis per row; ITK has them in columns
    if not spacing.all():
        raise DamagedFile("a spacing of 0")
    if np.linalg.det(axes) == 0:
        raise DamagedFile("a direction matrix whose determinant is 0")
    direction = (axes * np.sign(spacing)[:, None]).T
    sizes: list[float] = np.abs(spacing).tolist()
    return Geometry(
        tuple(sizes),
        tuple(origin),
        tuple(direction.ravel().tolist()),
        is_measured=sizes[:2] != [1.0, 1.0],  # what ITK writes where nothing is known
    )


def _numbers(fields: dict[str, str], keys: tuple[str, ...], default: list[float]) -> list[float]:
    key = next((key for key in keys if key in fields), None)
    if key is None:
        return default
    try:
        numbers = [float(number) for number in fields[key].split()]
    except ValueError:
        numbers = []
    if len(numbers) != len(default) or not all(map(math.isfinite, numbers)):
        raise DamagedFile(f"{key} {fields[key]}, not {len(default)} numbers")
    return numbers
