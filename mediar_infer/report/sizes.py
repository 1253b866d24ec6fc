"""How large the cells of an image are: median, quartiles and a histogram."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from mediar_infer.report.templates import render

_PER_OCTAVE: Final = 2
"""Bars for each doubling of the area."""
_WIDTH, _HEIGHT, _BOTTOM = 340, 120, 22
_MAX_TICKS: Final = 6
_EDGE: Final = 14
"""Nearer to an end of the axis a number would be cut off."""


@dataclass(frozen=True, slots=True)
class SizeSummary:
    """Areas of the cells of an image."""

    unit: str
    """``µm²`` where the pixel size is known, else ``px``."""
    quartiles: tuple[float, float, float] | None
    """Areas below which a quarter, half and three quarters of the cells lie; None without cells."""
    bars: Mapping[int, int]
    """k → cells of at least 2^(k/2) and less than 2^((k+1)/2) units."""

    @property
    def median(self) -> float | None:
        """Median area; None without cells."""
        return self.quartiles[1] if self.quartiles else None


def summarise_sizes(
    areas: npt.NDArray[np.integer[Any]], pixel_size_um: tuple[float, float] | None
) -> SizeSummary:
    """Sum up areas in pixels.

    Args:
        areas: ``(n,)`` area of each cell in pixels.
        pixel_size_um: (y, x) size of a pixel in µm; None if unknown.
    """
    unit, scale = ("px", 1.0) if pixel_size_um is None else ("µm²", math.prod(pixel_size_um))
    if not len(areas):
        return SizeSummary(unit, None, {})
    low, middle, high = (np.percentile(areas, (25, 50, 75)) * scale).tolist()
    bars = np.floor(_PER_OCTAVE * np.log2(areas * scale)).astype(int)
    return SizeSummary(unit, (low, middle, high), dict(Counter(bars.tolist())))


def format_area(area: float) -> str:
    """An area with three digits or all that are before the point."""
    return f"{area:,.0f}" if area >= 100 else f"{area:.3g}"


def find_ranges(summaries: Iterable[SizeSummary]) -> dict[str, tuple[int, int]]:
    """Unit → lowest and highest bar of all images, so that their histograms compare."""
    ranges: dict[str, tuple[int, int]] = {}
    for each in summaries:
        if each.bars:
            low, high = ranges.get(each.unit, (min(each.bars), max(each.bars)))
            ranges[each.unit] = min(low, *each.bars), max(high, *each.bars)
    return ranges


def draw_histogram(sizes: SizeSummary, bounds: tuple[int, int]) -> Markup:
    """Draw the histogram of an image.

    Args:
        sizes: with one cell or more.
        bounds: lowest and highest bar of the axis.

    Returns:
        An ``<svg>`` element with its description; its colours are left to the page's style.
    """
    assert sizes.quartiles is not None
    low, high = bounds
    width = _WIDTH / (high - low + 1)
    height = (_HEIGHT - _BOTTOM - 8) / max(sizes.bars.values())
    # Whole powers of two, as many as have room beside each other.
    step = _PER_OCTAVE * -(-(high + 2 - low) // (_PER_OCTAVE * _MAX_TICKS))
    places = {k: (k - low) * width for k in range(low, high + 2) if k % step == 0}
    first, last = (format_area(each) for each in (sizes.quartiles[0], sizes.quartiles[2]))
    n_cells = sum(sizes.bars.values())
    return render(
        "histogram.svg",
        width=_WIDTH,
        height=_HEIGHT,
        base=_HEIGHT - _BOTTOM,
        description=f"Areas of {n_cells:,} cells; half of them have {first} to {last} {sizes.unit}",
        bars=[
            {
                "x": (k - low) * width + 1,
                "width": max(width - 2, 1),
                "height": n * height,
                "text": f"{_edge(k)} to {_edge(k + 1)} {sizes.unit}: {n:,}",
            }
            for k, n in sorted(sizes.bars.items())
        ],
        ticks=[(place, _edge(k)) for k, place in places.items() if _EDGE < place < _WIDTH - _EDGE],
        unit=sizes.unit,
    )


def _edge(bar: int) -> str:
    return format_area(2 ** (bar / _PER_OCTAVE))
