"""The loops of the label stage on torch tensors: for GPUs, and for a CPU without a C compiler."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mediar_infer.arrays import FLOW_SCALE, FLOW_Y, BoolArray, Float32Array, LabelArray
from mediar_infer.labels.kernels import (
    BASIN_HITS,
    BASIN_STEPS,
    CELL,
    MIN_SPEED,
    N_STEPS,
    SEED_HITS,
    Float64Array,
    Frame,
    Int32Array,
    Region,
)
from mediar_infer.labels.kernels.diffusion import diffuse_cells, gather_cells
from mediar_infer.labels.kernels.tracking import track_points, track_points_by_sampling


class TorchKernels:
    """Implements :class:`mediar_infer.labels.kernels.LabelKernels`.

    Args:
        device: where tracking, seeds and diffusion run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def track(
        self,
        flow: Float32Array,
        foreground: BoolArray,
        frame: Frame,
        region: Region | None = None,
        n_steps: int = N_STEPS,
    ) -> tuple[Int32Array, int]:
        """See :meth:`LabelKernels.track`."""
        height, width = foreground.shape
        region = region or Region(0, 0, height, width)
        rows, columns = slice(region.top, region.bottom), slice(region.left, region.right)
        inside = _to_tensor(foreground).to(self._device)
        field = _to_tensor(flow).to(self._device)
        fast = field[FLOW_Y, rows, columns].abs() > MIN_SPEED * FLOW_SCALE
        points = (inside[rows, columns] & fast).nonzero()
        points += torch.tensor([region.top, region.left], device=self._device)
        unit_flow = torch.where(inside, field / FLOW_SCALE, 0.0)
        track = track_points if self._device.type == "cpu" else track_points_by_sampling
        end = track(unit_flow, points, frame, n_steps=n_steps).int()
        ends = np.arange(height * width, dtype=np.int32).reshape(height, width)
        start_y, start_x = points.cpu().numpy().T
        ends[start_y, start_x] = (end[:, 0] * width + end[:, 1]).cpu().numpy()
        return np.ascontiguousarray(ends[rows, columns]), len(points)

    def add_hits(self, ends: Int32Array, hits: Int32Array) -> None:
        """See :meth:`LabelKernels.add_hits`."""
        counts = np.bincount(ends.ravel(), minlength=hits.size)
        hits += counts.reshape(hits.shape).astype(np.int32)

    def find_basins(
        self, hits: Int32Array, top: int, bottom: int, first_id: int
    ) -> tuple[Int32Array, LabelArray]:
        """See :meth:`LabelKernels.find_basins`."""
        counts = _to_tensor(hits).to(self._device)
        seeds = find_seeds(counts)
        seeds = seeds[(seeds[:, 0] >= top) & (seeds[:, 0] < bottom)]
        basins = grow_basins(counts, seeds)
        basins += (basins > 0) * (first_id - 1)
        return seeds.int().cpu().numpy(), basins.int().cpu().numpy()

    def measure_cells(self, labels: LabelArray, n_labels: int) -> npt.NDArray[np.void]:
        """See :meth:`LabelKernels.measure_cells`."""
        y, x = np.nonzero(labels)
        index = labels[y, x] - 1
        cells = np.zeros(n_labels, CELL)
        cells["size"] = np.bincount(index, minlength=n_labels)
        for name, value in (("top", y), ("left", x)):
            cells[name] = np.iinfo(np.int32).max
            np.minimum.at(cells[name], index, value.astype(np.int32))
        for name, value in (("bottom", y), ("right", x)):
            np.maximum.at(cells[name], index, value.astype(np.int32) + 1)
        return cells

    def diffuse(self, labels: LabelArray, n_labels: int, *, same_iterations: bool) -> Float64Array:
        """See :meth:`LabelKernels.diffuse`."""
        height, width = labels.shape
        canvas = np.zeros((height + 2, width + 2), np.float64)
        if n_labels and labels.any():
            cells = gather_cells(_to_tensor(labels).to(self._device))
            n_iterations = 2 * (cells.height + cells.width + 2)
            if same_iterations:
                n_iterations = n_iterations.max().expand(len(n_iterations))
            warmth = diffuse_cells(cells, n_iterations)
            canvas[cells.y.cpu().numpy() + 1, cells.x.cpu().numpy() + 1] = warmth
        return canvas

    def unit_flow(self, labels: LabelArray, warmth: Float64Array) -> Float32Array:
        """See :meth:`LabelKernels.unit_flow`."""
        unit_flow = np.zeros((2, *labels.shape), np.float32)
        y, x = np.nonzero(labels)
        unit_flow[:, y, x] = unit_gradient(*map(torch.from_numpy, (warmth, y, x))).numpy()
        return unit_flow

    def add_flow_errors(
        self,
        labels: LabelArray,
        warmth: Float64Array,
        flow: Float32Array,
        errors: Float64Array,
    ) -> None:
        """See :meth:`LabelKernels.add_flow_errors`."""
        y, x = np.nonzero(labels)
        ideal = unit_gradient(*map(torch.from_numpy, (warmth, y, x))).numpy()
        squared = np.square(flow[:, y, x] / FLOW_SCALE - ideal).sum(axis=0)
        errors += np.bincount(labels[y, x], weights=squared, minlength=len(errors))


def _to_tensor(array: npt.NDArray[Any]) -> Tensor:
    # Torch warns of memory that must not be written to, though it is only read here.
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def find_seeds(hits: Tensor) -> Tensor:
    """Local maxima (5x5) of the end-point histogram with more than ``SEED_HITS`` hits.

    Args:
        hits: ``(H, W)`` int32 end points per pixel.

    Returns:
        ``(n, 2)`` int64 (y, x), row-major.
    """
    highest = F.max_pool2d(hits[None].float(), 5, stride=1, padding=2)[0]
    return ((hits == highest) & (hits > SEED_HITS)).nonzero()


def grow_basins(hits: Tensor, seeds: Tensor) -> Tensor:
    """Grow each seed ``BASIN_STEPS`` times over neighbours with more than ``BASIN_HITS`` hits.

    Args:
        hits: ``(H, W)`` int32.
        seeds: ``(n, 2)``, row-major.

    Returns:
        ``(H, W)`` int32: 1 + index of the seed whose basin a pixel belongs to (the last one where
        basins overlap), 0 where there is none.
    """
    height, width = hits.shape
    basins = torch.zeros(height, width, dtype=torch.int32, device=hits.device)
    reach = torch.arange(-BASIN_STEPS, BASIN_STEPS + 1, device=hits.device)
    # Seeds go in slices: 121 positions each would be large for a million of them.
    for first in range(0, len(seeds), 1 << 14):
        part = seeds[first : first + (1 << 14)]
        y = (part[:, 0, None] + reach)[:, :, None].expand(-1, -1, len(reach))
        x = (part[:, 1, None] + reach)[:, None, :].expand(-1, len(reach), -1)
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        position = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
        passable = inside & (hits.flatten()[position] > BASIN_HITS)
        grown = torch.zeros_like(passable)
        grown[:, BASIN_STEPS, BASIN_STEPS] = True
        for _ in range(BASIN_STEPS):
            grown = (F.max_pool2d(grown.float(), 3, stride=1, padding=1) > 0) & passable
        which, *_ = grown.nonzero(as_tuple=True)
        # Seeds are in row-major order, so the highest index is the one that comes last.
        basins.view(-1).scatter_reduce_(
            0, position[grown], (which + first + 1).int(), "amax", include_self=True
        )
    return basins


def unit_gradient(warmth: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Central differences of ``warmth`` (H + 2, W + 2) at unpadded pixels, scaled to unit length.

    Neighbours count whatever their label is: touching cells influence each other, as in the
    reference.

    Returns:
        ``(2, n)`` float64, (dy, dx).
    """
    gradient = torch.stack(
        [
            warmth[y + 2, x + 1] - warmth[y, x + 1],
            warmth[y + 1, x + 2] - warmth[y + 1, x],
        ]
    )
    return gradient / (1e-20 + gradient.square().sum(0).sqrt_())
