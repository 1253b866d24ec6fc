"""Generated scenes with known labels, for the demo, the tests and the benchmarks.

``make_scene`` draws small microscopy-like images. ``SlideScene`` is a slide of any size, rendered
by rows, whose pixels tell ``decode_scene`` the exact flow and cell: with that in place of the
network, everything around the network can be checked against known cells at full scale.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mediar_infer.errors import UsageError
from mediar_infer.labels.overlay import find_inner_boundary
from mediar_infer.arrays import CELLPROB, FLOW_SCALE, FLOW_X, FLOW_Y, Float32Array, LabelArray

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

_MARGIN = 4
_PITCHES = range(24, 55)
_BACKGROUND = (128, 128, 0)
_LOWEST, _LEVEL_STEP = 8, 8
_HIGHEST, _COLOUR_STEP, _N_COLOURS = 255, 28, 4
_VALUE_SPAN = _HIGHEST - _LOWEST
_LOGIT = 10.0


@dataclass(frozen=True, slots=True)
class SlideScene:
    """A huge RGB slide of ellipses on a lattice; nothing of it is held in memory.

    Every square of the lattice holds one cell, its centre on a corner between four pixels, so that
    each of its rows and columns has as many pixels before the centre as behind it (but where a
    touching cell is cut at its square). A pixel of a cell at (n + ½, m + ½) from the centre, in
    either direction, is (8 + 8n, 8 + 8m, B) with B = 255, 227, 199 or 171 so that neighbouring
    cells differ; the background is (128, 128, 0). On which side of the centre a pixel lies is not
    in its colour but in its neighbours', so that the slide may be flipped like any image.

    The encoding survives normalisation: the smallest non-zero value is 8 (the central pixels) and
    the 99.5th percentile is 255 (more than 0.5 % of the non-zero values). So value v becomes
    u = trunc((v - 8) · 255/247) / 255, and 8 + 247·u lies within 1 below v: far less than the steps
    of 8 and 28.
    """

    height: int
    """Rows in pixels."""
    width: int
    """Columns in pixels."""
    pitch: int = 48
    """Side of the lattice's squares in pixels, 24…54: 12,000² at 48 holds 62,001 cells."""
    seed: int = 0
    """Other seeds move and reshape the cells."""
    touching: bool = False
    """Larger cells that share straight borders with their neighbours, instead of separate ones."""

    def __post_init__(self) -> None:
        if self.pitch not in _PITCHES:
            raise UsageError(f"pitch {self.pitch}; expected {_PITCHES[0]}…{_PITCHES[-1]}")
        if self.n_cells < 1:
            raise UsageError(
                f"a slide of {self.height}×{self.width} has no room for a cell; expected at least "
                f"{self.pitch + 2 * _MARGIN} pixels a side"
            )

    @property
    def lattice(self) -> tuple[int, int]:
        """Rows and columns of cells; no cell comes nearer than 4 pixels to the slide's edge."""
        rows, columns = ((n - 2 * _MARGIN) // self.pitch for n in (self.height, self.width))
        return max(rows, 0), max(columns, 0)

    @property
    def n_cells(self) -> int:
        """Number of cells; their ids are 1…n in lattice order."""
        rows, columns = self.lattice
        return rows * columns

    def render_rows(self, top: int, bottom: int) -> npt.NDArray[np.uint8]:
        """Render ``(bottom - top, width, 3)`` uint8 RGB rows of the slide."""
        image = np.full((bottom - top, self.width, 3), _BACKGROUND, np.uint8)
        for strip in self._strips(top, bottom):
            pixels = image[strip.rows, strip.columns]
            pixels[strip.inside] = strip.colours()
        return image

    def label_rows(self, top: int, bottom: int) -> LabelArray:
        """Render ``(bottom - top, width)`` int32 rows of the true labels."""
        labels = np.zeros((bottom - top, self.width), np.int32)
        for strip in self._strips(top, bottom):
            first = strip.lattice_row * self.lattice[1] + 1
            ids = first + np.arange(self.lattice[1]).repeat(self.pitch)
            labels[strip.rows, strip.columns] = np.where(strip.inside, ids, 0)
        return labels

    def _strips(self, top: int, bottom: int) -> Iterator["_Strip"]:
        n_rows, n_columns = self.lattice
        x = np.arange(n_columns * self.pitch) + _MARGIN
        for row in range(n_rows):
            first = _MARGIN + row * self.pitch
            begin, end = max(top, first), min(bottom, first + self.pitch)
            if begin < end:
                radii, corners = self._draw_row(row)
                y = np.arange(begin, end)[:, None]
                # Offsets from the centre are halves of odd numbers: exact as float32.
                offset_y = (y - first - 0.5 - corners[0].repeat(self.pitch)).astype(np.float32)
                square = _MARGIN + np.arange(n_columns) * self.pitch + corners[1]
                offset_x = (x - 0.5 - square.repeat(self.pitch)).astype(np.float32)
                radius_y, radius_x = radii.astype(np.float32).repeat(self.pitch, axis=1)
                yield _Strip(
                    lattice_row=row,
                    rows=slice(begin - top, end - top),
                    columns=slice(x[0], x[-1] + 1),
                    offset_y=offset_y,
                    offset_x=np.broadcast_to(offset_x, offset_y.shape),
                    inside=(offset_y / radius_y) ** 2 + (offset_x / radius_x) ** 2 <= 1,
                    colour=(row % 2 * 2 + np.arange(n_columns) % 2).repeat(self.pitch),
                )

    def _draw_row(self, row: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Draw radii (2, n) and the pixel before the centre (2, n) within each square."""
        rng = np.random.default_rng((self.seed, row))
        shares = (0.50, 0.56) if self.touching else (0.28, 0.36)
        radii = self.pitch * rng.uniform(*shares, (2, self.lattice[1]))
        # One free pixel inside the square; cells that touch stay near its middle instead.
        nearest = 0.45 * self.pitch if self.touching else np.ceil(radii + 0.5)
        low = np.broadcast_to(nearest, radii.shape).astype(np.int64)
        return radii, rng.integers(low, self.pitch - 2 - low, endpoint=True)


@dataclass(frozen=True, slots=True)
class _Strip:
    """The part of one lattice row that lies in the wanted rows; arrays are (rows, columns)."""

    lattice_row: int
    rows: slice
    columns: slice
    offset_y: Float32Array
    offset_x: Float32Array
    inside: npt.NDArray[np.bool_]
    colour: npt.NDArray[np.int64]

    def colours(self) -> npt.NDArray[np.uint8]:
        """Encode the pixels inside, ``(n, 3)``."""
        colour = np.broadcast_to(self.colour, self.inside.shape)[self.inside]
        levels = (
            _LOWEST + _LEVEL_STEP * (np.abs(offset[self.inside]) - 0.5)
            for offset in (self.offset_y, self.offset_x)
        )
        return np.stack([*levels, _HIGHEST - _COLOUR_STEP * colour], axis=1).astype(np.uint8)


def decode_scene(inputs: Tensor) -> Tensor:
    """Read flow and cells off a normalised ``SlideScene``, as a perfect network would.

    The result turns with the slide: a flipped slide gives the flipped flow with its sign changed.

    Args:
        inputs: ``(N, 3, h, w)`` in [0, 1] on any device, h and w at least 2; any crop of the slide,
            normalised with the constants of the whole.

    Returns:
        ``(N, 3, h, w)`` float32: 5 × the unit flow toward the centre, 0 in the background, and
        logits of ±10.
    """
    values = inputs.float() * _VALUE_SPAN
    # Truncation took up to 1 off the value: half of it back before rounding.
    steps = ((values[:, :2] + 0.5) / _LEVEL_STEP).round_()
    colour = ((_VALUE_SPAN - 0.5 - values[:, 2]) / _COLOUR_STEP).round_()
    inside = (colour < _N_COLOURS).float()
    offset_y = (steps[:, 0] + 0.5) * _compute_sides(steps[:, 0], colour, 1)
    offset_x = (steps[:, 1] + 0.5) * _compute_sides(steps[:, 1], colour, 2)
    # Never zero: the centre lies between pixels.
    scale = torch.hypot(offset_y, offset_x).reciprocal_() * (-FLOW_SCALE) * inside
    logits = torch.empty_like(values)
    torch.mul(offset_y, scale, out=logits[:, FLOW_Y])
    torch.mul(offset_x, scale, out=logits[:, FLOW_X])
    logits[:, CELLPROB] = (2 * inside - 1) * _LOGIT
    return logits


def _compute_sides(steps: Tensor, colour: Tensor, dim: int) -> Tensor:
    """Tell on which side of its cell's centre a pixel lies along one axis.

    The distance grows away from the centre, and the last pixel of a cell lies behind it.

    Returns:
        ``(N, h, w)``: 1 behind the centre, -1 before it.
    """
    size = steps.shape[dim]
    here, after = steps.narrow(dim, 0, size - 1), steps.narrow(dim, 1, size - 1)
    same = colour.narrow(dim, 0, size - 1) == colour.narrow(dim, 1, size - 1)
    behind = ~same | (after > here)
    # The last pixel of the window has no neighbour behind it: look at the one before.
    at_edge = (same & (after >= here)).narrow(dim, size - 2, 1)
    return torch.cat([behind, at_edge], dim=dim).float().mul_(2).sub_(1)
