"""Synthetic images with known cells: shapes and looks that the labelled images lack.

Every image is drawn from wide random ranges (size, crowding, contrast of body, rim, halo and
nucleus, colours), so the network learns what a closed cell is rather than what one stain looks like
("domain randomisation", Tobin et al. 2017).
"""

import colorsys
import logging
from pathlib import Path
from typing import Any, Final, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt
from skimage.measure import label as split_regions
from skimage.morphology import remove_small_objects

from mediar_infer.arrays import Float32Array, LabelArray
from mediar_infer.demo.scenes import Placement, draw_texture, place_cells
from mediar_infer.errors import UsageError
from mediar_infer.labels.files import write_labels
from mediar_infer.labels.naming import label_path
from mediar_infer.labels.overlay import find_inner_boundary, write_png
from mediar_infer.training.data import generated_looks, generated_shapes
from mediar_infer.training.data.candidates import (
    DATA_MANIFEST_NAME,
    CandidateImage,
    write_data_manifest,
)
from mediar_infer.training.data.generated_looks import draw_values, measure_depth
from mediar_infer.training.data.generated_shapes import MIN_AREA

logger = logging.getLogger(__name__)

SOURCE: Final = "generated"
"""Source of these images in the data table, and the start of their ids."""

Kind = Literal[
    "scattered",
    "crowded",
    "tissue",
    "rods",
    "filaments",
    "spread",
    "membranes",
    "glands",
    "large_nuclei",
    "relief",
    "haloes",
]
"""Layouts, see ``draw_scene``."""
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

_SIDE = 384
_TOUCHING: Final = ("crowded", "tissue")


def write_generated(n_images: int, folder: Path, seed: int) -> Path:
    """Write images of 384 × 384 pixels with their labels, and a manifest for ``index``.

    Args:
        n_images: number of images; the kinds of layout alternate.
        folder: gets ``images/``, ``labels/`` and ``manifest.csv``; created if absent.
        seed: image ``i`` depends on ``(seed, i)`` only.

    Returns:
        The manifest; its images have the role public and the source ``generated``.

    Raises:
        UsageError: if fewer than one image is requested.
        OutputError: if a file cannot be written.
    """
    if n_images < 1:
        raise UsageError(f"found {n_images} images to generate, expected 1 or more")
    candidates = []
    for i in range(n_images):
        kind = KINDS[i % len(KINDS)]
        name = f"{SOURCE}_{seed}_{i}"
        image, labels = draw_scene(kind, np.random.default_rng((seed, i)))
        image_path = folder / "images" / f"{name}.png"
        write_png(image_path, image)
        labels_path = label_path(folder / "labels", image_path)
        write_labels(labels_path, [labels], height=labels.shape[0], width=labels.shape[1])
        candidates.append(
            CandidateImage(
                name, image_path, labels_path, role="public", modality=kind, source=SOURCE
            )
        )
    write_data_manifest(candidates, folder / DATA_MANIFEST_NAME)
    logger.info("%s: %d generated images", folder, n_images)
    return folder / DATA_MANIFEST_NAME


def draw_scene(
    kind: Kind, rng: np.random.Generator, side: int = _SIDE
) -> tuple[npt.NDArray[np.uint8], LabelArray]:
    """Draw one image.

    Args:
        kind: ``scattered`` (single cells), ``crowded`` (touching), ``tissue`` (gap-free cells in
            islands, single nuclei between) and ``rods`` (bacteria), all in any look; ``filaments``
            (bacteria in phase contrast), ``spread`` (flat cells in phase contrast), ``membranes``,
            ``glands`` (stained nuclei around lumina), ``large_nuclei``, ``relief`` (flat cells
            in differential interference contrast) and ``haloes`` (crowded round cells in phase
            contrast with bright gaps).
        rng: source of every random choice.
        side: height and width in pixels.

    Returns:
        ``(side, side, 3)`` uint8 and ``(side, side)`` int32 labels.
    """
    if kind in _SPECIAL:
        drawn, labels = _SPECIAL[kind](side, rng)
        return _finish(drawn, rng), labels
    if kind == "tissue":
        labels = _draw_tissue(side, rng)
    else:
        radius = float(np.exp(rng.uniform(*np.log((3, 6) if kind == "rods" else (6, 50)))))
        elongation = (2.5, 6.0) if kind == "rods" else (1.0, rng.uniform(1.1, 2.2))
        area = np.pi * radius**2 * np.mean(elongation)
        gap = 0 if kind == "crowded" else int(rng.integers(1, 4))
        tries = rng.uniform(2, 8) if kind == "crowded" else rng.uniform(0.3, 2)
        labels, _ = place_cells(
            side,
            side,
            Placement((0.75 * radius, 1.25 * radius), elongation, max(1, int(area / tries)), gap),
            rng,
        )
    labels = _clean(_bend(labels, rng))
    return _render(labels, rng, has_rims=kind in _TOUCHING), labels


def _bend(labels: LabelArray, rng: np.random.Generator) -> LabelArray:
    """Move the pixels along a smooth random field, so that outlines are not ellipses."""
    scale = rng.uniform(12, 60)
    strength = rng.uniform(0, 0.25) * scale
    y, x = np.mgrid[: labels.shape[0], : labels.shape[1]].astype(np.float32)
    map_y, map_x = (grid + strength * draw_texture(labels.shape, scale, rng) for grid in (y, x))
    bent: LabelArray = cv2.remap(
        labels.astype(np.float32), map_x, map_y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT
    ).astype(np.int32)
    return bent


def _clean(labels: LabelArray) -> LabelArray:
    """Give every 4-connected region its own label; drop specks."""
    regions = remove_small_objects(split_regions(labels, connectivity=1), max_size=MIN_AREA - 1)
    ids = np.unique(regions, return_inverse=True)[1].reshape(labels.shape)
    cleaned: LabelArray = ids.astype(np.int32)  # specks are rare, yet 0 is always background
    return cleaned if (regions == 0).any() else cleaned + 1


def _draw_tissue(side: int, rng: np.random.Generator) -> LabelArray:
    """Draw islands of stretched Voronoi cells with single nuclei between the islands."""
    pitch, stretch = rng.uniform(10, 36), rng.uniform(1.0, 2.5)
    angle = rng.uniform(0, np.pi)
    bend = 0.6 * side * draw_texture((side, side), side / 4, rng) / 4
    y, x = np.mgrid[:side, :side].astype(np.float32)
    along = (np.cos(angle) * x + np.sin(angle) * y + bend) / stretch
    across = np.cos(angle) * y - np.sin(angle) * x + bend[::-1, ::-1]
    cells = _voronoi(along / pitch, across / pitch, rng)
    islands = draw_texture((side, side), side / rng.uniform(5, 12), rng) > rng.uniform(-1, 0.6)
    nuclei, _ = place_cells(side, side, Placement((4, 8), (1.2, 2.6), 600, 1), rng)
    nuclei[cv2.dilate(islands.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0] = 0
    labels: LabelArray = np.where(islands, cells + 1, 0)
    labels += np.where(nuclei > 0, nuclei + cells.max() + 1, 0)
    return labels


def _voronoi(u: Float32Array, v: Float32Array, rng: np.random.Generator) -> LabelArray:
    """Assign every pixel to the nearest point of a jittered unit lattice in (u, v)."""
    row, column = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    row, column = row - row.min() + 1, column - column.min() + 1
    n_rows, n_columns = int(row.max()) + 2, int(column.max()) + 2
    jitter = rng.uniform(0.12, 0.88, (2, n_rows, n_columns)).astype(np.float32)
    inside_u, inside_v = u - np.floor(u), v - np.floor(v)
    nearest = np.full(u.shape, np.inf, np.float32)
    cells = np.zeros(u.shape, np.int32)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            at = (row + i, column + j)
            distance = (i + jitter[0][at] - inside_u) ** 2 + (j + jitter[1][at] - inside_v) ** 2
            closer = distance < nearest
            nearest[closer] = distance[closer]
            cells[closer] = (at[0] * n_columns + at[1])[closer]
    return cells


def _render(
    labels: LabelArray, rng: np.random.Generator, *, has_rims: bool
) -> npt.NDArray[np.uint8]:
    """Draw two layers, bodies with rims and nuclei, and mix them into colours.

    Args:
        labels: what to draw.
        rng: source of every random choice.
        has_rims: always draw clear rims, without which touching cells could not be told apart.
    """
    shape = labels.shape
    inside = (labels > 0).astype(np.float32)
    depth = measure_depth(labels)
    rim = cv2.GaussianBlur(find_inner_boundary(labels).astype(np.float32), (0, 0), 1.0)
    halo = cv2.GaussianBlur(inside, (0, 0), rng.uniform(2, 8)) * (1 - inside)
    blob = (depth > rng.uniform(0.3, 0.6)) * inside
    spread = rng.uniform(0, 0.4)
    jitter = draw_values(labels, 1 - spread, 1 + spread, rng)
    grain = draw_texture(shape, rng.uniform(0.8, 3), rng)
    layers: list[Float32Array] = []
    for _ in range(2):
        body, rim_gain = rng.uniform(-1, 1), rng.uniform(-1, 1) * rng.choice((0, 2))
        if has_rims and not layers:
            rim_gain = rng.choice((-1, 1)) * rng.uniform(0.7, 2)
        if abs(body) < 0.25 and abs(rim_gain) < 0.6:
            body = np.copysign(rng.uniform(0.4, 1), body)
        layer = (
            body * jitter * inside * (1 - rng.uniform(0, 0.6) * (1 - np.sqrt(depth)))
            + rim_gain * rim
            + rng.choice((0, 1)) * rng.uniform(-1, 1) * halo
            + rng.choice((0, 0, 1)) * rng.uniform(-0.7, 0.7) * blob
            + rng.uniform(0, 0.2) * grain * (0.3 + inside)
            + rng.uniform(0, 0.15) * draw_texture(shape, rng.uniform(10, 60), rng)
        )
        layers.append(layer)
    image = _colour(np.stack(layers, axis=-1), rng)
    return _finish(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.2)), rng)


def _finish(image: Float32Array, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Add noise and stretch to ``(side, side, 3)`` uint8."""
    image = image + rng.uniform(0, 0.05) * rng.standard_normal(image.shape).astype(np.float32)
    low, high = image.min(), image.max()
    scaled: npt.NDArray[np.uint8] = np.clip(
        255 * (image - low) / max(high - low, 1e-6), 0, 255
    ).astype(np.uint8)
    return scaled


def _colour(layers: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Mix two layers into RGB: grey, light of two dyes on black, or two stains on white."""
    look = rng.choice(("grey", "dyes", "stains"))
    if look == "grey":
        return np.repeat(layers[..., :1], 3, axis=2)
    colours = np.array(
        [colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.3, 1), 1) for _ in range(2)], np.float32
    )
    layers = layers - layers.min(axis=(0, 1))
    if look == "dyes":
        mixed: Float32Array = layers @ colours
        return mixed
    stained: npt.NDArray[Any] = np.exp(-rng.uniform(0.5, 1.2) * (layers @ (1 - 0.85 * colours)))
    return stained.astype(np.float32)


def _draw_filaments(side: int, rng: np.random.Generator) -> tuple[Float32Array, LabelArray]:
    labels = _clean(generated_shapes.draw_filaments(side, rng))
    return generated_looks.render_phase(labels, rng), labels


def _draw_spread(side: int, rng: np.random.Generator) -> tuple[Float32Array, LabelArray]:
    labels = _clean(generated_shapes.draw_spread_cells(side, rng))
    return generated_looks.render_thin(labels, rng), labels


def _draw_membranes(side: int, rng: np.random.Generator) -> tuple[Float32Array, LabelArray]:
    pitch = float(np.exp(rng.uniform(*np.log((8, 130)))))
    y, x = np.mgrid[:side, :side].astype(np.float32)
    sway = [0.25 * pitch * draw_texture((side, side), 0.8 * pitch, rng) for _ in range(2)]
    cells = _voronoi((x + sway[0]) / pitch, (y + sway[1]) / pitch, rng) + 1
    if rng.random() < 0.4:  # an island
        cells[draw_texture((side, side), side / 4, rng) < rng.uniform(-1, 0)] = 0
    labels = _clean(cells)
    return generated_looks.render_membranes(labels, rng), labels


def _draw_glands(side: int, rng: np.random.Generator) -> tuple[Float32Array, LabelArray]:
    gland = generated_shapes.draw_glands(side, rng)
    labels = _clean(gland.labels)
    return generated_looks.render_tissue(labels, gland.lumina, rng), labels


def _draw_large_nuclei(side: int, rng: np.random.Generator) -> tuple[Float32Array, LabelArray]:
    radius = rng.uniform(25, 75)
    placement = Placement(
        (0.75 * radius, 1.2 * radius),
        (1, rng.uniform(1.2, 1.8)),
        int(radius**2 * rng.uniform(1, 4)),
        int(rng.integers(0, 2)),
    )
    labels = _clean(_bend(place_cells(side, side, placement, rng)[0], rng))
    return generated_looks.render_textured_nuclei(labels, rng), labels


def _draw_relief(side: int, rng: np.random.Generator) -> tuple[Float32Array, LabelArray]:
    labels = _clean(generated_shapes.draw_spread_cells(side, rng))
    return generated_looks.render_relief(labels, rng), labels


def _draw_haloes(side: int, rng: np.random.Generator) -> tuple[Float32Array, LabelArray]:
    radius = float(np.exp(rng.uniform(*np.log((6, 36)))))
    placement = Placement(
        (0.7 * radius, 1.2 * radius),
        (1, rng.uniform(1.2, 2.2)),
        max(1, int(radius**2 / rng.uniform(0.7, 4))),
        0,
    )
    labels = _clean(_bend(place_cells(side, side, placement, rng)[0], rng))
    return generated_looks.render_haloes(labels, rng), labels


_SPECIAL: Final = {
    "filaments": _draw_filaments,
    "spread": _draw_spread,
    "membranes": _draw_membranes,
    "glands": _draw_glands,
    "large_nuclei": _draw_large_nuclei,
    "relief": _draw_relief,
    "haloes": _draw_haloes,
}
