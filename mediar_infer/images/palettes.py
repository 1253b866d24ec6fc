"""Colour tables: when the numbers of the pixels are intensities, and when colours."""

from typing import Any

import numpy as np
import numpy.typing as npt

COLOURS_NOTE = "the colours of a colour table are used, not the stored numbers"
"""Warning where a palette is taken for colours."""
RAMP_NOTE = "a one-colour display table is ignored: its brightness is read as grey"
"""Warning where a decoded palette is a ramp."""
_RAMP_TOLERANCE = 2 / 255
_MIN_RAMP_COLOURS = 16


def to_colours(table: bytes, entry: int) -> npt.NDArray[np.uint8]:
    """A table of colours as ``(n, entry)``.

    Args:
        table: its bytes; an incomplete last colour is ignored.
        entry: bytes of each colour.
    """
    n = len(table) // entry
    return np.frombuffer(table, np.uint8, n * entry).reshape(n, entry)


def is_grey(palette: npt.NDArray[np.integer[Any]]) -> bool:
    """Whether all colours of a table are shades of grey: read as what they show, no warning."""
    return bool((palette == palette[:, :1]).all())


def is_ramp(palette: npt.NDArray[np.integer[Any]]) -> bool:
    """Whether a table runs from black to one colour in even steps, as display tables do.

    Programs for microscopy save an intensity image in a channel's colour like this; the numbers of
    the pixels are the intensities.

    Args:
        palette: ``(n, 3)`` colours.
    """
    if len(palette) < _MIN_RAMP_COLOURS or not palette.any():
        return False
    colours = palette / palette.max()
    even = np.linspace(0, 1, len(palette))[:, None] * colours[-1]
    return bool(np.abs(colours - even).max() <= _RAMP_TOLERANCE)
