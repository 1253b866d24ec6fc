"""MHA images (MetaImage with its pixels in the same file), read and written by numpy.

Every byte is accounted for: a file gives the pixels that were written or an error.

References:
    MetaIO of ITK, https://itk.org/Wiki/ITK/MetaIO/Documentation; its reader is the tests' oracle.
"""

import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from mediar_infer.arrays import AnyArray
from mediar_infer.images.faults import DamagedFile, reading
from mediar_infer.images.geometry import Geometry
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.mha_header import MetaHeader, format_header, read_meta_header
from mediar_infer.images.planes import choose_planes
from mediar_infer.images.sources import ArraySource

_AXES = "XYZTUVW"
_CHUNK_BYTES = 2**20
_ZLIB_OR_GZIP = 47
"""Window bits by which zlib takes both kinds of stream, as MetaIO does."""
_ZLIB_LEVEL = 2
"""That of MetaIO."""


def open_meta_image(path: Path, options: ReadOptions, notes: tuple[str, ...]) -> ArraySource:
    """Read an MHA image, or one plane of a stack.

    Args:
        path: the file.
        options: plane and limits.
        notes: sentences to start the warnings with.

    Returns:
        The image, with its geometry: of a plane that of a stack of one.

    Raises:
        ImageReadError: if the file is damaged, incomplete, too large or not one 2-D image.
    """
    with reading(path.name, "MHA data"), path.open("rb") as file:
        header = read_meta_header(file)
        width, height, *stack = header.sizes
        plane_items = height * width * header.n_channels
        plane_bytes = plane_items * header.dtypes[-1].itemsize
        options.check_decoded(path.name, height, width, plane_bytes)
        letters = _AXES[: len(header.sizes)][::-1]
        shape = " × ".join(map(str, reversed(header.sizes)))
        axes = list(zip(letters, reversed(stack), strict=False))
        chosen, more = choose_planes(
            path.name, axes, options, shown=f"axes {letters}, shape {shape}"
        )
        pixels = _read_items(file, header, chosen[0] * plane_items, plane_items)
        for plane in chosen[1:]:
            np.fmax(pixels, _read_items(file, header, plane * plane_items, plane_items), out=pixels)
    image = pixels.reshape((height, width, header.n_channels))
    index = np.unravel_index(chosen[0], stack[::-1])[::-1] if stack else ()
    return ArraySource(
        image if header.n_channels > 1 else image[:, :, 0],
        path.name,
        warnings=(*notes, *more),
        geometry=_moved(header.geometry, [0, 0, *map(int, index)]),
        channels=options.channels,
        is_channels_last=True,
    )


def write_meta_image(file: IO[bytes], labels: AnyArray, geometry: Geometry | None) -> None:
    """Write an image as compressed MHA.

    Args:
        file: where to; written from its current position.
        labels: ``(H, W)`` of unsigned integers.
        geometry: place in space; of a stack's plane the result is a stack of one.

    Raises:
        OSError: if the file cannot be written.
    """
    height, width = labels.shape
    n_stacked = len(geometry.spacing) - 2 if geometry else 0
    sizes = (width, height, *[1] * n_stacked)
    pixels = zlib.compress(labels.astype(labels.dtype.newbyteorder("<")).tobytes(), _ZLIB_LEVEL)
    file.write(format_header(sizes, labels.dtype, len(pixels), geometry))
    file.write(pixels)


def _read_items(file: IO[bytes], header: MetaHeader, first: int, count: int) -> AnyArray:
    """Items ``first`` … ``first + count - 1`` of all pixels, in native byte order."""
    if header.is_compressed:
        dtype, data = _decompress(file, header, first, count)
    else:
        dtype = _fitting_dtype(header, file.seek(0, 2) - header.data_start)
        start = header.data_start
        if start < 0:  # the pixels end with the file
            start = file.seek(0, 2) - header.n_items * dtype.itemsize
        file.seek(start + first * dtype.itemsize)
        data = bytearray(file.read(count * dtype.itemsize))
    items = np.frombuffer(data, dtype, count)
    return items.astype(dtype.newbyteorder("="), copy=False)


def _fitting_dtype(header: MetaHeader, n_found: int) -> np.dtype[Any]:
    """The data type that the number of bytes fits to.

    Old files hold a MET_LONG of 8 bytes, new ones one of 4; only the size of the data tells.
    """
    sizes = [header.n_items * dtype.itemsize for dtype in header.dtypes]
    if len(sizes) > 1 and n_found not in sizes:
        raise DamagedFile(f"{sizes[0]:,} or {sizes[1]:,} bytes of pixels needed, {n_found:,} found")
    if n_found < sizes[0]:
        raise DamagedFile(f"{sizes[0]:,} bytes of pixels needed, {n_found:,} found")
    return header.dtypes[sizes.index(n_found) if n_found in sizes else 0]


def _decompress(
    file: IO[bytes], header: MetaHeader, first: int, count: int
) -> tuple[np.dtype[Any], bytearray]:
    """The bytes of some items; all others are decompressed too, for the checksum at the end."""
    n_stored = file.seek(0, 2) - header.data_start
    if n_stored < (header.compressed_bytes or 1):
        raise DamagedFile(
            f"{header.compressed_bytes or 1:,} bytes of pixels needed, {n_stored:,} found"
        )
    largest = header.dtypes[-1].itemsize
    # All that the wanted items may be in, until the total tells how large an item is.
    start, stop = first * header.dtypes[0].itemsize, (first + count) * largest
    data = bytearray()
    position = 0
    for chunk in _inflated(file, header, header.n_items * largest):
        a, b = max(start - position, 0), min(stop - position, len(chunk))
        data += chunk[a:b] if b > a else b""
        position += len(chunk)
    sizes = [header.n_items * dtype.itemsize for dtype in header.dtypes]
    if position not in sizes:
        needed = " or ".join(f"{size:,}" for size in sizes)
        raise DamagedFile(f"{needed} bytes of pixels needed, {position:,} decompressed")
    dtype = header.dtypes[sizes.index(position)]
    begin = first * dtype.itemsize - start
    return dtype, data[begin : begin + count * dtype.itemsize]


def _inflated(file: IO[bytes], header: MetaHeader, most: int) -> Iterator[bytes]:
    """The decompressed stream in pieces; ends early where it exceeds ``most`` bytes."""
    file.seek(header.data_start)
    n_left = header.compressed_bytes or file.seek(0, 2) - header.data_start
    file.seek(header.data_start)
    decoder = zlib.decompressobj(_ZLIB_OR_GZIP)
    n_bytes = 0
    try:
        while n_left > 0 and not decoder.eof and (waiting := file.read(min(_CHUNK_BYTES, n_left))):
            n_left -= len(waiting)
            while waiting and not decoder.eof:
                piece = decoder.decompress(waiting, _CHUNK_BYTES)
                n_bytes += len(piece)
                yield piece
                if n_bytes > most:  # not flushed, which would decompress all the rest at once
                    return
                waiting = decoder.unconsumed_tail
        yield decoder.flush()
    except zlib.error as exc:
        raise DamagedFile(str(exc)) from None
    if not decoder.eof:
        raise DamagedFile(f"the compressed pixels end after {n_bytes:,} bytes")


def _moved(geometry: Geometry, index: list[int]) -> Geometry:
    """The geometry of the part of a stack that begins at a pixel."""
    n = len(index)
    axes = np.reshape(geometry.direction, (n, n))
    origin = np.asarray(geometry.origin) + axes @ (np.asarray(geometry.spacing) * index)
    return replace(geometry, origin=tuple(map(float, origin)))
