"""Size of a pixel, as far as a TIFF file states it."""

import math
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

import tifffile

from mediar_infer.errors import ImageReadError
from mediar_infer.images.faults import reading
from mediar_infer.images.geometry import UM_PER_MM, Geometry
from mediar_infer.images.ome_pixels import find_ome_pixels

_MM_PER_UNIT: Final = {
    "pm": 1e-9,
    "å": 1e-7,
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
_LARGEST_MM: Final = 0.025
"""Resolution tags that state larger pixels are of a camera or an editor: 72 dpi, 96, 300. No
cell is seen with such pixels."""
_SAME: Final = 0.01
"""Sizes that differ by less than this fraction are one size, rounded."""
_APERIO_MPP: Final = re.compile(r"\bMPP *= *([0-9.eE+-]+)")
_SpacingMm = tuple[float, float]
"""Distances of pixels along x and y."""


def tiff_geometry(
    tif: tifffile.TiffFile, page: tifffile.TiffPage
) -> tuple[Geometry | None, list[str]]:
    """Place of a TIFF image in space: its pixel size, at the origin.

    OME metadata come first, then ImageJ's unit, what Aperio scanners write, and the tag
    ResolutionUnit.

    Args:
        tif: the open file.
        page: the page whose pixels are read.

    Returns:
        The geometry, None if the file states no usable pixel size; and a sentence if it states two
        that differ.
    """
    found: dict[str, _SpacingMm | None] = {}
    # Metadata may be anything, and the image can be read without them.
    with suppress(ImageReadError), reading(tif.filename, "pixel size"):
        found["OME metadata"] = _ome_spacing(tif, page)
        found["ImageJ metadata"] = _imagej_spacing(tif, page)
        found["Aperio description"] = _aperio_spacing(page)
        if not found["ImageJ metadata"]:  # which are the same tags in another unit
            found["resolution tags"] = _tag_spacing(page)
    tags = found.get("resolution tags")
    is_measured = tags is None or min(tags) <= _LARGEST_MM
    stated = {
        place: spacing
        for place, spacing in found.items()
        if spacing is not None and (is_measured or spacing is not tags)
    }
    if stated:
        (place, spacing), *others = stated.items()
        return Geometry(spacing), [
            f"the {place} state pixels of {_describe(spacing)}, the {other} of"
            f" {_describe(differing)}: the former are used"
            for other, differing in others
            if not _is_same(spacing, differing)
        ]
    return (None if tags is None else Geometry(tags, is_measured=False)), []


def _is_same(one: _SpacingMm, other: _SpacingMm) -> bool:
    return all(math.isclose(a, b, rel_tol=_SAME) for a, b in zip(one, other, strict=True))


def _describe(spacing: _SpacingMm) -> str:
    x, y = (mm * UM_PER_MM for mm in spacing)
    return f"{y:.4g} × {x:.4g} µm"


def _ome_spacing(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> _SpacingMm | None:
    """Physical size of the page's image, or of the first one of its height and width."""
    for pixels in find_ome_pixels(tif, page):
        return _checked(
            _to_number(pixels.get(f"PhysicalSize{axis}"))
            * _mm_per(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
            for axis in "XY"
        )
    return None


def _imagej_spacing(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> _SpacingMm | None:
    unit = (tif.imagej_metadata or {}).get("unit", "") if tif.is_imagej else ""
    if unit in ("inch", "in"):  # from dots per inch, which the tags state too
        return None
    mm = _mm_per(unit)
    return _checked(mm / pixels for pixels in _pixels_per_unit(page))


def _aperio_spacing(page: tifffile.TiffPage) -> _SpacingMm | None:
    """Micrometres per pixel in the description that Aperio's scanners write: ``|MPP = 0.4990|``."""
    if not page.description.startswith("Aperio"):
        return None
    match = _APERIO_MPP.search(page.description)
    mm = _to_number(match[1] if match else None) / UM_PER_MM
    return _checked((mm, mm))


def _tag_spacing(page: tifffile.TiffPage) -> _SpacingMm | None:
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


def _checked(spacing: Iterable[float]) -> _SpacingMm | None:
    """Distances along x and y; none unless both are positive numbers."""
    x, y = spacing
    return (x, y) if 0 < x < math.inf and 0 < y < math.inf else None
