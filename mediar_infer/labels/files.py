"""Label files: named after their image, written band by band, complete or absent."""

import math
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt
import tifffile

from mediar_infer.arrays import AnyArray
from mediar_infer.config import LARGE_IMAGE_PIXELS
from mediar_infer.errors import ImageReadError, OutputError, ShapeError
from mediar_infer.images.geometry import Geometry
from mediar_infer.images.label_names import SOFTWARE
from mediar_infer.images.mha import write_meta_image
from mediar_infer.images.tiff_directories import tiff_file
from mediar_infer.labels.ome import N_CELLS, LabelDescription, parse_description
from mediar_infer.output_files import replacing, to_output_error

TILED_FROM_PIXELS = LARGE_IMAGE_PIXELS
"""Images of at least this many pixels are written in tiles, smaller ones in strips. A choice of the
file format: a program that opens a large image mostly reads a part of it."""
_TILE = 256
_STRIP_BYTES = 2**18
_BIGTIFF_FROM_BYTES = 4 * 10**9
_MM_PER_CM: Final = 10.0
_MM_PER_INCH: Final = 25.4
_UNKNOWN_DPI: Final = 72
"""Resolution of label files of images that state none: importers refuse a TIFF without one, and
72 dpi is what image programs write, and ImageJ reads, where nothing is known."""
_MAX_RATIONAL: Final = 2**32 - 1
_ZLIB_LEVEL = 1
"""Labels are runs of equal numbers: 3 % of the size at 480 MB/s, against 1.4 % at 110 (level 6)."""

_Rational = tuple[int, int]
"""Numerator and denominator."""


@dataclass(frozen=True, slots=True)
class LabelHeader:
    """What a label file states apart from its pixels."""

    height: int
    """Rows in pixels."""
    width: int
    """Columns in pixels."""
    n_cells: int | None
    """Number of cells, if the file was written by :func:`write_labels` with facts."""
    facts: Mapping[str, Any]
    """Provenance of the labels; empty if the file states none."""


def write_labels(
    path: Path,
    bands: Iterable[npt.ArrayLike],
    *,
    height: int,
    width: int,
    geometry: Geometry | None = None,
    facts: Mapping[str, Any] | None = None,
) -> int:
    """Write an instance-label image, completely or not at all.

    The bands are pulled one by one and written to a hidden file beside ``path``, which is renamed
    at the end; on any exception it is removed. A path that ends with ``.mha`` gives MHA, any other
    one TIFF. TIFF needs memory for one row of tiles, MHA for the whole image. The data type is
    uint16 if the first band is the whole image and its labels fit, else uint32, because the number
    of cells in later bands is unknown.

    Args:
        path: the label file; replaced if it exists.
        bands: consecutive rows from top to bottom, each ``(rows, width)`` of non-negative integers.
        height: total number of rows.
        width: number of columns.
        geometry: place in space. MHA keeps all of it, TIFF the spacing along x and y, as OME-XML
            and as its resolution. Without it, TIFF states 72 dpi only and MHA a spacing of 1 mm.
        facts: provenance of the labels, ready for JSON; an annotation in the OME-XML of TIFF,
            together with the number of cells.

    Returns:
        The largest label: the number of cells, if they are numbered without gaps.

    Raises:
        OutputError: if the file cannot be written (no space, no permission) or labels are
            negative or not integers.
        ShapeError: if the bands do not add up to ``(height, width)``.
    """
    checked = _CheckedBands(path.name, bands, height=height, width=width)
    try:
        with replacing(path) as file:
            taken = iter(checked)
            if path.suffix.lower() == ".mha":
                _write_mha(file, taken, geometry, height)
            else:
                description = _write_tiff(file, taken, geometry, facts, height=height, width=width)
                # The last row may be written before the bands have ended, perhaps with an error.
                deque(taken, maxlen=0)
                if facts is not None:
                    _describe_again(file, description.to_bytes(checked.largest))
    except OSError as exc:
        if exc is checked.failure:  # making the labels failed, not writing them
            raise
        raise to_output_error(path, exc) from exc
    return checked.largest


def read_label_header(path: Path) -> LabelHeader | None:
    """Read what a label file states apart from its pixels.

    Args:
        path: a TIFF file.

    Returns:
        ``None`` if the file does not exist or cannot be read as TIFF.
    """
    try:
        with tiff_file(path, "label image") as tif:
            page = tif.pages.first
            height, width, text = page.imagelength, page.imagewidth, page.description
    except (OSError, ImageReadError):
        return None
    facts = parse_description(text)
    n_cells = facts.pop(N_CELLS, None)
    return LabelHeader(height, width, n_cells if isinstance(n_cells, int) else None, facts)


class _CheckedBands:
    """Checked bands of labels; knows the largest label so far."""

    def __init__(
        self, name: str, bands: Iterable[npt.ArrayLike], *, height: int, width: int
    ) -> None:
        self.largest = 0
        self.failure: OSError | None = None
        """What went wrong while the bands were made, to tell it from a full disk."""
        self._name, self._bands, self._height, self._width = name, bands, height, width

    def __iter__(self) -> Iterator[AnyArray]:
        n_rows = 0
        try:
            for item in self._bands:
                band = np.asarray(item)
                self._check(band, n_rows)
                if len(band) == 0:
                    continue
                self.largest = max(self.largest, int(band.max()))
                n_rows += len(band)
                yield band
        except OSError as exc:
            self.failure = exc
            raise
        if n_rows != self._height:
            raise ShapeError(
                f"{self._name}: found {n_rows} rows of labels, expected {self._height}"
            )

    def _check(self, band: AnyArray, n_rows: int) -> None:
        if band.ndim != 2 or band.shape[1] != self._width or n_rows + len(band) > self._height:
            raise ShapeError(
                f"{self._name}: found a band of shape {band.shape} at row {n_rows}, expected "
                f"(rows, {self._width}) within {self._height} rows"
            )
        if band.dtype.kind not in "iu":
            raise OutputError(f"{self._name}: found labels of type {band.dtype}, expected integers")
        if len(band) and (band.min() < 0 or band.max() > np.iinfo(np.uint32).max):
            raise OutputError(
                f"{self._name}: found labels from {band.min()} to {band.max()}, expected 0 to"
                " 2³² - 1"
            )


def _dtype_for(first: AnyArray, height: int) -> np.dtype[Any]:
    fits = len(first) == height and first.max() <= np.iinfo(np.uint16).max
    return np.dtype(np.uint16 if fits else np.uint32)


def _write_mha(
    file: IO[bytes], bands: Iterator[AnyArray], geometry: Geometry | None, height: int
) -> None:
    first = next(bands)
    dtype = _dtype_for(first, height)
    # Copies: the caller may reuse the memory of its bands.
    labels = np.concatenate([band.astype(dtype) for band in chain([first], bands)])
    write_meta_image(file, labels, geometry)


def _describe_again(file: IO[bytes], description: bytes) -> None:
    """Replace the description of a finished file by one of the same length."""
    file.seek(0)
    with tifffile.TiffFile(file) as tif:
        offset = tif.pages.first.tags["ImageDescription"].valueoffset
    file.seek(offset)
    file.write(description)


def _write_tiff(
    file: IO[bytes],
    bands: Iterator[AnyArray],
    geometry: Geometry | None,
    facts: Mapping[str, Any] | None,
    *,
    height: int,
    width: int,
) -> LabelDescription:
    first = next(bands)
    dtype = _dtype_for(first, height)
    layout: dict[str, Any]
    if height * width >= TILED_FROM_PIXELS:
        n_rows, columns = _TILE, _TILE
        layout = {"tile": (_TILE, _TILE)}
    else:
        n_rows, columns = max(1, min(height, _STRIP_BYTES // (width * dtype.itemsize))), width
        layout = {"rowsperstrip": n_rows}
    groups = _regroup(chain([first], bands), np.empty((n_rows, width), dtype))
    is_big = height * width * dtype.itemsize > _BIGTIFF_FROM_BYTES
    pixel_size_mm = geometry.pixel_size_mm if geometry else None
    description = LabelDescription(height, width, dtype, pixel_size_mm, facts)
    resolution, unit = _resolution(geometry)
    with tifffile.TiffWriter(file, bigtiff=is_big) as tif:
        tif.write(
            _compressed(groups, n_rows=n_rows, columns=columns, is_tiled="tile" in layout),
            shape=(height, width),
            dtype=dtype,
            photometric="minisblack",
            compression="zlib",
            resolution=resolution,
            resolutionunit=unit,
            metadata=None,
            description=description.to_bytes(None),
            software=SOFTWARE,
            **layout,
        )
    return description


def _resolution(geometry: Geometry | None) -> tuple[tuple[_Rational, _Rational], str]:
    """Pixels per unit along x and y, and the unit, as TIFF stores them."""
    if geometry is None or not all(0 < mm < math.inf for mm in geometry.spacing[:2]):
        return ((_UNKNOWN_DPI, 1), (_UNKNOWN_DPI, 1)), "INCH"
    is_known = geometry.pixel_size_mm is not None
    unit_mm, unit = (_MM_PER_CM, "CENTIMETER") if is_known else (_MM_PER_INCH, "INCH")
    x, y = (_to_rational(unit_mm / mm) for mm in geometry.spacing[:2])
    return (x, y), unit


def _to_rational(number: float) -> _Rational:
    """The nearest fraction of two 32-bit numbers to a positive number."""
    if number < 1:
        numerator, denominator = _to_rational(1 / number)
        return denominator, numerator
    fraction = Fraction(min(number, _MAX_RATIONAL))
    nearest = fraction.limit_denominator(_MAX_RATIONAL // math.ceil(fraction))
    return nearest.numerator, nearest.denominator


def _regroup(bands: Iterable[AnyArray], group: AnyArray) -> Iterator[AnyArray]:
    """Yield ``group`` filled with rows of the bands, over and over; the last one may be shorter."""
    n_held = 0
    for band in bands:
        start = 0
        while start < len(band):
            stop = min(start + len(group) - n_held, len(band))
            group[n_held : n_held + stop - start] = band[start:stop]
            n_held, start = n_held + stop - start, stop
            if n_held == len(group):
                yield group
                n_held = 0
    if n_held:
        yield group[:n_held]


def _compressed(
    groups: Iterable[AnyArray],
    *,
    n_rows: int,
    columns: int,
    is_tiled: bool,
) -> Iterator[bytes]:
    """Deflated strips or tiles in file order; tifffile accepts strips as bytes only."""
    for group in groups:
        for left in range(0, group.shape[1], columns):
            block = group[:, left : left + columns]
            if is_tiled and block.shape != (n_rows, columns):
                padding = [(0, n_rows - block.shape[0]), (0, columns - block.shape[1])]
                block = np.pad(block, padding)
            yield zlib.compress(block.tobytes(), _ZLIB_LEVEL)
