"""A generated slide of any size, and a function that stands for a network which knows it.

``SlideScene`` is rendered by rows, and its pixels encode the exact flow and cell, which
``decode_scene`` reads: with that in place of the network, everything around the network can be
checked against known cells at full scale. Tests and benchmarks share this module.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mediar_infer.arrays import CELLPROB, FLOW_SCALE, FLOW_X, FLOW_Y, Float32Array, LabelArray

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
            raise ValueError(f"pitch {self.pitch}; expected {_PITCHES[0]}…{_PITCHES[-1]}")
        if self.n_cells < 1:
            raise ValueError(
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
