"""Leica SCN slides: which of their images shows the whole slide and which are scanned regions."""

from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import tifffile


def find_macro_pages(tif: tifffile.TiffFile) -> frozenset[int]:
    """Find the macro image of a slide: as OpenSlide does, by its extent, that of the whole slide.

    Args:
        tif: the open file, a Leica SCN slide.

    Returns:
        Numbers of all of its pages.
    """
    root = ElementTree.fromstring(tif.scn_metadata or "")
    return frozenset(
        int(dimension.get("ifd", "-1"))
        for collection in root.iterfind("{*}collection")
        for image in collection.iterfind("{*}image")
        if _extent(image.find("{*}view")) == _extent(collection)
        for dimension in image.iterfind("{*}pixels/{*}dimension")
    )


def _extent(area: Element | None) -> tuple[str | None, str | None] | None:
    """Width and height in nanometres, as they are written."""
    return None if area is None else (area.get("sizeX"), area.get("sizeY"))
