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
        Elements ``Pixels`` of all images of the page's height and width, without those that lie in
        other files of a set. If one of them says that it begins with the page, it is the only one.
    """
    if not tif.is_ome:
        return []
    try:
        root = ElementTree.fromstring(tif.ome_metadata or "")
    except ElementTree.ParseError:
        return []
    size = {"SizeX": str(page.imagewidth), "SizeY": str(page.imagelength)}
    stored_here = _find_files(root, tif.filename)
    number = str(page.index)
    found, own = [], []
    for pixels in root.iterfind(".//{*}Image/{*}Pixels"):
        stored = pixels.findall("{*}TiffData")
        here = [data for data in stored if _uuid(data) in stored_here]
        if size.items() <= pixels.attrib.items() and (here or not stored):
            found.append(pixels)
            if any(data.get("IFD", "0") == number for data in here):
                own.append(pixels)
    return own[:1] or found


def _find_files(root: Element, name: str) -> set[str]:
    """UUIDs by which the metadata name this file; an empty one stands for data that name none."""
    stated = {
        (uuid.text or "").strip(): uuid.get("FileName", "").casefold()
        for uuid in root.iterfind(".//{*}TiffData/{*}UUID")
    }
    if len(stated) < 2:  # of this file, which may have another name by now
        return {"", *stated}
    if own := root.get("UUID"):
        return {"", own.strip()}
    return {"", *(uuid for uuid, file in stated.items() if file == name.casefold())}


def _uuid(data: Element) -> str:
    return (data.findtext("{*}UUID") or "").strip()
