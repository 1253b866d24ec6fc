"""Seconds over megapixels as SVG, on logarithmic axes, with the tolerance as a line."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mediar_infer.challenge.markup import escape_text
from mediar_infer.tolerance import SECONDS_PER_MEGAPIXEL

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 18, 18, 52
_STEPS = (1, 2, 5)
_MAX_LABELS = 9


@dataclass(frozen=True, slots=True)
class Point:
    """One image in the plot."""

    target: str
    """Id of the element that the point links to."""
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
        """Values 1, 2 and 5 of each decade, or only its 1 where those are too many."""
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in (_STEPS, (1,)):
            values = [step * 10.0**decade for decade in decades for step in steps]
            inside = [value for value in values if self.low <= value <= self.high]
            if len(inside) <= _MAX_LABELS:
                return inside
        return inside


def draw_plot(points: Sequence[Point]) -> str:
    """Draw the plot.

    Args:
        points: the images; may be empty.

    Returns:
        An ``<svg>`` element whose colours are left to the page's style.
    """
    sizes = [point.megapixels for point in points] or [1.0]
    low, high = min(sizes) / 1.6, max(1.6, max(sizes) * 1.6)
    seconds = [point.seconds for point in points] + [SECONDS_PER_MEGAPIXEL]
    highest = max(*seconds, _tolerance_s(high))
    x = _Axis(low, high, _LEFT, _WIDTH - _RIGHT)
    y = _Axis(min(seconds) / 1.8, highest * 1.8, _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="group"'
        ' aria-label="Seconds over megapixels, both logarithmic">',
        *_draw_grid(x, y),
        *_draw_tolerance(x, y),
        *_draw_axes(x, y),
        *(_draw_point(point, x, y) for point in points),
        "</svg>",
    ]
    return "\n".join(parts)


def _tolerance_s(megapixels: float) -> float:
    return SECONDS_PER_MEGAPIXEL * max(1.0, megapixels)


def _draw_tolerance(x: _Axis, y: _Axis) -> list[str]:
    corners = [x.low, *([1.0] if x.low < 1 else []), x.high]
    line = " ".join(f"{x(each):.1f},{y(_tolerance_s(each)):.1f}" for each in corners)
    area = f"{line} {x.stop:.1f},{y.stop:.1f} {x.start:.1f},{y.stop:.1f}"
    return [
        f'<polygon class="late" points="{area}"/>',
        f'<polyline class="tolerance" points="{line}"/>',
        f'<text class="tolerance-name" x="{x.start + 8:.1f}"'
        f' y="{y(_tolerance_s(x.low)) - 8:.1f}">tolerance</text>',
    ]


def _draw_grid(x: _Axis, y: _Axis) -> list[str]:
    columns = [f"M{x(value):.1f} {y.start}V{y.stop}" for value in x.ticks()]
    rows = [f"M{x.start} {y(value):.1f}H{x.stop}" for value in y.ticks()]
    return [f'<path class="grid" d="{"".join(columns + rows)}"/>']


def _draw_axes(x: _Axis, y: _Axis) -> list[str]:
    parts = [
        f'<text class="tick" x="{x(value):.1f}" y="{y.start + 18}">{value:g}</text>'
        for value in x.ticks()
    ]
    parts += [
        f'<text class="tick left" x="{x.start - 8}" y="{y(value):.1f}">{value:g}</text>'
        for value in y.ticks()
    ]
    middle = (x.start + x.stop) / 2
    parts.append(f'<path class="axis" d="M{x.start} {y.stop}V{y.start}H{x.stop}"/>')
    parts.append(f'<text class="name" x="{middle}" y="{_HEIGHT - 10}">megapixels</text>')
    parts.append(f'<text class="name left" x="{x.start + 8}" y="{y.stop + 18}">seconds</text>')
    return parts


def _draw_point(point: Point, x: _Axis, y: _Axis) -> str:
    text = escape_text(f"{point.name}: {point.seconds:.2f} s, {point.megapixels:.3g} megapixels")
    left, top = x(point.megapixels), y(point.seconds)
    # The shape tells a breach, not its colour alone.
    shape = (
        f'<path d="M{left:.1f} {top - 7:.1f}l7 7-7 7-7-7z"/>'
        if point.is_breach
        else f'<circle cx="{left:.1f}" cy="{top:.1f}" r="5"/>'
    )
    kind = "point breach" if point.is_breach else "point"
    return (
        f'<a class="{kind}" href="#{escape_text(point.target)}" aria-label="{text}">'
        f"<title>{text}</title>{shape}</a>"
    )
