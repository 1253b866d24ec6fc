"""The challenge's time tolerance per image."""

from typing import Final

SECONDS_PER_MEGAPIXEL: Final = 10.0
"""The challenge grants this much per million pixels, and never less than for one million."""


def tolerance_s(height: int, width: int) -> float:
    """Compute the seconds that the challenge grants for an image: 10 per megapixel, at least 10."""
    return SECONDS_PER_MEGAPIXEL * max(1.0, height * width / 1e6)


def counted_s(wall_s: float, height: int, width: int) -> float:
    """Compute the seconds that count against an image: those beyond its tolerance."""
    return max(0.0, wall_s - tolerance_s(height, width))
