"""Strips and tiles of TIFF: which are stored, and damage that their codec ignores."""

from collections.abc import Iterable
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from mediar_infer.errors import ImageReadError
from mediar_infer.images.faults import DamagedFile
from mediar_infer.images.jpeg import check_jpeg, read_jpeg_header, with_tables
from mediar_infer.images.jpeg2000 import read_jpeg2000_header

_JPEG = frozenset({7, 33007, 34892})
JPEG_2000 = frozenset({33003, 33004, 33005, 34712})
"""Compressions whose segments are JPEG 2000."""
_MAX_EXCESS = 4
"""A segment may be coded with a frame larger than its place by this factor, never more."""


def is_one_piece(page: Any) -> bool:  # noqa: ANN401  (tifffile is untyped here)
    """Whether the rows of a page lie in the file one after the other, as they are read.

    Args:
        page: a ``tifffile.TiffPage`` or ``TiffFrame``.
    """
    key = page.keyframe
    if key is None or not key.is_final:
        return False
    # A frame repeats what is true of its key frame; its own strips may lie in another order. A
    # place at byte 0, where the header of the file is, means that nothing was written. A length
    # of 0 does not: old writers leave it out.
    offsets = np.asarray(page.dataoffsets, np.int64)
    steps = np.diff(np.asarray(key.dataoffsets, np.int64))
    return bool((offsets > 0).all()) and np.array_equal(np.diff(offsets), steps)


def stated_pages(series: Any) -> Iterable[Any]:  # noqa: ANN401
    """The pages of a ``tifffile.TiffPageSeries`` that say where its strips and tiles are."""
    first = series.keyframe
    # The first page of these describes the whole stack, and ImageJ may write no other one.
    is_described = first.is_imagej or first.is_shaped or first.is_stk
    return [first] if is_described and series.dataoffset is not None else series


def count_missing(
    name: str, offsets: npt.ArrayLike, counts: npt.ArrayLike, n_segments: int, *, is_tiled: bool
) -> int:
    """Count the tiles that a file leaves out on purpose (sparse), at least one being there.

    Args:
        name: file name, for messages.
        offsets: place of each strip or tile.
        counts: bytes of each.
        n_segments: strips or tiles that there should be.
        is_tiled: whether they are tiles; no writer leaves out strips.

    Raises:
        ImageReadError: if strips, or all tiles, are missing.
    """
    has_place, has_length = np.asarray(offsets) > 0, np.asarray(counts) > 0
    n_found = min(len(has_place), len(has_length))
    is_stored = has_place[:n_found] & has_length[:n_found]
    n_stored = int(is_stored.sum())
    if n_found < n_segments or not n_stored or (n_stored < n_found and not is_tiled):
        kind = "tiles" if is_tiled else "strips"
        raise ImageReadError(
            f"{name}: found {n_stored} of {n_segments} {kind}, expected all: the file was not"
            " written to its end; export it again"
        )
    return n_found - n_stored


def count_missing_of_page(name: str, page: Any) -> int:  # noqa: ANN401
    """Count the tiles that a whole page leaves out; see :func:`count_missing`."""
    if is_one_piece(page):
        return 0
    n_segments = prod(page.chunked)
    offsets, counts = page.dataoffsets[:n_segments], page.databytecounts[:n_segments]
    return count_missing(name, offsets, counts, n_segments, is_tiled=page.keyframe.is_tiled)


def check_segment(
    data: bytes,
    compression: int,
    n_pixels: int,
    *,
    jpegtables: bytes | None = None,
    jpegheader: bytes | None = None,
) -> None:
    """Check a segment for damage that its decoder ignores.

    Args:
        data: the strip or tile as stored.
        compression: of the page.
        n_pixels: pixels of a full segment.
        jpegtables: tables of the page.
        jpegheader: header that the segments of a page share (NDPI); these are not checked, as
            they have no end of their own.

    Raises:
        DamagedFile: if parts of its pixels would be wrong or it is far larger than its place.
    """
    if compression in _JPEG and jpegheader is None:
        whole = with_tables(jpegtables, data)
        header = read_jpeg_header(whole)
        _check_frame(header.height * header.width, n_pixels)
        notes = check_jpeg(whole)
    elif compression in JPEG_2000:
        header = read_jpeg2000_header(data)
        _check_frame(header.height * header.width, n_pixels)
        notes = header.warnings
    else:
        return
    if notes:
        raise DamagedFile(notes[0])


def _check_frame(found: int, expected: int) -> None:
    if found > _MAX_EXCESS * expected:
        raise DamagedFile(f"a frame of {found:,} pixels, at most {expected:,} expected")
