"""Augmentation of one image together with its labels and its flow field (numpy and OpenCV).

Convention:
    - (y, x) order; a flow is ``(2, H, W)``, (dy, dx).
    - Geometric transforms move the pixels of all three arrays alike **and** turn the vectors of the
      flow; intensity transforms touch the image only.
    - Every random choice comes from the generator that is passed in.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mediar_infer.training.data import Sample
from mediar_infer.types import BoolArray, Float32Array, LabelArray


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Probabilities and ranges (paper, Table 1, adapted to small crops)."""

    zoom_probability: float = 0.75
    """How often a crop is zoomed at all."""
    zoom_range: tuple[float, float] = (0.5, 1.5)
    """Smallest and largest zoom; drawn evenly on a logarithmic scale."""
    cell_probability: float = 0.25
    """How often single cells are brightened."""
    cell_fraction: float = 0.4
    """Fraction of the cells that are brightened then."""
    cell_gain: float = 0.7
    """Brightened cells are multiplied by 1 + U(0, cell_gain)."""
    gamma_probability: float = 0.4
    """How often the contrast changes."""
    gamma_range: tuple[float, float] = (0.5, 2.0)
    """Exponents of the contrast change."""
    noise_probability: float = 0.25
    """How often Gaussian noise is added."""
    noise_sigma: float = 0.1
    """Largest standard deviation of the noise, image in [0, 1]."""
    blur_probability: float = 0.25
    """How often the image is smoothed."""
    blur_range: tuple[float, float] = (0.5, 1.5)
    """Standard deviations of the smoothing, in pixels."""
    channel_probability: float = 0.15
    """How often colours are permuted or turned to grey."""
    inversion_probability: float = 0.0
    """How often light and dark change places."""
    mixing_probability: float = 0.0
    """How often the colours are mixed anew, as light or as optical density of stains."""


@dataclass(frozen=True, slots=True)
class Crop:
    """One training example."""

    image: Float32Array
    """``(S, S, 3)`` float32 in [0, 1]."""
    labels: LabelArray
    """``(S, S)`` instance labels, 0 = background."""
    unit_flow: Float32Array
    """``(2, S, S)`` float32."""

    @property
    def foreground(self) -> BoolArray:
        """``(S, S)`` bool, true inside cells."""
        return self.labels > 0


def draw_crop(
    sample: Sample, size: int, augmentation: Augmentation, rng: np.random.Generator
) -> Crop:
    """Cut a random augmented crop out of a sample.

    Args:
        sample: not modified.
        size: side of the crop in pixels.
        augmentation: what may happen to it.
        rng: source of every random choice.
    """
    zoom = 1.0
    if rng.random() < augmentation.zoom_probability:
        zoom = float(np.exp(rng.uniform(*np.log(augmentation.zoom_range))))
    side = max(1, round(size / zoom))
    height, width = sample.labels.shape
    top, left = _draw_offset(height, side, rng), _draw_offset(width, side, rng)
    crop = crop_and_zoom(sample, top, left, side, size)
    if rng.random() < 0.5:
        crop = flip_horizontally(crop)
    for _ in range(rng.integers(4)):
        crop = rotate_quarter(crop)
    image = change_intensity(crop.image, crop.labels, augmentation, rng)
    return Crop(image, crop.labels, crop.unit_flow)


def _draw_offset(length: int, side: int, rng: np.random.Generator) -> int:
    """Draw a start of the crop; negative where the image is smaller than the crop."""
    low, high = sorted((0, length - side))
    return int(rng.integers(low, high + 1))


def crop_and_zoom(sample: Sample, top: int, left: int, side: int, size: int) -> Crop:
    """Cut the square ``side`` × ``side`` at (top, left) and resample it to ``size`` × ``size``.

    Outside the image everything is 0. An isotropic zoom keeps the direction of the flow. Labels
    and flow are taken from the nearest pixel: interpolation would mix the opposite vectors of
    touching cells.

    Args:
        sample: not modified.
        top: first row, may be negative or reach past the image.
        left: first column, likewise.
        side: side of the square in pixels of the sample.
        size: side of the result.
    """
    image = _cut(sample.image, top, left, side, axes=(0, 1))
    labels = _cut(sample.labels, top, left, side, axes=(0, 1))
    unit_flow = _cut(sample.unit_flow, top, left, side, axes=(1, 2))
    if side != size:
        method = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
        image = cv2.resize(image, (size, size), interpolation=method)
        nearest = ((np.arange(size) + 0.5) * (side / size)).astype(np.intp)
        labels = labels[nearest][:, nearest]
        unit_flow = unit_flow[:, nearest][:, :, nearest]
    return Crop(image.astype(np.float32) / 255.0, labels, unit_flow.astype(np.float32))


def _cut(
    array: npt.NDArray[Any], top: int, left: int, side: int, *, axes: tuple[int, int]
) -> npt.NDArray[Any]:
    index: list[slice] = [slice(None)] * array.ndim
    padding = [(0, 0)] * array.ndim
    for axis, start in zip(axes, (top, left), strict=True):
        stop, length = start + side, array.shape[axis]
        index[axis] = slice(max(start, 0), min(stop, length))
        padding[axis] = (max(-start, 0), max(stop - length, 0))
    cut = array[tuple(index)]
    return np.pad(cut, padding) if any(map(any, padding)) else cut


def flip_horizontally(crop: Crop) -> Crop:
    """Mirror left and right; flow x changes its sign."""
    unit_flow = crop.unit_flow[:, :, ::-1] * np.array([1, -1], np.float32)[:, None, None]
    return Crop(crop.image[:, ::-1], crop.labels[:, ::-1], unit_flow)


def flip_vertically(crop: Crop) -> Crop:
    """Mirror top and bottom; flow y changes its sign."""
    unit_flow = crop.unit_flow[:, ::-1] * np.array([-1, 1], np.float32)[:, None, None]
    return Crop(crop.image[::-1], crop.labels[::-1], unit_flow)


def rotate_quarter(crop: Crop) -> Crop:
    """Turn by 90 degrees counter-clockwise as seen on the screen (``np.rot90``).

    The pixel (y, x) moves to (W - 1 - x, y), so the vector (dy, dx) becomes (-dx, dy).
    """
    dy, dx = np.rot90(crop.unit_flow, axes=(1, 2))
    return Crop(np.rot90(crop.image), np.rot90(crop.labels), np.stack([-dx, dy]))


def change_intensity(
    image: Float32Array,
    labels: LabelArray,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> Float32Array:
    """Change brightness, colours, noise and sharpness at random.

    Args:
        image: ``(H, W, 3)`` in [0, 1]. Not modified.
        labels: ``(H, W)`` instance labels.
        augmentation: probabilities and ranges.
        rng: source of every random choice.

    Returns:
        ``(H, W, 3)`` float32 in [0, 1].
    """
    if rng.random() < augmentation.channel_probability:
        image = _change_channels(image, rng)
    if rng.random() < augmentation.mixing_probability:
        image = _mix_colours(image, rng)
    if rng.random() < augmentation.inversion_probability:
        image = 1 - image
    if rng.random() < augmentation.cell_probability:
        image = image * _draw_cell_gains(labels, augmentation, rng)[..., None]
    if rng.random() < augmentation.gamma_probability:
        exponent = np.exp(rng.uniform(*np.log(augmentation.gamma_range)))
        image = np.clip(image, 0, 1) ** np.float32(exponent)
    if rng.random() < augmentation.blur_probability:
        image = cv2.GaussianBlur(
            np.ascontiguousarray(image), (0, 0), rng.uniform(*augmentation.blur_range)
        )
    if rng.random() < augmentation.noise_probability:
        sigma = np.float32(rng.uniform(0, augmentation.noise_sigma))
        image = image + sigma * rng.standard_normal(image.shape, np.float32)
    return np.clip(image, 0, 1)


def _change_channels(image: Float32Array, rng: np.random.Generator) -> Float32Array:
    if rng.random() < 0.5:
        return image[..., rng.permutation(3)]
    return np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)


def _mix_colours(image: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Mix the channels by a random matrix; mixed densities turn one stain into another."""
    matrix = rng.dirichlet((0.6, 0.6, 0.6), 3).astype(np.float32) * rng.uniform(0.5, 1.5, (3, 1))
    matrix = matrix.astype(np.float32)
    if rng.random() < 0.5:
        return np.clip(image @ matrix.T, 0, 1)
    density = -np.log(np.clip(image, 1 / 255, 1))
    mixed: Float32Array = np.exp(-(density @ matrix.T))
    return mixed


def _draw_cell_gains(
    labels: LabelArray, augmentation: Augmentation, rng: np.random.Generator
) -> Float32Array:
    """Draw a factor per pixel: 1 outside cells and in the cells that are left alone."""
    gains = 1 + rng.uniform(0, augmentation.cell_gain, int(labels.max()) + 1)
    gains[rng.random(len(gains)) >= augmentation.cell_fraction] = 1
    gains[0] = 1
    chosen: Float32Array = gains.astype(np.float32)[labels]
    return chosen
