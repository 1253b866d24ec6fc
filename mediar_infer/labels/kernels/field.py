"""The coordinates in which tracking walks, with the same constants for all kernels."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from mediar_infer.errors import ShapeError
from mediar_infer.labels.kernels import Frame

MOST_PIXELS: Final = 2**31 - 1
"""Places in an array are int32, four bytes for each of its pixels."""


@dataclass(frozen=True, slots=True)
class FieldAxis:
    """One axis of the flow field, which is padded by a zero pixel on either side.

    All floats are values of float32: every implementation computes with the same numbers.
    """

    scale: float
    """Factor of array pixel → field: ``pixel * scale + shift``."""
    shift: float
    """Summand of the same."""
    low: float
    """Least position in the field; positions are clamped to ``low`` … ``high`` after every step."""
    high: float
    """Greatest position in the field."""
    first: int
    """First pixel, in array coordinates, in which a track may end."""
    last: int
    """Last such pixel."""


def _round(value: float) -> float:
    return float(np.float32(value))


def describe_axes(frame: Frame, height: int, width: int) -> tuple[FieldAxis, FieldAxis]:
    """Describe the field of an array in its image.

    Args:
        frame: place of the array in the image.
        height: rows of the array.
        width: columns of the array.

    Returns:
        The axes y and x.

    Raises:
        ShapeError: if the array has more than ``MOST_PIXELS``.
    """
    if height * width > MOST_PIXELS:
        raise ShapeError(
            f"found {height:,} × {width:,} pixels to be labelled at once, expected at most"
            f" {MOST_PIXELS:,}; use --blocks stitched, or a smaller --block-size"
        )
    return (
        _describe_axis(frame.top, frame.image_height, height),
        _describe_axis(frame.left, frame.image_width, width),
    )


def _describe_axis(origin: int, extent: int, size: int) -> FieldAxis:
    # An image one pixel wide has no size - 1 to scale by: nothing can move along that axis.
    stretch = extent / max(extent - 1, 1)
    shift = origin * (stretch - 1) + 0.5
    # Positions are read with the pixel after them, which ends one past the padding.
    end = float(np.nextafter(np.float32(size + 1), np.float32(0)))
    return FieldAxis(
        scale=_round(stretch),
        shift=_round(shift),
        low=_round(max(-origin * stretch + shift, 0.0)),
        high=_round(min((extent - 1 - origin) * stretch + shift, end)),
        first=max(-origin, 0),
        last=min(extent - 1 - origin, size - 1),
    )
