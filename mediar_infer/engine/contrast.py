"""Images whose normalisation leaves hardly any contrast: a few pixels far from all others."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

_N_LEVELS: Final = 256
_BRIGHT_FROM: Final = 192
"""Levels from here on are the brightest quarter."""
_NEARLY_ALL: Final = 0.99
_HARDLY_ANY: Final = 1e-4
_WIDE_GAP: Final = 85
"""A third of the levels, which no ordinary image leaves empty above the lowest one."""


def contrast_warnings(
    levels: npt.NDArray[np.uint8], counts: npt.NDArray[np.integer[Any]], low: float, high: float
) -> tuple[str, ...]:
    """Describe a lack of contrast that the images of no microscope have.

    The lowest value of an image becomes black. One dead pixel or a value that stands for missing
    data, far below all others, then moves everything else into the brightest levels.

    Args:
        levels: level after normalisation of each bin of values.
        counts: non-zero pixels (of all channels) in each bin.
        low: value that becomes level 0.
        high: value that becomes level 255.

    Returns:
        One sentence, or none.
    """
    n = int(counts.sum())
    if n == 0:
        return ("all pixels are 0: there is nothing to see",)
    if not high > low:
        return (f"all pixels that are not 0 have one grey level ({low:g}): there is no contrast",)
    histogram = np.bincount(levels, weights=counts, minlength=_N_LEVELS)
    bright = histogram[_BRIGHT_FROM:].sum()
    if bright >= n / 2 and histogram[0] + bright >= _NEARLY_ALL * n:
        return (
            f"{bright / n:.1%} of the pixels share the brightest quarter of the grey levels, as few"
            f" lie far below them (from {low:g} on): there is little contrast; remove dead pixels"
            " or the value of missing data",
        )
    gap = int(np.searchsorted(histogram[1:].cumsum(), _HARDLY_ANY * n, side="right"))
    if histogram[0] <= (1 - _NEARLY_ALL) * n and gap >= _WIDE_GAP:
        return (
            f"few pixels (from {low:g} on) lie far below all others, which share"
            f" {_N_LEVELS - 1 - gap} of {_N_LEVELS} grey levels; remove dead pixels"
            " or the value of missing data",
        )
    if histogram.max() >= _NEARLY_ALL * n:
        return (
            f"{histogram.max() / n:.1%} of the pixels share one grey level between {low:g} and"
            f" {high:g}: there is little contrast",
        )
    return ()
