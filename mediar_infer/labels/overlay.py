"""Label outlines over an image, for visual checks."""

import math
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from mediar_infer.errors import ShapeError
from mediar_infer.output_files import write_bytes

MAX_SIDE: Final = 4096
"""Larger images are reduced to this many pixels on the longer side."""

_STRETCH_PERCENTILES = (0.5, 99.5)
_SAMPLED_PIXELS = 4_000_000
_BAND_ROWS = 128
# Steps of the golden ratio around the colour circle keep neighbouring ids far apart in hue. After a
# Fibonacci number of steps the circle closes, so this also holds where the colours repeat.
_N_COLOURS = 233
_HUE_STEP = (math.sqrt(5) - 1) / 2

_Image = npt.NDArray[Any]
_Labels = npt.NDArray[np.integer[Any]]
_Rgb = npt.NDArray[np.uint8]
_Rgba = npt.NDArray[np.uint8]


def draw_overlay(image: _Image, labels: _Labels, *, max_side: int = MAX_SIDE) -> _Rgb:
    """Draw the outline of every cell over the contrast-stretched image.

    Args:
        image: ``(H, W, 3)`` of any real dtype, in any range. Not modified.
        labels: ``(H, W)`` integer, 0 = background. Not modified.
        max_side: longest side of the result in pixels; larger images are reduced first.

    Returns:
        ``(h, w, 3)`` uint8 RGB. An outline consists of the cell's own outermost pixels
        (4-connected): touching cells show two lines.

    Raises:
        ShapeError: if the arrays do not fit together.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.shape[:2] != labels.shape:
        raise ShapeError(
            f"image of shape {image.shape} and labels of shape {labels.shape}; expected (H, W, 3) "
            "and (H, W) of one size"
        )
    drawn = draw_picture(image, max_side=max_side)
    outlines = draw_outlines(labels, max_side=max_side)
    outline = outlines[..., 3] > 0
    drawn[outline] = outlines[outline, :3]
    return drawn


def draw_picture(image: _Image, *, max_side: int = MAX_SIDE) -> _Rgb:
    """Draw the image alone: contrast-stretched, and reduced if it is larger than ``max_side``.

    Args:
        image: ``(H, W, 3)`` of any real dtype, in any range. Not modified.
        max_side: longest side of the result in pixels.

    Returns:
        ``(h, w, 3)`` uint8 RGB.
    """
    drawn = _stretch_contrast(image)
    size = _drawn_size(image.shape, max_side)
    if size == drawn.shape[:2]:
        return drawn
    reduced: _Rgb = cv2.resize(drawn, size[::-1], interpolation=cv2.INTER_AREA)
    return reduced


def draw_outlines(labels: _Labels, *, max_side: int = MAX_SIDE) -> _Rgba:
    """Draw the outline of every cell on a transparent ground, of the size of ``draw_picture``.

    Args:
        labels: ``(H, W)`` integer, 0 = background. Not modified.
        max_side: longest side of the result in pixels.

    Returns:
        ``(h, w, 4)`` uint8 RGBA, opaque on outlines and zero elsewhere.
    """
    height, width = labels.shape
    size = _drawn_size(labels.shape, max_side)
    if size != labels.shape:
        rows = ((np.arange(size[0]) + 0.5) * height / size[0]).astype(np.intp)
        columns = ((np.arange(size[1]) + 0.5) * width / size[1]).astype(np.intp)
        labels = labels[rows[:, None], columns]
    outline = find_inner_boundary(labels)
    drawn = np.zeros((*labels.shape, 4), np.uint8)
    drawn[outline, :3] = compute_colours(labels[outline])
    drawn[outline, 3] = 255
    return drawn


def _drawn_size(shape: tuple[int, ...], max_side: int) -> tuple[int, int]:
    """Height and width at which an image of a shape ``(H, W, …)`` is drawn."""
    height, width = shape[:2]
    scale = min(1.0, max_side / max(height, width, 1))
    if scale == 1:
        return height, width
    return max(1, round(height * scale)), max(1, round(width * scale))


def write_overlay(path: Path, image: _Image, labels: _Labels) -> None:
    """Write ``draw_overlay`` as a PNG file.

    Raises:
        ShapeError: if the arrays do not fit together.
        OutputError: if the file cannot be written.
    """
    write_png(path, draw_overlay(image, labels))


def write_png(path: Path, picture: _Rgb) -> None:
    """Write a picture as a PNG file.

    Args:
        path: file to make or replace; its folder is made if need be.
        picture: ``(H, W, 3)`` uint8 RGB.

    Raises:
        OutputError: if the file cannot be written.
    """
    _, encoded = cv2.imencode(".png", picture[..., ::-1])  # OpenCV takes colours as BGR
    write_bytes(path, encoded.tobytes())


def find_inner_boundary(labels: _Labels) -> npt.NDArray[np.bool_]:
    """Mark the pixels of cells that have a 4-neighbour of another label.

    Args:
        labels: ``(H, W)`` integer, 0 = background.

    Returns:
        ``(H, W)`` bool; the image's edge is no boundary.
    """
    boundary = np.zeros(labels.shape, np.bool_)
    vertical = labels[1:] != labels[:-1]
    horizontal = labels[:, 1:] != labels[:, :-1]
    boundary[1:] |= vertical
    boundary[:-1] |= vertical
    boundary[:, 1:] |= horizontal
    boundary[:, :-1] |= horizontal
    return boundary & (labels > 0)


def compute_colours(ids: _Labels) -> _Rgb:
    """Give each id a bright colour, far from those of the next ids.

    Args:
        ids: ``(n,)`` positive integers.

    Returns:
        ``(n, 3)`` uint8 RGB.
    """
    hues = np.arange(_N_COLOURS) * _HUE_STEP % 1.0 * 180
    hsv = np.full((1, _N_COLOURS, 3), 255, np.uint8)
    hsv[0, :, 0] = hues.astype(np.uint8)
    palette: _Rgb = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0]
    return palette[ids % _N_COLOURS]


def _stretch_contrast(image: _Image) -> _Rgb:
    """Map the middle 99 % of all finite values to 0…255; a constant image becomes black."""
    stretched = np.zeros(image.shape, np.uint8)
    step = max(1, math.isqrt(image.shape[0] * image.shape[1] // _SAMPLED_PIXELS))
    # Half of everything: the difference of two large float64 values would overflow.
    sample = image[::step, ::step].astype(np.float64) / 2
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return stretched
    low, high = np.percentile(sample, _STRETCH_PERCENTILES)
    if high <= low:
        low, high = sample.min(), sample.max()
    if high <= low:
        return stretched
    # By bands: a whole slide as float would take several times its size.
    for top in range(0, image.shape[0], _BAND_ROWS):
        band = image[top : top + _BAND_ROWS].astype(np.float64) / 2
        scaled = np.nan_to_num((band - low) * (255 / (high - low)), nan=0.0)
        stretched[top : top + _BAND_ROWS] = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return stretched
