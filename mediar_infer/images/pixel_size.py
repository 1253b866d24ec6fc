"""Size of a pixel, as far as a TIFF file states it."""

import math
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final
from xml.etree import ElementTree

import tifffile

from mediar_infer.errors import ImageReadError
from mediar_infer.images.faults import reading
from mediar_infer.images.sources import Geometry

_MM_PER_UNIT: Final = {
    "nm": 1e-6,
    "um": 1e-3,
    "µm": 1e-3,  # micro sign
    "μm": 1e-3,  # Greek letter
    r"\u00b5m": 1e-3,  # as ImageJ writes it
    "micron": 1e-3,
    "microns": 1e-3,
    "mm": 1.0,
    "cm": 10.0,
    "m": 1000.0,
    "in": 25.4,
    "inch": 25.4,
}
"""Lower-case name of a unit in OME or ImageJ metadata → millimetres."""
_MM_PER_RESOLUTION_UNIT: Final = {2: 25.4, 3: 10.0}
"""Value of the tag ResolutionUnit → millimetres; 1 is no unit."""
_INCH: Final = 2  # of a file without the tag


def tiff_geometry(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> Geometry | None:
    """Place of a TIFF image in space: its pixel size, at the origin.

    OME metadata come first, then ImageJ's unit, then the tag ResolutionUnit.

    Args:
        tif: the open file.
        page: the page whose pixels are read.

    Returns:
        Spacing in mm, x before y; none if the file states no usable pixel size.
    """
    spacing = None
    # Metadata may be anything, and the image can be read without them.
    with suppress(ImageReadError), reading(tif.filename, "pixel size"):
        spacing = _ome_spacing(tif, page) or _imagej_spacing(tif, page) or _tag_spacing(page)
    return None if spacing is None else Geometry(spacing, (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))


def _ome_spacing(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> tuple[float, float] | None:
    """Physical size of the first image of the page's height and width."""
    if not tif.is_ome:
        return None
    try:
        root = ElementTree.fromstring(tif.ome_metadata or "")
    except ElementTree.ParseError:
        return None
    size = {"SizeX": str(page.imagewidth), "SizeY": str(page.imagelength)}
    for pixels in root.iterfind(".//{*}Image/{*}Pixels"):
        if size.items() <= pixels.attrib.items():
            return _checked(
                _to_number(pixels.get(f"PhysicalSize{axis}"))
                * _mm_per(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
                for axis in "XY"
            )
    return None


def _imagej_spacing(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> tuple[float, float] | None:
    mm = _mm_per((tif.imagej_metadata or {}).get("unit", "")) if tif.is_imagej else math.nan
    return _checked(mm / pixels for pixels in _pixels_per_unit(page))


def _tag_spacing(page: tifffile.TiffPage) -> tuple[float, float] | None:
    unit = page.tags.valueof("ResolutionUnit", default=_INCH)
    mm = _MM_PER_RESOLUTION_UNIT.get(unit, math.nan)
    return _checked(mm / pixels for pixels in _pixels_per_unit(page))


def _pixels_per_unit(page: tifffile.TiffPage) -> list[float]:
    """Values of the tags XResolution and YResolution; NaN for one that states nothing."""
    found = []
    for name in ("XResolution", "YResolution"):
        match page.tags.valueof(name):
            case (int(numerator), int(denominator)) if numerator > 0 and denominator > 0:
                found.append(numerator / denominator)
            case _:
                found.append(math.nan)
    return found


def _mm_per(unit: Any) -> float:  # noqa: ANN401  (metadata of any origin)
    return _MM_PER_UNIT.get(str(unit).strip().lower(), math.nan)


def _to_number(text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        return math.nan


def _checked(spacing: Iterable[float]) -> tuple[float, float] | None:
    """Distances along x and y; none unless both are positive numbers."""
    x, y = spacing
    return (x, y) if 0 < x < math.inf and 0 < y < math.inf else None
