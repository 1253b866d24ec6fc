"""Seconds against megapixels as SVG, on logarithmic axes, with the tolerance as a line."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mediar_infer.report.templates import render
from mediar_infer.tolerance import SECONDS_PER_MEGAPIXEL

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 18, 18, 52
_STEPS = (1, 2, 5)
_MAX_LABELS = 9


@dataclass(frozen=True, slots=True)
class Point:
    """One image in the plot."""

    target: str
    """HTML id of the element that the point links to."""
    name: str
    """Name of the image."""
    megapixels: float
    """Size, above 0."""
    seconds: float
    """Wall time, above 0."""
    is_breach: bool
    """Whether the image has findings."""


@dataclass(frozen=True, slots=True)
class _Axis:
    """A logarithmic axis from ``low`` to ``high``, drawn from ``start`` to ``stop``."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Values 1, 2 and 5 of each decade, or only 1 if those are too many."""
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in (_STEPS, (1,)):
            values = [step * 10.0**decade for decade in decades for step in steps]
            inside = [value for value in values if self.low <= value <= self.high]
            if len(inside) <= _MAX_LABELS:
                return inside
        return inside


def draw_plot(points: Sequence[Point]) -> Markup:
    """Draw the plot.

    Args:
        points: the images; may be empty.

    Returns:
        An ``<svg>`` element; its colours are left to the page's style.
    """
    sizes = [point.megapixels for point in points] or [1.0]
    low, high = min(sizes) / 1.6, max(1.6, max(sizes) * 1.6)
    seconds = [point.seconds for point in points] + [SECONDS_PER_MEGAPIXEL]
    highest = max(*seconds, _tolerance_s(high))
    x = _Axis(low, high, _LEFT, _WIDTH - _RIGHT)
    y = _Axis(min(seconds) / 1.8, highest * 1.8, _HEIGHT - _BOTTOM, _TOP)
    corners = [low, *([1.0] if low < 1 else []), high]
    return render(
        "plot.svg",
        width=_WIDTH,
        height=_HEIGHT,
        x=x,
        y=y,
        tolerance=" ".join(f"{x(each):.1f},{y(_tolerance_s(each)):.1f}" for each in corners),
        tolerance_top=y(_tolerance_s(low)),
        points=points,
    )


def _tolerance_s(megapixels: float) -> float:
    return SECONDS_PER_MEGAPIXEL * max(1.0, megapixels)
