"""How generated cells look under a microscope: phase contrast, relief, membranes, stained nuclei.

Every ``render_…`` function draws ``(side, side, 3)`` float32 around [0, 1] for ``(side, side)``
int32 labels, 0 = background, which it does not modify.
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mediar_infer.arrays import Float32Array, LabelArray
from mediar_infer.demo.scenes import draw_texture
from mediar_infer.labels.overlay import find_inner_boundary


def measure_depth(labels: LabelArray) -> Float32Array:
    """Measure each pixel's distance to its cell's border, 1 at the cell's deepest pixel.

    Args:
        labels: ``(H, W)`` int32, 0 = background. Not modified.

    Returns:
        ``(H, W)`` float32, 0 outside.
    """
    distance = _distances(labels)
    deepest = np.zeros(int(labels.max()) + 1, np.float32)
    np.maximum.at(deepest, labels.ravel(), distance.ravel())
    depth: Float32Array = (distance / np.maximum(deepest[labels], 1)).astype(np.float32)
    return depth


def _distances(labels: LabelArray) -> Float32Array:
    """Distance of each pixel to the inner boundary of its cell in px, 0 on it and outside."""
    inner = ((labels > 0) & ~find_inner_boundary(labels)).astype(np.uint8)
    distances: Float32Array = cv2.distanceTransform(inner, cv2.DIST_L2, 5)
    return distances


def _blur(values: npt.NDArray[np.generic], sigma: float) -> Float32Array:
    blurred: Float32Array = cv2.GaussianBlur(values.astype(np.float32), (0, 0), sigma)
    return blurred


def draw_values(
    labels: LabelArray, low: float, high: float, rng: np.random.Generator
) -> Float32Array:
    """Give every cell a random value of its own.

    Args:
        labels: ``(H, W)`` int32, 0 = background. Not modified.
        low: smallest value.
        high: largest value.
        rng: source of every random choice.

    Returns:
        ``(H, W)`` float32, 0 outside cells.
    """
    values = rng.uniform(low, high, int(labels.max()) + 1).astype(np.float32)
    values[0] = 0
    return values[labels]


def _grey(values: npt.NDArray[Any]) -> Float32Array:
    """``(H, W)`` values as ``(H, W, 3)`` RGB."""
    return np.repeat(values.astype(np.float32)[..., None], 3, axis=2)


def render_phase(labels: LabelArray, rng: np.random.Generator) -> Float32Array:
    """Draw phase contrast of dense cells: dark bodies, bright halo, grey field.

    Args:
        labels: what to draw.
        rng: source of every random choice.
    """
    inside = (labels > 0).astype(np.float32)
    depth, width = measure_depth(labels), max(2.0, float(_distances(labels).max()))
    field = rng.uniform(0.35, 0.6) + 0.03 * draw_texture(labels.shape, rng.uniform(20, 80), rng)
    reach = width * rng.uniform(0.4, 1.5)
    halo = _blur(inside, reach) * (1 - inside)
    halo *= rng.uniform(0.1, 0.6) / max(float(halo.max()), 1e-6)
    # In the middle of a colony everything is a little brighter or darker.
    glow = _blur(inside, 4 * width) * rng.uniform(-0.15, 0.25)
    body = draw_values(labels, rng.uniform(0.15, 0.3), rng.uniform(0.3, 0.5), rng)
    shape = rng.uniform(0.4, 1) + (1 - rng.uniform(0.3, 0.9)) * np.sqrt(depth)
    grain = draw_texture(labels.shape, rng.uniform(0.8, 2.5), rng) * rng.uniform(0, 0.04)
    rim = _blur(find_inner_boundary(labels), 0.7) * rng.uniform(0, 0.25)
    image = field + halo + glow - body * np.minimum(shape, 1.2) * inside + grain + rim
    return _grey(_blur(image, rng.uniform(0.4, 1.3)))


def render_haloes(labels: LabelArray, rng: np.random.Generator) -> Float32Array:
    """Draw phase contrast of crowded cells: the gaps between them shine and look like cells.

    Args:
        labels: what to draw.
        rng: source of every random choice.
    """
    inside, depth = (labels > 0).astype(np.float32), measure_depth(labels)
    width = max(2.0, float(_distances(labels).max()))
    field = 0.5 + 0.04 * draw_texture(labels.shape, rng.uniform(20, 80), rng)
    # The more cells lie around a place, the brighter it is: enclosed gaps most of all.
    halo = _blur(inside, width * rng.uniform(0.15, 0.6)) * (1 - inside)
    rim = _blur(find_inner_boundary(labels), rng.uniform(0.6, 1.1))
    body = rng.uniform(-0.3, 0.12) + draw_values(labels, -0.06, 0.06, rng)
    dome = rng.uniform(-0.05, 0.15) * np.sqrt(depth)
    image = (
        field
        + (body + dome) * inside
        + rng.uniform(0.2, 0.7) * halo
        - rng.uniform(0.1, 0.35) * rim
        + rng.uniform(0, 0.05) * draw_texture(labels.shape, rng.uniform(0.8, 3), rng) * inside
    )
    return _grey(_blur(image, rng.uniform(0.4, 1.2)))


def render_thin(labels: LabelArray, rng: np.random.Generator) -> Float32Array:
    """Draw phase contrast of flat cells: hardly other than the field, partly bright edges.

    Args:
        labels: what to draw.
        rng: source of every random choice.
    """
    inside, depth = (labels > 0).astype(np.float32), measure_depth(labels)
    field = 0.5 + 0.03 * draw_texture(labels.shape, rng.uniform(30, 90), rng)
    edge = _blur(find_inner_boundary(labels), rng.uniform(0.7, 1.3))
    sharpness = np.clip(0.5 + 0.5 * draw_texture(labels.shape, rng.uniform(6, 25), rng), 0.1, 1)
    outer = _blur(inside, rng.uniform(1.5, 4)) * (1 - inside)
    granules = np.maximum(draw_texture(labels.shape, rng.uniform(0.8, 1.8), rng) - 0.5, 0)
    nucleus = ((depth > rng.uniform(0.45, 0.7)) * inside).astype(np.float32)
    image = (
        field
        + draw_values(labels, -0.1, 0.08, rng)
        + rng.uniform(-0.15, 0.3) * edge * sharpness
        + rng.uniform(0.05, 0.45) * outer * sharpness
        + rng.choice((-1, 1)) * rng.uniform(0.02, 0.18) * granules * inside * (0.3 + depth)
        + rng.uniform(-0.12, 0.12) * _blur(nucleus, 1.5)
        + rng.uniform(0, 0.03) * draw_texture(labels.shape, 1.0, rng)
    )
    # A few cells round up and shine.
    shine = draw_values(labels, 0, 1, rng) > 0.97
    image += shine * np.sqrt(depth) * rng.uniform(0.1, 0.35)
    return _grey(_blur(image, rng.uniform(0.4, 1.2)))


def render_relief(labels: LabelArray, rng: np.random.Generator) -> Float32Array:
    """Draw differential interference contrast: slopes towards one side bright, others dark.

    Args:
        labels: what to draw.
        rng: source of every random choice.
    """
    depth = measure_depth(labels)
    height = np.sqrt(depth) * draw_values(labels, 0.5, 1.2, rng) * rng.uniform(2, 8)
    bumps = draw_texture(labels.shape, rng.uniform(1, 2.5), rng) * (labels > 0)
    height = _blur(height + rng.uniform(0.1, 0.8) * bumps * depth, rng.uniform(0.6, 1.5))
    slope_y, slope_x = np.gradient(height)
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * slope_x + np.sin(angle) * slope_y
    field = 0.5 + 0.06 * draw_texture(labels.shape, 60, rng)
    grain = rng.uniform(0.005, 0.03) * draw_texture(labels.shape, 0.8, rng)
    return _grey(field + rng.uniform(0.1, 0.4) * slope + grain)


def render_membranes(labels: LabelArray, rng: np.random.Generator) -> Float32Array:
    """Draw stained membranes, strong here and weak there, with or without nuclei.

    Args:
        labels: what to draw.
        rng: source of every random choice.
    """
    depth = measure_depth(labels)
    thickness = rng.uniform(0.6, 1.8)
    lines = _blur(find_inner_boundary(labels), thickness)
    strength = np.clip(0.6 + 0.35 * draw_texture(labels.shape, rng.uniform(5, 30), rng), 0.1, 1.5)
    haze = rng.uniform(0, 0.25) * (_blur(labels > 0, 3) + 0.3 * draw_texture(labels.shape, 15, rng))
    body = draw_values(labels, 0, rng.uniform(0, 0.2), rng)
    light = 1.6 * lines * strength + np.maximum(haze, 0) + body
    light += rng.uniform(0, 0.08) * np.abs(draw_texture(labels.shape, 1.2, rng))
    nuclei = _blur(depth > rng.uniform(0.4, 0.7), 1.0) * draw_values(labels, 0.3, 1, rng)
    if rng.random() < 0.5:
        return _grey(light + rng.choice((0, 0, 1)) * 0.6 * nuclei)
    image = np.zeros((*labels.shape, 3), np.float32)
    first, second = rng.permutation(3)[:2]
    image[..., first], image[..., second] = light, nuclei
    return image


def render_textured_nuclei(labels: LabelArray, rng: np.random.Generator) -> Float32Array:
    """Draw fluorescent nuclei with chromatin, bright foci or dark nucleoli.

    Args:
        labels: what to draw.
        rng: source of every random choice.
    """
    inside, depth = (labels > 0).astype(np.float32), measure_depth(labels)
    size = max(4.0, float(_distances(labels).max()))
    coarse = draw_texture(labels.shape, size * rng.uniform(0.08, 0.25), rng)
    fine = draw_texture(labels.shape, rng.uniform(1, 3), rng)
    texture = 1 + rng.uniform(0.1, 0.5) * coarse + rng.uniform(0, 0.2) * fine
    spots = np.maximum(draw_texture(labels.shape, size * rng.uniform(0.05, 0.15), rng) - 1.5, 0)
    texture += rng.choice((-1.0, 1.0)) * rng.uniform(0, 1.5) * spots
    edge = 1 - rng.uniform(0, 0.5) * (1 - np.minimum(4 * depth, 1))
    light = draw_values(labels, 0.25, 1, rng) * np.clip(texture, 0.15, 2.5) * edge * inside
    out_of_focus = rng.uniform(0, 0.25) * _blur(light, size * 0.6)
    return _grey(_blur(light, rng.uniform(0.6, 2)) + out_of_focus + rng.uniform(0.01, 0.1))


def render_tissue(
    labels: LabelArray, lumina: npt.NDArray[np.bool_], rng: np.random.Generator
) -> Float32Array:
    """Draw stained tissue: nuclei from pale to dark on a pink or brown ground, lumina white.

    Args:
        labels: nuclei.
        lumina: ``(side, side)`` bool, empty spaces.
        rng: source of every random choice.
    """
    ground = _draw_ground(lumina, rng)
    nuclei = _draw_stained_nuclei(labels, rng)
    ground *= 1 - 0.7 * _blur(labels > 0, 0.8)
    return _stain(ground, nuclei, rng)


def _draw_ground(lumina: npt.NDArray[np.bool_], rng: np.random.Generator) -> Float32Array:
    """Draw fibres with gaps and lumina: ``(H, W)``, how much of a stain is there."""
    shape = lumina.shape
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    sway = 12 * draw_texture(shape, 25, rng)
    angle = rng.uniform(0, np.pi)
    phase = (np.cos(angle) * x + np.sin(angle) * y + sway) / rng.uniform(2, 6)
    fibres = 0.5 + 0.5 * np.sin(phase) * np.clip(draw_texture(shape, 12, rng), 0, 1)
    ground: Float32Array = rng.uniform(0.15, 0.6) * (0.6 + 0.4 * fibres)
    ground *= np.clip(1 + 0.35 * draw_texture(shape, rng.uniform(8, 30), rng), 0.2, 2)
    gaps = _blur(lumina | (draw_texture(shape, rng.uniform(4, 12), rng) > rng.uniform(1.3, 3)), 1.0)
    ground *= 1 - 0.9 * gaps
    return ground


def _draw_stained_nuclei(labels: LabelArray, rng: np.random.Generator) -> Float32Array:
    """Draw nuclei from pale, with a dark rim, to evenly dark: ``(H, W)``, as for the ground."""
    paleness = rng.uniform(0.1, 0.9)
    chromatin = 1 + rng.uniform(0.1, 0.5) * draw_texture(labels.shape, rng.uniform(0.8, 2), rng)
    rim = np.clip(1 - 2.5 * measure_depth(labels), 0, 1) * (labels > 0)
    stain = draw_values(labels, 0.35, 1.2, rng) * (1 - paleness + paleness * (0.35 + rim))
    return _blur(stain * np.clip(chromatin, 0.3, 2), rng.uniform(0.6, 1.1))


def _stain(ground: Float32Array, nuclei: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Turn amounts of two stains into RGB: each absorbs light of the other colours."""
    pink = np.array([0.15, 0.9, 0.4]) + rng.uniform(-0.12, 0.12, 3)
    violet = np.array([1.0, 1.15, 0.45]) + rng.uniform(-0.25, 0.25, 3)
    look = rng.random()
    if look > 0.7:  # blue nuclei in islands of brown tissue
        pink = np.array([0.35, 0.7, 1.0]) * rng.uniform(0.7, 1.3)
        violet = np.array([0.9, 0.75, 0.35]) + rng.uniform(-0.15, 0.15, 3)
        islands = draw_texture(ground.shape, rng.uniform(25, 80), rng) + rng.uniform(-0.5, 1.5)
        ground = ground * (rng.uniform(1.2, 2.5) / (1 + np.exp(-8 * islands)))
    elif look < 0.25:  # brown or blue nuclei on a pale ground
        ground = ground * rng.uniform(0.05, 0.4)
        violet = np.array([1.2, 0.7, 0.35]) if rng.random() < 0.6 else np.array([0.45, 0.9, 1.3])
    density = ground[..., None] * pink + nuclei[..., None] * violet
    image: Float32Array = (rng.uniform(0.88, 1) * np.exp(-density)).astype(np.float32)
    return image
