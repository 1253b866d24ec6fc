"""Generated microscopy-like images with known labels, for the demo and for training."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from mediar_infer.arrays import Float32Array, LabelArray
from mediar_infer.errors import UsageError
from mediar_infer.labels.overlay import find_inner_boundary

SceneKind = Literal["fluorescence", "phase", "stained", "bacteria"]
"""Kinds of small scenes: nuclei on a dark field, touching cells, stained tissue, rods."""

_Image = npt.NDArray[Any]

_MIN_AREA = 24
_MIN_FREE_SHARE = 0.75


@dataclass(frozen=True, slots=True)
class Placement:
    """How large and how close cells lie."""

    radius: tuple[float, float]
    """Range of the shorter semi-axis in pixels."""
    elongation: tuple[float, float]
    """Range of longer over shorter semi-axis."""
    pixels_per_try: int
    """Image area per attempt to place a cell."""
    gap: int
    """Pixels kept free around a cell; 0 lets cells touch and hide parts of each other."""


@dataclass(frozen=True, slots=True)
class _Style:
    """How cells of one kind look and lie."""

    render: Callable[[LabelArray, Float32Array, np.random.Generator], _Image]
    """Labels and depth → image."""
    placement: Placement
    """Sizes and distances."""


def make_scene(kind: SceneKind, height: int, width: int, seed: int) -> tuple[_Image, LabelArray]:
    """Draw a scene; the same arguments give the same pixels.

    Args:
        kind: what to draw.
        height: rows, at least 1.
        width: columns, at least 1.
        seed: any non-negative integer.

    Returns:
        The image — ``fluorescence`` ``(H, W)`` uint16, ``phase`` and ``bacteria`` ``(H, W)`` uint8,
        ``stained`` ``(H, W, 3)`` uint8 RGB — and its ``(H, W)`` int32 labels 1…n, each cell
        4-connected. Cells may touch the image's edge; a tiny scene may have none.

    Raises:
        UsageError: if the kind is unknown.
    """
    if kind not in _STYLES:
        raise UsageError(f"scene {kind!r}; expected one of {', '.join(get_args(SceneKind))}")
    style, rng = _STYLES[kind], np.random.default_rng(seed)
    labels, depth = place_cells(height, width, style.placement, rng)
    return style.render(labels, depth, rng), labels


def place_cells(
    height: int, width: int, placement: Placement, rng: np.random.Generator
) -> tuple[LabelArray, Float32Array]:
    """Place random ellipses.

    Args:
        height: rows.
        width: columns.
        placement: sizes and distances.
        rng: source of every random choice.

    Returns:
        ``(H, W)`` int32 labels 1…n, each cell 4-connected, and ``(H, W)`` depth: 1 at the centre of
        a cell, 0 at its rim and outside.
    """
    labels = np.zeros((height, width), np.int32)
    depth = np.zeros((height, width), np.float32)
    n_cells = 0
    for _ in range(height * width // placement.pixels_per_try):
        centre = rng.uniform((0, 0), (height, width))
        minor = rng.uniform(*placement.radius)
        major = minor * rng.uniform(*placement.elongation)
        angle = rng.uniform(0, np.pi)
        reach = int(major) + placement.gap + 2
        low = np.maximum(centre.astype(int) - reach, 0)
        high = np.minimum(centre.astype(int) + reach + 1, (height, width))
        box = (slice(low[0], high[0]), slice(low[1], high[1]))
        y, x = np.mgrid[box] - centre[:, None, None]
        along, across = y * np.sin(angle) + x * np.cos(angle), y * np.cos(angle) - x * np.sin(angle)
        squared = (along / major) ** 2 + (across / minor) ** 2
        cell = _free_part(squared <= 1, labels[box], placement.gap)
        if cell is None:
            continue
        n_cells += 1
        labels[box][cell] = n_cells
        depth[box][cell] = (1 - squared)[cell]
    return labels, depth


def _free_part(
    shape: npt.NDArray[np.bool_], placed: LabelArray, gap: int
) -> npt.NDArray[np.bool_] | None:
    """Cut a new cell to the pixels that are free; None if it does not fit."""
    if gap:
        kernel = np.ones((2 * gap + 1, 2 * gap + 1), np.uint8)
        fits = not placed[cv2.dilate(shape.astype(np.uint8), kernel) > 0].any()
        free = shape
    else:
        free = shape & (placed == 0)
        n_parts = cv2.connectedComponents(free.astype(np.uint8), connectivity=4)[0] - 1
        fits = free.sum() >= _MIN_FREE_SHARE * shape.sum() and n_parts == 1
    return free if fits and free.sum() >= _MIN_AREA else None


def _blur(image: _Image, sigma: float) -> Float32Array:
    blurred: Float32Array = cv2.GaussianBlur(image.astype(np.float32), (0, 0), sigma)
    return blurred


def draw_texture(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> Float32Array:
    """Draw smooth noise of mean 0 and standard deviation 1.

    Args:
        shape: ``(H, W)`` or ``(H, W, C)``.
        sigma: standard deviation of the smoothing in pixels.
        rng: source of every random choice.
    """
    noise = _blur(rng.standard_normal(shape), sigma)
    return noise / max(float(noise.std()), 1e-6)


def _per_cell(
    labels: LabelArray, low: float, high: float, rng: np.random.Generator
) -> Float32Array:
    """Give every cell a random value and the background 0."""
    values = rng.uniform(low, high, int(labels.max(initial=0)) + 1).astype(np.float32)
    values[0] = 0
    return values[labels]


def _to_uint8(image: _Image) -> npt.NDArray[np.uint8]:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _render_fluorescence(
    labels: LabelArray, depth: Float32Array, rng: np.random.Generator
) -> _Image:
    height, width = labels.shape
    chromatin = 1 + 0.15 * draw_texture(labels.shape, 2.0, rng)
    nuclei = _per_cell(labels, 0.35, 1.0, rng) * (0.55 + 0.45 * np.sqrt(depth)) * chromatin
    shading = np.linspace(0.8, 1.2, width) * np.linspace(1.1, 0.9, height)[:, None]
    photons = 20 * shading + 400 * _blur(nuclei, 1.2)
    counts = rng.poisson(np.maximum(photons, 0)) * 8 + rng.normal(100, 12, labels.shape)
    return np.clip(counts, 0, 65535).astype(np.uint16)


def _render_phase(
    labels: LabelArray,
    depth: Float32Array,
    rng: np.random.Generator,
    *,
    body: float,
    halo_sigma: float,
) -> _Image:
    """Draw bodies with a bright halo around them and a dark rim between touching cells."""
    cells = (labels > 0).astype(np.float32)
    halo = _blur(cells, halo_sigma) * (1 - cells)
    rim = _blur(find_inner_boundary(labels), 0.8)
    grain = 8 * draw_texture(labels.shape, 2.0, rng) * cells
    grey = 130 + (body + 20 * depth) * cells + 110 * halo - 60 * rim + grain
    grey = _blur(grey, 0.7) + 6 * draw_texture(labels.shape, 40.0, rng)
    return _to_uint8(grey + rng.normal(0, 3, labels.shape))


def _render_stained(labels: LabelArray, depth: Float32Array, rng: np.random.Generator) -> _Image:
    """Mix stains by optical density: pink tissue everywhere, blue-violet nuclei on it."""
    eosin = 0.25 + 0.08 * draw_texture(labels.shape, 12.0, rng)
    nuclei = _per_cell(labels, 0.6, 1.1, rng) * (0.7 + 0.3 * np.sqrt(depth))
    haematoxylin = _blur(nuclei * (1 + 0.15 * draw_texture(labels.shape, 1.5, rng)), 0.8)
    pink, violet = np.array([0.1, 0.9, 0.4]), np.array([1.1, 1.3, 0.5])
    density = np.maximum(eosin, 0)[..., None] * pink + haematoxylin[..., None] * violet
    return _to_uint8(245 * np.exp(-density) + rng.normal(0, 2.5, density.shape))


_STYLES: Final[dict[str, _Style]] = {
    "fluorescence": _Style(_render_fluorescence, Placement((9, 15), (1.0, 1.5), 900, 1)),
    "phase": _Style(
        partial(_render_phase, body=-12, halo_sigma=4), Placement((12, 20), (1.0, 1.6), 120, 0)
    ),
    "stained": _Style(_render_stained, Placement((6, 10), (1.0, 1.7), 500, 1)),
    "bacteria": _Style(
        partial(_render_phase, body=-60, halo_sigma=2), Placement((3.5, 4.5), (3.0, 5.5), 300, 1)
    ),
}
