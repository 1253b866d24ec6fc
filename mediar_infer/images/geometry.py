"""Where the pixels of an image lie in space, and how large they are."""

import math
from dataclasses import dataclass, replace
from typing import Final

UM_PER_MM: Final = 1000.0
_IDENTITY: Final = (1.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the pixels of an image lie in space; axes in the order x, y[, z …]."""

    spacing: tuple[float, ...]
    """Distance of neighbouring pixels along each axis in mm."""
    origin: tuple[float, ...] = (0.0, 0.0)
    """Position of the first pixel along each axis in mm."""
    direction: tuple[float, ...] = _IDENTITY
    """Directions of the axes, a square matrix row by row."""
    is_measured: bool = True
    """Whether the spacing is the size of something; else it only stands in the file, such as the
    dots per inch of a camera, and is passed on without being used."""

    @property
    def pixel_size_mm(self) -> tuple[float, float] | None:
        """Height and width of a pixel; None if the spacing is not measured or no length."""
        x, y = self.spacing[:2]
        is_length = self.is_measured and 0 < x < math.inf and 0 < y < math.inf
        return (y, x) if is_length else None

    @classmethod
    def of_size(
        cls, pixel_size_um: tuple[float, float], place: "Geometry | None" = None
    ) -> "Geometry":
        """Geometry of an image whose pixel size is known.

        Args:
            pixel_size_um: height and width of a pixel in µm.
            place: where its pixels lie otherwise; None for the origin.
        """
        height, width = pixel_size_um
        known = (width / UM_PER_MM, height / UM_PER_MM)
        if place is None:
            return cls(known)
        return replace(place, spacing=(*known, *place.spacing[2:]), is_measured=True)


def to_geometry(pixel_size_um: tuple[float, float] | None) -> Geometry | None:
    """Place an image of a known pixel size at the origin.

    Args:
        pixel_size_um: height and width of a pixel.

    Returns:
        The geometry; none where the size is unknown, infinite or not positive.
    """
    if pixel_size_um is None or not all(0 < size < math.inf for size in pixel_size_um):
        return None
    return Geometry.of_size(pixel_size_um)
