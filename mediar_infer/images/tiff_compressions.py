"""Compressions of TIFF that change the stored numbers."""

from typing import Any, Final

from mediar_infer.images.jpeg2000 import is_reversible
from mediar_infer.images.tiff_segments import JPEG_2000

_LOSSY: Final = frozenset({6, 7, 33007, 34892, 48124})
"""JPEG in its four numbers, and Jetraw."""
_WEBP: Final = frozenset({34927, 50001})
_WEBP_HEAD_BYTES: Final = 40
"""The name of the first picture stands inside, also where another header comes before."""
_HEAD_BYTES: Final = 2**16
"""Of a segment: its headers are inside, and a single strip may be as large as the file."""


def find_lossy_compression(page: Any) -> str | None:  # noqa: ANN401  (tifffile is untyped here)
    """Name the compression of a page if it changes numbers; of some, the first segment tells.

    Args:
        page: a ``tifffile.TiffPage``, its file open.

    Returns:
        The name, or none where nothing is lost, or nothing tells.

    Raises:
        DamagedFile: if the header of JPEG 2000 is damaged.
    """
    code = int(page.compression)
    is_lossy = code in _LOSSY
    if code in JPEG_2000:
        is_lossy = not is_reversible(_read_head(page))
    elif code in _WEBP:
        is_lossy = b"VP8L" not in _read_head(page)[:_WEBP_HEAD_BYTES]
    return str(getattr(page.compression, "name", code)) if is_lossy else None


def _read_head(page: Any) -> bytes:  # noqa: ANN401
    """Beginning of the first strip or tile that is stored."""
    file = page.parent.filehandle
    stored = zip(page.dataoffsets, page.databytecounts, strict=False)
    offset, count = next(((o, n) for o, n in stored if o > 0 and n > 0), (0, 0))
    file.seek(offset)
    return bytes(file.read(min(count, _HEAD_BYTES)))
