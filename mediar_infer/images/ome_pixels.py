"""The OME metadata of a TIFF image: those of the page that is read."""

from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import tifffile


def find_ome_pixels(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> list[Element]:
    """Find the metadata of the image that a page belongs to.

    Args:
        tif: the open file.
        page: a page of the image.

    Returns:
        Elements ``Pixels`` of all images of the page's height and width. If one of them says that
        it begins with the page, it is the only one.
    """
    if not tif.is_ome:
        return []
    try:
        root = ElementTree.fromstring(tif.ome_metadata or "")
    except ElementTree.ParseError:
        return []
    size = {"SizeX": str(page.imagewidth), "SizeY": str(page.imagelength)}
    found = [
        pixels
        for pixels in root.iterfind(".//{*}Image/{*}Pixels")
        if size.items() <= pixels.attrib.items()
    ]
    number = str(page.index)
    own = [
        pixels
        for pixels in found
        if any(data.get("IFD", "0") == number for data in pixels.iterfind("{*}TiffData"))
    ]
    return own[:1] or found
