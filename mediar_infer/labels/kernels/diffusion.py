"""Pseudo-diffusion on torch tensors: the operations of ``label_kernels.c``, in its order.

Cells lie one below the other in flat strips, which iterate as one array; after every round of
iterations the cells that are done leave. Sums over a cell run in its row-major order, so a cell
gets the same temperatures as from the compiled loops.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mediar_infer.labels.kernels import Float64Array

# Three float64 strips of this many pixels stay in a core's second-level cache.
_CPU_STRIP_PIXELS = 1 << 14
# Few, long strips suit a GPU: every step launches a handful of kernels per strip.
_GPU_STRIP_PIXELS = 1 << 24
# These three as in label_kernels.c, which says why.
_ROUND = 64
_IN_BALANCE = 1e-13
_CERTAIN = 30.0


@dataclass(slots=True)
class CellPixels:
    """Pixels of all cells, sorted by cell and inside a cell in row-major order."""

    y: Tensor
    """``(n_pixels,)`` int64 rows."""
    x: Tensor
    """``(n_pixels,)`` int64 columns."""
    cell: Tensor
    """``(n_pixels,)`` index of the pixel's cell, 0 … n_cells - 1."""
    counts: Tensor
    """``(n_cells,)`` pixels per cell."""
    top: Tensor
    """``(n_cells,)`` first row of each cell."""
    left: Tensor
    """``(n_cells,)`` first column of each cell."""
    height: Tensor
    """``(n_cells,)`` heights of the bounding boxes."""
    width: Tensor
    """``(n_cells,)`` widths of the bounding boxes."""
    centre: Tensor
    """``(n_cells,)`` position, in the list of pixels, of each cell's pixel nearest to its median
    (y, x)."""


def _segment_min(values: Tensor, segment: Tensor, n_segments: int) -> Tensor:
    filled = torch.zeros(n_segments, dtype=values.dtype, device=values.device)
    return filled.scatter_reduce(0, segment, values, "amin", include_self=False)


def gather_cells(labels: Tensor) -> CellPixels:
    """Sort the pixels of all cells of ``(H, W)`` integer labels by cell; at least one cell."""
    width = labels.shape[1]
    flat = labels.flatten()
    where = flat.nonzero().flatten()
    ids, order = flat[where].long().sort(stable=True)
    where = where[order]
    _, cell, counts = torch.unique_consecutive(ids, return_inverse=True, return_counts=True)
    n_cells = len(counts)
    y, x = where // width, where % width
    first = counts.cumsum(0) - counts
    last = first + counts - 1
    x_sorted = (cell * width + x).sort().values - cell * width
    # Rows are sorted already, so both medians are read off the middle of each cell's pixels.
    low, high = first + (counts - 1) // 2, first + counts // 2
    y_median = (y[low] + y[high]) / 2.0
    x_median = (x_sorted[low] + x_sorted[high]) / 2.0
    distance = (y - y_median[cell]).square() + (x - x_median[cell]).square()
    nearest = distance == _segment_min(distance, cell, n_cells)[cell]
    candidates = nearest.nonzero().flatten()
    return CellPixels(
        y=y,
        x=x,
        cell=cell,
        counts=counts,
        top=y[first],
        left=x_sorted[first],
        height=y[last] - y[first] + 1,
        width=x_sorted[last] - x_sorted[first] + 1,
        centre=_segment_min(candidates, cell[candidates], n_cells),
    )


def _strips(cells: CellPixels, active: Tensor, n_iterations: Tensor) -> list[Tensor]:
    """Group active cells of about one width into strips, those that iterate longest first."""
    is_cpu = cells.y.device.type == "cpu"
    heights, widths = cells.height[active], cells.width[active]
    width_class = (widths.double().log2() * 4).ceil().long()
    key = width_class * (int(n_iterations.max()) + 1) + (n_iterations.max() - n_iterations)
    order = key.argsort(stable=True)
    area = ((heights + 1) * (widths + 1))[order]
    part = area.cumsum(0) // (_CPU_STRIP_PIXELS if is_cpu else _GPU_STRIP_PIXELS)
    _, counts = torch.unique_consecutive(
        torch.stack([width_class[order], part]), dim=1, return_counts=True
    )
    return list(torch.split(order, counts.tolist()))


def _iterate(
    temperature: Tensor,
    divisor: Tensor,
    sources: Tensor,
    stride: int,
    n_iterations: list[int],
    ends: list[int],
) -> None:
    """Diffuse cells that lie one below the other in a strip of rows ``stride`` elements long.

    The strip is flat: one empty column and one empty row separate cells, so neighbours to the left
    and right are one element away, those above and below ``stride`` elements, and every pass of an
    iteration is one contiguous sum.

    Args:
        temperature: flat float64, with ``stride + 1`` zeros before and after. Modified.
        divisor: 9 inside cells, infinite elsewhere.
        sources: element of each cell that gains 1 in every iteration.
        stride: row length.
        n_iterations: per cell, not increasing; a finished cell no longer changes.
        ends: element after the last row of each cell.
    """
    # The sum runs in the reference's order and is then divided: at the centre of a symmetric cell
    # the gradient is rounding noise, and only the same noise gives the same unit vector there.
    offsets = (
        -stride, stride, -1, 1, -stride - 1, 1 - stride, stride - 1, stride + 1
    )  # fmt: skip
    total = torch.zeros_like(temperature)
    one = torch.ones(len(sources), dtype=temperature.dtype, device=temperature.device)
    start, active, stop = stride + 1, len(ends), 0
    for step in range(n_iterations[0]):
        while n_iterations[active - 1] <= step:
            active -= 1
        if stop != ends[active - 1]:
            stop = ends[active - 1]
            # Sliced once for all steps with the same cells: slicing costs as much as adding.
            body, new, nine = (t[start:stop] for t in (temperature, total, divisor))
            first, *others = (temperature[start + o : stop + o] for o in offsets)
            warmed, gain = sources[:active], one[:active]
        temperature.index_add_(0, warmed, gain)
        torch.add(body, first, out=new)
        for neighbour in others:
            new.add_(neighbour)
        torch.div(new, nine, out=body)


def diffuse_cells(cells: CellPixels, n_iterations: Tensor) -> Float64Array:
    """Compute log(1 + temperature) of every pixel, in the order of ``cells``.

    Args:
        cells: pixels of the cells.
        n_iterations: ``(n_cells,)`` integers.

    Returns:
        ``(n_pixels,)`` float64.
    """
    device = cells.y.device
    temperature = torch.zeros(len(cells.y), dtype=torch.float64, device=device)
    balance = _Balance(cells, n_iterations.cpu().numpy())
    active = torch.arange(len(cells.counts), device=device)
    n_done = 0
    while len(active):
        n_steps = (n_iterations[active] - n_done).clamp(max=_ROUND)
        for strip in _strips(cells, active, n_steps):
            _diffuse_strip(cells, active[strip], n_steps[strip], temperature)
        n_done += _ROUND
        active = active[n_iterations[active] > n_done]
        if len(active):
            active = balance.find_active(active, temperature, n_done)
    if device.type != "cpu":
        return np.asarray((1.0 + temperature).log_().cpu())
    found = 1.0 + temperature.numpy()
    # The C library's logarithm, as in the compiled loops; numpy's and torch's may differ in a bit.
    return np.fromiter(map(math.log, found.tolist()), np.float64, len(found))


def _diffuse_strip(cells: CellPixels, chosen: Tensor, n_steps: Tensor, temperature: Tensor) -> None:
    """Iterate some cells; ``temperature`` is that of all pixels and is modified."""
    device = temperature.device
    stride = int(cells.width[chosen].max()) + 1
    heights = cells.height[chosen] + 1
    base = (heights.cumsum(0) - heights) * stride + stride + 1
    counts = cells.counts[chosen]
    first = (cells.counts.cumsum(0) - cells.counts)[chosen]
    slot = torch.repeat_interleave(counts)
    within = torch.arange(len(slot), device=device) - (counts.cumsum(0) - counts)[slot]
    pixels = first[slot] + within
    rows = cells.y - cells.top[cells.cell]
    columns = cells.x - cells.left[cells.cell]
    position = base[slot] + rows[pixels] * stride + columns[pixels]
    ends = (base + cells.height[chosen] * stride).tolist()
    centre = cells.centre[chosen]
    sources = base + rows[centre] * stride + columns[centre]
    strip = torch.zeros(ends[-1] + stride + 1, dtype=torch.float64, device=device)
    divisor = torch.full_like(strip, torch.inf)
    divisor[position] = 9.0
    strip[position] = temperature[pixels]
    _iterate(strip, divisor, sources, stride, n_steps.tolist(), ends)
    temperature[pixels] = strip[position]


class _Balance:
    """Finds, after every round, cells in balance, and extrapolates those that approach it."""

    def __init__(self, cells: CellPixels, n_iterations: npt.NDArray[np.int64]) -> None:
        self._cell = cells.cell.cpu().numpy()
        self._n_iterations = n_iterations
        self._before: npt.NDArray[Any] = np.zeros(len(self._cell))
        self._gained_before: npt.NDArray[Any] = np.ones(len(n_iterations))

    def find_active(self, active: Tensor, temperature: Tensor, n_done: int) -> Tensor:
        """Those of the active cells that are not in balance; ``temperature`` may be modified."""
        now, cell, n_cells = temperature.cpu().numpy(), self._cell, len(self._n_iterations)
        change = now - self._before
        # Sums run in the order of the pixels, one after the other.
        gained = np.bincount(cell, np.abs(change), n_cells)
        total = np.bincount(cell, now, n_cells)
        is_active = np.zeros(n_cells, np.bool_)
        is_active[active.cpu().numpy()] = True
        is_active &= ~(gained <= _IN_BALANCE * total)
        if n_done > _ROUND:
            more = np.zeros(n_cells, np.float64)
            for i in np.flatnonzero(is_active & (gained < self._gained_before)):
                factor = gained[i] / self._gained_before[i]
                rounds = float(self._n_iterations[i] - n_done) / _ROUND
                if factor < 1.0 and rounds * -math.log(factor) > _CERTAIN:
                    more[i] = factor / (1.0 - factor)
            if more.any():
                is_extrapolated = (more > 0)[cell]
                now = np.where(is_extrapolated, now + more[cell] * change, now)
                temperature.copy_(torch.from_numpy(now))
        self._gained_before, self._before = gained, now.copy()
        return torch.from_numpy(np.flatnonzero(is_active)).to(temperature.device)
