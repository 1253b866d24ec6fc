"""Metadata of OME-Zarr images: axes, channels and pixel size, of the versions 0.4 and 0.5.

References:
    NGFF, https://ngff.openmicroscopy.org/0.5/index.html and https://ngff.openmicroscopy.org/0.4/
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mediar_infer.images.faults import DamagedFile
from mediar_infer.images.geometry import UM_PER_MM

_MM_PER_UNIT: Final = {
    "angstrom": 1e-7,
    "nanometer": 1e-6,
    "micrometer": 1e-3,
    "millimeter": 1.0,
    "centimeter": 10.0,
    "meter": 1000.0,
    "inch": 25.4,
}
_ORDER: Final = "tczyx"
"""Axes that an image may have, in the order that the standard demands."""


@dataclass(frozen=True, slots=True)
class NgffImage:
    """What a group says of the image that it holds."""

    paths: tuple[str, ...]
    """Arrays of the pyramid, the one of full resolution first."""
    axes: str
    """Letter of each axis, some of ``tczyx``; the last two are y and x."""
    pixel_size_um: tuple[float, float] | None
    """Height and width of a pixel; None where the axes have no unit."""
    channel_names: tuple[str, ...]
    """Names of the channels, as far as they are stated."""


def find_ome_attributes(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """The metadata of a group: under ``ome`` from version 0.5 on, before that at its top."""
    ome = attributes.get("ome", attributes)
    return ome if isinstance(ome, Mapping) else {}


def parse_image(ome: Mapping[str, Any]) -> NgffImage:
    """Read the metadata of an image.

    Args:
        ome: from ``find_ome_attributes``, with ``multiscales``.

    Raises:
        DamagedFile: if they are not those of an image.
    """
    try:
        multiscale = ome["multiscales"][0]
        datasets = multiscale["datasets"]
        paths = tuple(str(dataset["path"]) for dataset in datasets)
        given = multiscale.get("axes", list(_ORDER))
        axes = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in given]
        letters = "".join(str(axis["name"]).lower() for axis in axes)
        levels = (datasets[0], multiscale)
        scales = [_find_scale(level, len(axes)) for level in levels]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise DamagedFile(f"multiscales that are none ({type(error).__name__}: {error})") from None
    ordered = [letter for letter in _ORDER if letter in letters]
    if len(ordered) != len(axes) or list(letters) != ordered or not letters.endswith("yx"):
        raise DamagedFile(f"the axes {letters or 'without names'}, not some of {_ORDER} in order")
    sizes = [
        _MM_PER_UNIT.get(str(axis.get("unit")), math.nan) * UM_PER_MM * math.prod(factors)
        for axis, *factors in zip(axes, *scales, strict=True)
    ]
    height, width = sizes[-2:]
    is_known = 0 < height < math.inf and 0 < width < math.inf
    return NgffImage(paths, letters, (height, width) if is_known else None, _find_names(ome))


def _find_scale(level: Mapping[str, Any], n_axes: int) -> list[float]:
    """Scale of a level along each axis; 1 where none is stated."""
    for transformation in level.get("coordinateTransformations", []):
        if transformation["type"] == "scale" and len(transformation["scale"]) == n_axes:
            return [float(factor) for factor in transformation["scale"]]
    return [1.0] * n_axes


def _find_names(ome: Mapping[str, Any]) -> tuple[str, ...]:
    """Labels of the channels in the block ``omero``, which may be missing or anything."""
    omero = ome.get("omero")
    channels = omero.get("channels") if isinstance(omero, Mapping) else None
    if not isinstance(channels, Sequence) or isinstance(channels, str):
        return ()
    return tuple(
        str(channel.get("label") or "").strip() if isinstance(channel, Mapping) else ""
        for channel in channels
    )
