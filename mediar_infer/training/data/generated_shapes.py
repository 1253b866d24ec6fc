"""Layouts of generated cells that ellipses cannot stand for: filaments, spread cells, glands.

Every function draws ``(side, side)`` int32 labels, 0 = background, from a generator.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from mediar_infer.arrays import LabelArray
from mediar_infer.demo.scenes import Placement, draw_texture, place_cells

MIN_AREA: Final = 24
"""Smallest area of a generated cell in pixels."""
_N_ANGLES = 72


def draw_filaments(side: int, rng: np.random.Generator) -> LabelArray:
    """Draw rods, curved rods and filaments: colonies side by side, or scattered.

    Args:
        side: height and width in pixels.
        rng: source of every random choice.
    """
    labels = np.zeros((side, side), np.int32)
    width = float(np.exp(rng.uniform(*np.log((4, 16)))))
    lengths = rng.choice(((1.5, 4), (3, 8), (5, 30)), p=(0.3, 0.4, 0.3))
    bend = rng.choice((0.02, 0.12, 0.3))
    is_colony = rng.random() < 0.6
    order = draw_texture((side, side), side / 5, rng)  # neighbours point the same way
    area = width**2 * lengths.mean()
    n_tries = int(min(900, side**2 / area * (8 if is_colony else rng.uniform(0.2, 1))))
    middle, spread = rng.uniform(0.2, 0.8, 2) * side, side * rng.uniform(0.1, 0.4)
    n_cells = 0
    for _ in range(n_tries):
        start = rng.normal(middle, spread) if is_colony else rng.uniform(0, side, 2)
        if not (0 <= start[0] < side and 0 <= start[1] < side):
            continue
        along = 2 * order[int(start[0]), int(start[1])] + rng.normal(0, 0.25)
        angle = along if is_colony else rng.uniform(0, 2 * np.pi)
        length = width * rng.uniform(*lengths)
        path = _walk(start, angle, length, bend * rng.normal(), bend, width, rng)
        drawn = np.zeros((side, side), np.uint8)
        if labels[int(start[0]), int(start[1])]:
            continue
        thickness = max(2, round(width * rng.uniform(0.85, 1.15)))
        cv2.polylines(drawn, [np.rint(path[:, ::-1]).astype(np.int32)], False, 1, thickness)
        n_cells += _place(labels, drawn > 0, n_cells + 1, least_free=0.85)
    return labels


def _walk(
    start: npt.NDArray[np.float64],
    angle: float,
    length: float,
    curvature: float,
    bend: float,
    width: float,
    rng: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """Walk along a line whose curvature changes slowly; ``(n, 2)`` places (y, x)."""
    step = max(1.5, width / 4)
    n_steps = max(2, int(length / step))
    turns = curvature * step / width + np.cumsum(rng.normal(0, 0.12 * bend, n_steps)) * step / width
    angles = angle + np.cumsum(turns)
    steps = step * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    path: npt.NDArray[np.float64] = start + np.cumsum(steps, axis=0) - steps.sum(axis=0) / 2
    return path


def draw_spread_cells(side: int, rng: np.random.Generator) -> LabelArray:
    """Draw flat cells of irregular outline with pointed or long protrusions, touching or not.

    Args:
        side: height and width in pixels.
        rng: source of every random choice.
    """
    labels = np.zeros((side, side), np.int32)
    radius = float(np.exp(rng.uniform(*np.log((9, 45)))))
    crowding = rng.uniform(0.3, 3)
    n_tries = int(min(400, crowding * side**2 / (np.pi * radius**2)))
    is_spindly, n_cells = rng.random() < 0.4, 0
    for _ in range(n_tries):
        outline = _draw_outline(radius * rng.uniform(0.6, 1.4), rng, is_spindly=is_spindly)
        centre = rng.uniform(-0.05, 1.05, 2) * side
        drawn = np.zeros((side, side), np.uint8)
        cv2.fillPoly(drawn, [np.rint(outline + centre).astype(np.int32)], 1)
        n_cells += _place(labels, drawn > 0, n_cells + 1, least_free=0.65)
    return labels


def _draw_outline(
    radius: float, rng: np.random.Generator, *, is_spindly: bool
) -> npt.NDArray[np.float64]:
    """Draw a closed outline around the origin: ``(n, 2)`` places (x, y)."""
    angles = np.linspace(0, 2 * np.pi, _N_ANGLES, endpoint=False)
    reach = np.ones(_N_ANGLES)
    for wave in range(2, 6):
        reach += rng.normal(0, 0.25 / wave) * np.cos(wave * angles + rng.uniform(0, 2 * np.pi))
    for _ in range(rng.integers(0, 5)):
        away = np.angle(np.exp(1j * (angles - rng.uniform(0, 2 * np.pi))))
        reach += rng.uniform(0.3, 1.5) * np.exp(-np.abs(away) / rng.uniform(0.08, 0.3))
    places = radius * np.maximum(reach, 0.35) * np.stack([np.cos(angles), np.sin(angles)])
    stretch = rng.uniform(1.5, 4) if is_spindly else rng.uniform(1, 1.8)
    turn = rng.uniform(0, np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    turned: npt.NDArray[np.float64] = (
        rotation @ (np.diag([stretch**0.5, stretch**-0.5]) @ places)
    ).T
    return turned


@dataclass(frozen=True, slots=True)
class Gland:
    """Nuclei of a tissue, and the holes in it."""

    labels: LabelArray
    """``(side, side)`` int32 nuclei."""
    lumina: npt.NDArray[np.bool_]
    """``(side, side)``: empty spaces, which are no cells."""


def draw_glands(side: int, rng: np.random.Generator) -> Gland:
    """Draw crowded nuclei around lumina and in the tissue between them.

    Args:
        side: height and width in pixels.
        rng: source of every random choice.
    """
    size = float(np.exp(rng.uniform(*np.log((5, 15)))))
    holes, _ = place_cells(
        side,
        side,
        Placement((2 * size, 5 * size), (1, 2), int(rng.uniform(60, 400) * size**2), 8),
        rng,
    )
    lumina = _bend_mask(holes > 0, size, rng)
    if rng.random() < 0.3:
        lumina[:] = False
    labels, _ = place_cells(
        side,
        side,
        Placement(
            (0.75 * size, 1.2 * size),
            (1, rng.uniform(1.2, 2.5)),
            int(size**2 * rng.uniform(0.8, 10)),
            0,
        ),
        rng,
    )
    near = cv2.dilate(lumina.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    labels[np.isin(labels, np.unique(labels[near]))] = 0
    return Gland(labels, lumina)


def _bend_mask(
    mask: npt.NDArray[np.bool_], scale: float, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]].astype(np.float32)
    moved = [grid + scale * draw_texture(mask.shape, 2 * scale, rng) for grid in (y, x)]
    bent: npt.NDArray[np.bool_] = (
        cv2.remap(mask.astype(np.uint8), moved[1], moved[0], cv2.INTER_NEAREST) > 0
    )
    return bent


def _place(
    labels: LabelArray, shape: npt.NDArray[np.bool_], cell: int, *, least_free: float
) -> bool:
    """Write a cell where no other is, if enough of it is free and in one piece."""
    free = shape & (labels == 0)
    n_free = int(free.sum())
    if n_free < max(MIN_AREA, least_free * int(shape.sum())):
        return False
    if cv2.connectedComponents(free.astype(np.uint8), connectivity=4)[0] > 2:
        return False
    labels[free] = cell
    return True
