"""The expensive loops of the label stage behind one interface: C, or torch without a compiler."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mediar_infer.arrays import BoolArray, Float32Array, LabelArray

N_STEPS = 200
"""Euler steps of the released tracking; at unit speed a pixel reaches a centre 200 px away."""
SEED_HITS = 10
"""A seed has more end points than this (``h > 10`` in Cellpose), so at least 11. Label files do not
record it: run without ``--resume`` after a change."""
BASIN_HITS = 2
"""A basin grows over pixels with more end points than this."""
BASIN_STEPS = 5
"""Number of times that a basin grows by a 3x3 neighbourhood; the C loops have the same constant."""
MIN_SPEED = 1e-3
"""Pixels whose vertical unit flow is not larger stay where they are (as released)."""

CELL = np.dtype(
    [("top", "i4"), ("left", "i4"), ("bottom", "i4"), ("right", "i4"), ("size", "i8")], align=True
)
"""Bounding box of a cell, bottom and right not included, and its number of pixels."""

Int32Array = npt.NDArray[np.int32]
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Frame:
    """Where an array of ``(height, width)`` pixels lies in the whole image."""

    top: int
    """Image row of the array's first row; may be negative where the array is padded."""
    left: int
    """Image column of the array's first column."""
    image_height: int
    """Rows of the whole image."""
    image_width: int
    """Columns of the whole image."""


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of pixels of an array."""

    top: int
    """First row."""
    left: int
    """First column."""
    bottom: int
    """Row after the last one."""
    right: int
    """Column after the last one."""


class LabelKernels(Protocol):
    """The loops over pixels in which the label stage spends its time.

    Convention:
        (y, x) order; row-major numpy arrays in host memory; labels are int32, 0 = background.
    """

    def track(
        self,
        flow: Float32Array,
        foreground: BoolArray,
        frame: Frame,
        region: Region | None = None,
        n_steps: int = N_STEPS,
    ) -> tuple[Int32Array, int]:
        """Follow the flow by Euler steps from foreground pixels with a vertical unit flow.

        Convention:
            - coordinates in pixels of the array, pixel centres at integers.
            - after every step positions are clamped to the image, not to the array.
            - the half-pixel quirk of the reference is kept: image coordinate ``x`` of an image
              ``W`` wide is read at ``x·W/(W-1) - 1/2`` (scaled by size - 1, sampled with
              ``align_corners=False``), bilinear, zero outside the array.

        Args:
            flow: ``(2, h, w)`` network scale (five pixels per step), (dy, dx). Not modified.
            foreground: ``(h, w)``; elsewhere the flow counts as zero.
            frame: position of the array in the image.
            region: pixels to follow; by default all.
            n_steps: number of steps.

        Returns:
            Flat array positions, int32 in the shape of the region, of where its pixels end (a pixel
            that is not followed ends where it is), and how many were followed.

        References:
            cellpose/dynamics.py (steps_interp), BSD-3-Clause.
        """
        ...

    def add_hits(self, ends: Int32Array, hits: Int32Array) -> None:
        """Add 1 to ``hits``, C-contiguous, at every flat position in ``ends``."""
        ...

    def find_basins(
        self, hits: Int32Array, top: int, bottom: int, first_id: int
    ) -> tuple[Int32Array, LabelArray]:
        """Find seeds, the local maxima (5x5) of the end-point histogram, and grow basins from them.

        Seeds have more than ``SEED_HITS`` hits; each grows ``BASIN_STEPS`` times by its 3x3
        neighbourhood over pixels with more than ``BASIN_HITS`` hits.

        Args:
            hits: ``(H, W)`` end points per pixel.
            top: first row to search for seeds.
            bottom: row after the last one to search.
            first_id: id of the first seed; ids rise in row-major order.

        Returns:
            ``(n, 2)`` int32 seeds (y, x), and ``(H, W)`` int32 ids of the basins; where basins
            overlap, the last seed wins.
        """
        ...

    def measure_cells(self, labels: LabelArray, n_labels: int) -> npt.NDArray[np.void]:
        """Measure bounding box and size of every cell.

        Args:
            labels: ``(H, W)``, ids up to ``n_labels``.
            n_labels: largest id.

        Returns:
            ``(n_labels,)`` of dtype ``CELL``; of absent cells only the size, 0, is meaningful.
        """
        ...

    def diffuse(self, labels: LabelArray, n_labels: int, *, same_iterations: bool) -> Float64Array:
        """Compute log(1 + temperature) of all cells by pseudo-diffusion from their centres.

        Args:
            labels: ``(H, W)``, ids 1 … ``n_labels``; some may be absent.
            n_labels: largest id.
            same_iterations: iterate all cells as often as the largest one needs (as released), or
                each cell as often as it needs: 2 · (height + width + 2) of its box.

        Returns:
            ``(H + 2, W + 2)`` with a border of zeros, zero in the background.

        References:
            Stringer et al. 2021, Methods; cellpose/dynamics.py (masks_to_flows), BSD-3-Clause.
        """
        ...

    def unit_flow(self, labels: LabelArray, warmth: Float64Array) -> Float32Array:
        """Take central differences of ``warmth`` in the cells, scaled to unit length.

        Neighbours count whatever their label is: touching cells influence each other, as in the
        reference.

        Args:
            labels: ``(H, W)``.
            warmth: ``(H + 2, W + 2)``, as from :meth:`diffuse`.

        Returns:
            ``(2, H, W)`` float32, (dy, dx), zero in the background.
        """
        ...

    def add_flow_errors(
        self,
        labels: LabelArray,
        warmth: Float64Array,
        flow: Float32Array,
        errors: Float64Array,
    ) -> None:
        """Add the squared difference between predicted and ideal flow, y and x summed, per label.

        Args:
            labels: ``(H, W)``, ids below ``len(errors)``.
            warmth: ``(H + 2, W + 2)``, as from :meth:`diffuse`.
            flow: ``(2, H, W)`` network scale; rows contiguous.
            errors: indexed by id; modified.
        """
        ...
