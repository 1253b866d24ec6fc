"""Strips and tiles of TIFF whose codec ignores damage, checked before they are decoded."""

from mediar_infer.images.faults import DamagedFile
from mediar_infer.images.jpeg import check_jpeg, read_jpeg_header, with_tables
from mediar_infer.images.jpeg2000 import read_jpeg2000_header

_JPEG = frozenset({7, 33007, 34892})
_JPEG_2000 = frozenset({33003, 33004, 33005, 34712})
_MAX_EXCESS = 4
"""A segment may be coded with a frame larger than its place by this factor, never more."""


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
    elif compression in _JPEG_2000:
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
