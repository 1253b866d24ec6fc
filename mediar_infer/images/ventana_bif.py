"""Ventana BIF slides: whether the tiles of their full resolution overlap."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from mediar_infer.errors import ImageReadError
from mediar_infer.images.formats import BIO_FORMATS

_XMP: Final = 700
"""Number of the tag that holds the positions of the tiles."""
_ROOT: Final = b"<EncodeInfo"
_VENDOR: Final = "ventana"
_OVERLAPS: Final = ("OverlapX", "OverlapY")


class OverlappingTilesError(ImageReadError):
    """The tiles of a slide have to be stitched, which readers of TIFF do not do."""


def check_tiles(name: str, page: Any) -> None:  # noqa: ANN401  (tifffile is untyped here)
    """Refuse tiles that overlap: read side by side, they would show cells at their borders twice.

    Args:
        name: file name, for messages.
        page: a ``tifffile.TiffPage`` of any file.

    Raises:
        OverlappingTilesError: if the page is of a BIF slide and any of its tiles overlap.
    """
    tag = page.tags.get(_XMP)
    text = tag.value if tag is not None and isinstance(tag.value, bytes) else b""
    if _ROOT not in text:
        return
    joints = ElementTree.fromstring(text.strip(b"\0")).findall(".//TileJointInfo")
    overlaps = [joint.get(axis, "0") for joint in joints for axis in _OVERLAPS]
    if any(float(overlap) for overlap in overlaps):
        raise OverlappingTilesError(
            f"{name}: found a Ventana slide (BIF) whose tiles overlap, expected tiles side by side,"
            " or OpenSlide, which stitches them; python -m pip install 'mediar-infer[slides]', or"
            f" {BIO_FORMATS}"
        )


def is_stitched_by_openslide(path: Path) -> bool:
    """Whether OpenSlide is installed and knows a file as a slide of this kind."""
    if find_spec("openslide") is None:
        return False
    import openslide

    return bool(openslide.OpenSlide.detect_format(path) == _VENDOR)
