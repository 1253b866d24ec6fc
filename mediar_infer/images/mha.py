"""MHA images (MetaImage with its pixels in the same file): checked, then read by SimpleITK.

SimpleITK reports a truncated file on the standard error and returns wrong pixels for a damaged
compressed one, so that all bytes are accounted for here before it gets to see the file. It is
imported where such a file is met: that takes half a second.
"""

import shutil
import tempfile
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from mediar_infer.errors import ImageReadError, OutputError
from mediar_infer.images.sources import (
    AnyArray,
    ArraySource,
    Geometry,
    check_n_pixels,
    choose_plane,
)

_ITEM_BYTES = {
    "CHAR": 1,
    "UCHAR": 1,
    "SHORT": 2,
    "USHORT": 2,
    "INT": 4,
    "UINT": 4,
    "LONG": 4,
    "ULONG": 4,
    "LONG_LONG": 8,
    "ULONG_LONG": 8,
    "FLOAT": 4,
    "DOUBLE": 8,
}
"""``ElementType`` without its prefix → bytes; the same on all machines."""
_AXES = "XYZTUVW"
_MAX_HEADER_BYTES = 2**16
_CHUNK_BYTES = 2**20
_ZLIB_OR_GZIP = 47
"""Window bits by which zlib takes both kinds of stream, as SimpleITK does."""


class _DamagedFileError(Exception):
    """What is wrong with the bytes, without the file's name."""


@dataclass(frozen=True, slots=True)
class _Header:
    sizes: tuple[int, ...]
    """Pixels along x, y[, z …]."""
    n_bytes: int
    """Bytes of all pixels, once decompressed."""
    is_compressed: bool
    """The pixels are one deflated stream."""
    data_start: int
    """Where the pixels begin in the file."""
    data_bytes: int | None
    """Bytes that they take there; None for the rest of the file."""


def open_meta_image(
    path: Path, *, plane: int | None, max_pixels: int, notes: list[str]
) -> ArraySource:
    """Read an MHA image, or one plane of a stack.

    Args:
        path: the file.
        plane: index along the flattened axes behind x and y, from 0.
        max_pixels: largest accepted height × width.
        notes: sentences to start the list of warnings with.

    Returns:
        The image, with its geometry: of a plane that of a stack of one.

    Raises:
        ImageReadError: if the file is damaged, incomplete, too large or not one 2-D image.
    """
    try:
        with path.open("rb") as file:
            header = _read_header(file)
            width, height, *stack = header.sizes
            check_n_pixels(path.name, height, width, max_pixels)
            letters = _AXES[: len(header.sizes)][::-1]
            shape = " × ".join(map(str, reversed(header.sizes)))
            chosen, more = choose_plane(
                path.name, f"axes {letters}, shape {shape}", prod(stack), plane
            )
            _check_data(file, header)
        index = np.unravel_index(chosen, stack[::-1])[::-1] if stack else ()
        image = _read_plane(path, (width, height), [int(k) for k in index])
    except OSError as exc:
        raise ImageReadError(
            f"{path.name}: reading failed ({exc.strerror}), expected a readable file; copy it again"
        ) from exc
    except _DamagedFileError as exc:
        raise ImageReadError(
            f"{path.name}: found a truncated, damaged or unsupported MHA file ({exc}), expected a"
            " complete one with its pixels in the same file; copy or export it again"
        ) from exc
    source = ArraySource(_to_array(image, height, width), path.name, warnings=[*notes, *more])
    source.geometry = Geometry(image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    return source


def write_meta_image(file: IO[bytes], labels: AnyArray, geometry: Geometry | None) -> None:
    """Write an image as compressed MHA.

    Args:
        file: where to; written from its current position.
        labels: ``(H, W)`` of unsigned integers.
        geometry: place in space; of a stack's plane the result is a stack of one.

    Raises:
        OSError: if a disk is full or not writable, that of temporary files included.
        OutputError: if SimpleITK cannot write for another reason.
    """
    import SimpleITK

    n_stacked = len(geometry.spacing) - 2 if geometry else 0
    image = SimpleITK.GetImageFromArray(labels.reshape((1,) * n_stacked + labels.shape))
    if geometry is not None:
        image.SetSpacing(geometry.spacing)
        image.SetOrigin(geometry.origin)
        image.SetDirection(geometry.direction)
    # SimpleITK goes by the extension of a path, which an unfinished result has not.
    with tempfile.TemporaryDirectory(prefix="mediar-") as folder:
        path = Path(folder) / "labels.mha"
        try:
            SimpleITK.WriteImage(image, str(path), useCompression=True)
            with path.open("rb") as written:
                _check_data(written, _read_header(written))
                written.seek(0)
                shutil.copyfileobj(written, file)
        except (RuntimeError, _DamagedFileError) as exc:
            raise OutputError(
                f"{path}: cannot be written ({_reason(exc)}), expected room for temporary files in"
                f" {path.parent.parent}; free some space there"
            ) from exc


def _read_header(file: IO[bytes]) -> _Header:
    fields, start = _read_fields(file)
    try:
        sizes = tuple(int(size) for size in fields["DimSize"].split())
        n_channels = int(fields.get("ElementNumberOfChannels", "1"))
        kind = fields["ElementType"].removeprefix("MET_").removesuffix("_ARRAY")
        n_bytes = prod(sizes) * n_channels * _ITEM_BYTES[kind]
        n_dimensions = int(fields["NDims"])
        compressed_bytes = int(fields.get("CompressedDataSize", "0"))
    except KeyError as exc:
        raise _DamagedFileError(f"without a known {exc.args[0]}") from None
    except ValueError:
        raise _DamagedFileError("sizes that are no numbers") from None
    if n_dimensions != len(sizes) or not 2 <= n_dimensions <= len(_AXES):
        raise _DamagedFileError(f"{n_dimensions} dimensions with the sizes {sizes}")
    if min(sizes) < 1 or n_channels < 1:
        raise _DamagedFileError(f"the sizes {sizes} with {n_channels} channels")
    is_compressed = _is_true(fields.get("CompressedData"))
    is_text = "BinaryData" in fields and not _is_true(fields["BinaryData"])
    if is_text or fields.get("HeaderSize", "0") not in ("0", "-1"):
        raise _DamagedFileError("pixels written as text or at a place of their own")
    data_bytes = (compressed_bytes or None) if is_compressed else n_bytes
    return _Header(sizes, n_bytes, is_compressed, start, data_bytes)


def _read_fields(file: IO[bytes]) -> tuple[dict[str, str], int]:
    """Keys and values up to the one that ends the header, and where the pixels begin."""
    fields: dict[str, str] = {}
    while file.tell() < _MAX_HEADER_BYTES:
        line = file.readline(_MAX_HEADER_BYTES)
        if not line.endswith(b"\n"):
            break
        key, _, value = line.decode("utf-8", "replace").partition("=")
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            if fields[key.strip()].upper() != "LOCAL":
                raise _DamagedFileError(f"the pixels are in another file, {value.strip()}")
            return fields, file.tell()
    raise _DamagedFileError("the header is cut off")


def _is_true(value: str | None) -> bool:
    return (value or "").lower() in ("true", "1")


def _check_data(file: IO[bytes], header: _Header) -> None:
    """Account for every byte of the pixels; compressed ones also have a checksum."""
    n_found = file.seek(0, 2) - header.data_start
    n_expected = header.data_bytes or n_found
    if n_found < n_expected:
        raise _DamagedFileError(f"{n_expected:,} bytes of pixels needed, {n_found:,} found")
    if not header.is_compressed:
        return
    file.seek(header.data_start)
    decoder = zlib.decompressobj(_ZLIB_OR_GZIP)
    n_bytes = 0
    try:
        while n_expected > 0 and not decoder.eof and (chunk := file.read(_CHUNK_BYTES)):
            waiting = chunk[:n_expected]
            n_expected -= len(waiting)
            while waiting and n_bytes <= header.n_bytes:
                n_bytes += len(decoder.decompress(waiting, _CHUNK_BYTES))
                waiting = decoder.unconsumed_tail
            if waiting:  # not flushed either, which would decompress all that is left at once
                break
        else:
            n_bytes += len(decoder.flush())  # what the limit of the last call held back
    except zlib.error as exc:
        raise _DamagedFileError(str(exc)) from None
    if not decoder.eof or n_bytes != header.n_bytes:
        raise _DamagedFileError(
            f"{header.n_bytes:,} bytes of pixels needed, {n_bytes:,} decompressed"
        )


def _read_plane(path: Path, size: tuple[int, int], index: list[int]) -> Any:  # noqa: ANN401
    """One plane as a ``SimpleITK.Image`` of the file's dimensions."""
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("MetaImageIO")  # whatever the extension
    reader.SetFileName(str(path))
    if index:
        reader.SetExtractSize([*size, *[1] * len(index)])
        reader.SetExtractIndex([0, 0, *index])
    try:
        return reader.Execute()
    except RuntimeError as exc:
        raise _DamagedFileError(_reason(exc)) from exc


def _to_array(image: Any, height: int, width: int) -> AnyArray:  # noqa: ANN401
    import SimpleITK

    pixels = np.asarray(SimpleITK.GetArrayFromImage(image))
    n_channels = int(image.GetNumberOfComponentsPerPixel())
    return pixels.reshape((height, width, n_channels) if n_channels > 1 else (height, width))


def _reason(error: Exception) -> str:
    """The message on one line, without the place in SimpleITK's source code that it begins with."""
    return " ".join(str(error).split()).rpartition("ERROR: ")[2]
