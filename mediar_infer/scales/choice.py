"""The size at which networks see an image: given, from the size of its cells, or by trials."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mediar_infer.config import MAX_SCALE, MIN_SCALE, CellSize, EngineConfig
from mediar_infer.errors import ImageReadError, UsageError
from mediar_infer.image_trace import Trace
from mediar_infer.images.geometry import UM_PER_MM
from mediar_infer.images.sources import ImageSource

_NEARLY_SAME: Final = 1.1
"""Cells that differ less from the training images are shown as they are: resizing blurs."""
_BY_OPTION: Final = (
    "give the size in pixels, such as --cell-size 30, or the size of a pixel with --pixel-size"
)
_SQUARE: Final = 0.01
"""Pixels whose height and width differ by less than this fraction are square."""


@dataclass(frozen=True, slots=True)
class ScaleChoice:
    """The size at which an image is shown, and why."""

    scale: float
    """Size relative to the image."""
    reason: str
    """Why this one, in words."""
    trials: Sequence[Mapping[str, Any]] = ()
    """What was tried, ready for JSON."""
    warning: str | None = None
    """What a user should know of the choice, one sentence."""

    def note(self, trace: Trace) -> None:
        """Leave the choice in the record of the image."""
        trace.scale = self.scale
        report = {"scale": self.scale, "reason": self.reason}
        trace.scale_choice = report | ({"trials": list(self.trials)} if self.trials else {})
        if self.warning:
            trace.warn(self.warning)


def check_cell_size(config: EngineConfig, training_diameter: float | None) -> None:
    """Refuse a size of cells that no image can be shown for.

    Args:
        config: settings.
        training_diameter: median diameter of the cells that the networks were trained on, in
            pixels, if known.

    Raises:
        UsageError: if the training size is unknown, or the scale is out of range.
    """
    size = config.cell_size
    if size is None:
        return
    if training_diameter is None:
        raise UsageError(
            f"found cell size {size}, but no size of the training cells in the manifest.json of"
            ' these weights ("cell_diameter"), expected both; give the factor with --scale'
        )
    if size.unit == "px":
        low, high = training_diameter / MAX_SCALE, training_diameter / MIN_SCALE
        if not low <= size.value <= high:
            raise UsageError(f"found cell size {size}, expected {low:.0f} to {high:.0f} px")


def known_scale(
    source: ImageSource, config: EngineConfig, training_diameter: float | None
) -> ScaleChoice | None:
    """The scale of an image as far as settings and file decide it; None with ``auto``.

    Raises:
        ImageReadError: if the pixel size is needed and unknown, or cannot be right.
    """
    if config.scale == "auto":
        return None
    if config.cell_size is None or training_diameter is None:
        return ScaleChoice(config.scale, "as given")
    size = config.cell_size
    warning = None
    if size.unit == "px":
        pixels = size.value
    else:
        pixels, warning = _to_pixels(source, size, training_diameter)
    scale = training_diameter / pixels
    shown = f"cells of {pixels:.3g} px, {training_diameter:.3g} px in training"
    if max(scale, 1 / scale) < _NEARLY_SAME:
        return ScaleChoice(1.0, f"{shown}: nearly the same", warning=warning)
    return ScaleChoice(scale, shown, warning=warning)


def find_pixel_size_mm(
    source: ImageSource, size: CellSize, remedy: str = _BY_OPTION
) -> tuple[float, float]:
    """Height and width of a pixel, which a size in micrometres needs.

    Args:
        source: the image.
        size: what is asked for.
        remedy: what a user can do where the image states no pixel size.

    Raises:
        ImageReadError: if it states none.
    """
    if source.pixel_size_mm is None:
        raise ImageReadError(
            f"{source.name}: found no pixel size, expected one for cells of {size}; {remedy}"
        )
    return source.pixel_size_mm


def _to_pixels(
    source: ImageSource, size: CellSize, training_diameter: float
) -> tuple[float, str | None]:
    """A size in pixels, and a warning where pixels are not square."""
    height_um, width_um = (UM_PER_MM * side for side in find_pixel_size_mm(source, size))
    mean_um = math.sqrt(height_um * width_um)  # a pixel of it has the same area
    pixels = size.value / mean_um
    low, high = training_diameter / MAX_SCALE, training_diameter / MIN_SCALE
    if not low <= pixels <= high:
        raise ImageReadError(
            f"{source.name}: found pixels of {height_um:.4g} × {width_um:.4g} µm, so that cells of"
            f" {size} are {pixels:.3g} px, expected {low:.0f} to {high:.0f} px; if the file states"
            " a wrong pixel size, give the size in pixels, such as --cell-size 30"
        )
    if math.isclose(height_um, width_um, rel_tol=_SQUARE):
        return pixels, None
    return pixels, (
        f"pixels are {height_um:.4g} µm high and {width_um:.4g} µm wide: the scale for cells of"
        f" {size} takes their geometric mean, {mean_um:.4g} µm, along both axes"
    )
