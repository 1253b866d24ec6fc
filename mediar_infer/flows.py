"""Flow fields: labels → unit flow (pseudo-diffusion), flow → end points, flow error of found cells.

The method is that of Cellpose (Stringer et al., Nature Methods 18, 2021; BSD-3-Clause, notice in
LICENSE) as the released MEDIAR runs it. The code is written anew: diffusion works on the bounding
boxes of the cells, laid end to end in one flat strip, and tracking follows foreground pixels only.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mediar_infer.types import FLOW_SCALE, Float32Array

N_STEPS = 200
"""Euler steps of the released tracking; at unit speed a pixel reaches a centre 200 px away."""

# Three float64 strips of this many pixels stay in a core's second-level cache.
_STRIP_PIXELS = 1 << 14
_SETTLING_STEPS = 32


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


def track_flow(
    unit_flow: Tensor, points: Tensor, frame: Frame, *, n_steps: int = N_STEPS
) -> Tensor:
    """Follow the flow from integer start points by Euler steps.

    Convention:
        - (y, x) order; coordinates in pixels of the array, pixel centres at integers.
        - after every step positions are clamped to the image, not to the array.
        - sampling keeps the reference's half-pixel quirk: image coordinate ``x`` of an image ``W``
          wide is read at ``x·W/(W-1) - 1/2`` (scaled by size - 1, sampled with
          ``align_corners=False``), bilinear, zero outside the array.

    Args:
        unit_flow: ``(2, h, w)`` float32, pixels per step, zero in the background. Not modified.
        points: ``(n, 2)`` integer start points.
        frame: place of the array in the image.
        n_steps: number of steps.

    Returns:
        ``(n, 2)`` int64 end points, truncated to the pixel that they lie in.

    References:
        cellpose/dynamics.py (steps_interp), BSD-3-Clause.
    """
    size = torch.tensor(unit_flow.shape[1:], dtype=torch.float64)
    origin = torch.tensor([frame.top, frame.left], dtype=torch.float64)
    extent = torch.tensor([frame.image_height, frame.image_width], dtype=torch.float64)
    # An image one pixel wide has no size - 1 to scale by: nothing can move along that axis.
    stretch = extent / (extent - 1).clamp(min=1)
    # Array coordinate c is sampled at grid value c·scale + shift, so that the whole walk can run in
    # grid_sample's own units: one multiplication of the field instead of two per step.
    scale = 2 * stretch / size
    shift = (2 * (origin * stretch - 0.5 - origin) + 1) / size - 1
    low, high = -origin * scale + shift, (extent - 1 - origin) * scale + shift

    device = unit_flow.device
    scale_x, scale_y = scale.flip(0).tolist()
    shift_x, shift_y = shift.flip(0).tolist()
    # grid_sample wants x before y; x and y lie apart in memory, which it reads fastest.
    field = torch.stack([unit_flow[1] * scale_x, unit_flow[0] * scale_y])[None]
    # The CPU kernel runs one batch entry per thread.
    n_batches = torch.get_num_threads() if device.type == "cpu" else 1
    padded = F.pad(points.T.float(), (0, -len(points) % n_batches)).view(2, n_batches, 1, -1)
    walkers = torch.stack([padded[1] * scale_x + shift_x, padded[0] * scale_y + shift_y], dim=1)
    grid = walkers.permute(0, 2, 3, 1)
    field = field.expand(n_batches, -1, -1, -1)
    (low_y, low_x), (high_y, high_x) = low.tolist(), high.tolist()
    for _ in range(n_steps):
        walkers += F.grid_sample(field, grid, align_corners=False)
        walkers[:, 0].clamp_(low_x, high_x)
        walkers[:, 1].clamp_(low_y, high_y)
    at = walkers.transpose(0, 1).flatten(1).flip(0)
    high, scale, shift, first, last = (
        side[:, None].to(at) for side in (high, scale, shift, -origin, extent - 1 - origin)
    )
    # Scaled back, a walker on the border may miss it by a rounding error, and truncation would take
    # the pixel before it: outside the image, where the array is padded.
    end = ((at - shift) / scale).maximum(first).where(at < high, last)
    return end.T[: len(points)].long()


@dataclass(slots=True)
class CellPixels:
    """Pixels of all cells, sorted by cell and inside a cell in row-major order."""

    y: Tensor
    x: Tensor
    cell: Tensor
    """Index of the pixel's cell, 0 … n_cells - 1."""
    counts: Tensor
    """Pixels per cell."""
    top: Tensor
    left: Tensor
    height: Tensor
    """Bounding-box heights."""
    width: Tensor
    centre: Tensor
    """Position, in this list, of each cell's pixel nearest to its median (y, x)."""


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


def _strips(cells: CellPixels, n_iterations: Tensor) -> list[Tensor]:
    """Group cells of about one width into strips, those that diffuse longest first."""
    width_class = (cells.width.double().log2() * 4).ceil().long()
    area = (cells.height + 1) * (cells.width + 1)
    key = width_class * (int(n_iterations.max()) + 1) + (n_iterations.max() - n_iterations)
    order = key.argsort(stable=True)
    bounds, filled, current = [0], 0, -1
    for i, (kind, size) in enumerate(
        zip(width_class[order].tolist(), area[order].tolist(), strict=True)
    ):
        if i > bounds[-1] and (kind != current or filled + size > _STRIP_PIXELS):
            bounds.append(i)
            filled = 0
        current, filled = kind, filled + size
    return [order[a:b] for a, b in zip(bounds, [*bounds[1:], len(order)], strict=True)]


def _diffuse_strip(
    inside: Tensor, sources: Tensor, stride: int, n_iterations: list[int], ends: list[int]
) -> Tensor:
    """Diffuse cells that lie one below the other in a strip of rows ``stride`` elements long.

    The strip is flat: one empty column and one empty row keep cells apart, so neighbours left and
    right are one element away, those above and below ``stride`` elements, and every pass of an
    iteration is one contiguous sum.

    Args:
        inside: flat float64, 1 inside cells, with ``stride + 1`` zeros before and after.
        sources: element of each cell that gains 1 in every iteration.
        stride: row length.
        n_iterations: per cell, not increasing: a cell that is done is left as it is.
        ends: element after the last row of each cell.

    Returns:
        The temperature, as long as ``inside``.
    """
    # The sum runs in the reference's order and is then divided: at the centre of a symmetric cell
    # the gradient is rounding noise, and only the same noise gives the same unit vector there.
    offsets = (
        -stride, stride, -1, 1, -stride - 1, 1 - stride, stride - 1, stride + 1
    )  # fmt: skip
    divisor = torch.where(inside > 0, 9.0, torch.inf)
    temperature, total = torch.zeros_like(inside), torch.zeros_like(inside)
    one = torch.ones(len(sources), dtype=inside.dtype, device=inside.device)
    start, active, stop = stride + 1, len(ends), 0
    for step in range(n_iterations[0]):
        while n_iterations[active - 1] <= step:
            active -= 1
        if stop != ends[active - 1]:
            stop = ends[active - 1]
            # Made once for all steps with the same cells: slicing costs as much as adding.
            body, new, nine = (t[start:stop] for t in (temperature, total, divisor))
            first, *others = (temperature[start + o : stop + o] for o in offsets)
            warmed, gain = sources[:active], one[:active]
        checked = body.clone() if step % _SETTLING_STEPS == 0 else None
        temperature.index_add_(0, warmed, gain)
        torch.add(body, first, out=new)
        for neighbour in others:
            new.add_(neighbour)
        torch.div(new, nine, out=body)
        # A small cell is in balance long before a giant one in the same image has spread.
        if checked is not None and torch.equal(body, checked):
            break
    return temperature


def diffuse_cells(cells: CellPixels, n_iterations: Tensor) -> Tensor:
    """Compute log(1 + temperature) of every pixel, float64, in the order of ``cells``."""
    first = cells.counts.cumsum(0) - cells.counts
    rows, columns = cells.y - cells.top[cells.cell], cells.x - cells.left[cells.cell]
    warmth = torch.empty(len(cells.y), dtype=torch.float64, device=cells.y.device)
    for strip in _strips(cells, n_iterations):
        stride = int(cells.width[strip].max()) + 1
        heights = cells.height[strip] + 1
        base = (heights.cumsum(0) - heights) * stride + stride + 1
        counts = cells.counts[strip]
        slot = torch.repeat_interleave(counts)
        within = torch.arange(len(slot), device=slot.device) - (counts.cumsum(0) - counts)[slot]
        pixels = first[strip][slot] + within
        position = base[slot] + rows[pixels] * stride + columns[pixels]
        ends = (base + cells.height[strip] * stride).tolist()
        inside = torch.zeros(ends[-1] + stride + 1, dtype=torch.float64, device=slot.device)
        inside[position] = 1.0
        centre = cells.centre[strip]
        sources = base + rows[centre] * stride + columns[centre]
        temperature = _diffuse_strip(inside, sources, stride, n_iterations[strip].tolist(), ends)
        warmth[pixels] = (1.0 + temperature[position]).log_()
    return warmth


def unit_gradient(warmth: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Central differences of ``warmth`` (H + 2, W + 2) at unpadded pixels, scaled to unit length.

    Neighbours are read whatever their label: touching cells see each other, as in the reference.

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


def _unit_flow_at_pixels(shape: torch.Size, cells: CellPixels) -> Tensor:
    extent = cells.height + cells.width + 2
    warmth = diffuse_cells(cells, (2 * extent.max()).expand(len(extent)))
    canvas = torch.zeros(shape[0] + 2, shape[1] + 2, dtype=torch.float64, device=warmth.device)
    canvas[cells.y + 1, cells.x + 1] = warmth
    return unit_gradient(canvas, cells.y, cells.x)


def compute_unit_flow(labels: npt.NDArray[np.integer]) -> Float32Array:
    """Compute the unit flow of labelled cells by pseudo-diffusion: the training target over five.

    Args:
        labels: ``(H, W)`` integers, 0 = background. Not modified.

    Returns:
        ``(2, H, W)`` float32, (dy, dx), unit length inside cells, zero outside.

    References:
        Stringer et al. 2021, Methods; cellpose/dynamics.py (masks_to_flows).
    """
    unit_flow = np.zeros((2, *labels.shape), dtype=np.float32)
    if not labels.any():
        return unit_flow
    tensor = torch.from_numpy(labels.astype(np.int64))
    cells = gather_cells(tensor)
    at_pixels = _unit_flow_at_pixels(tensor.shape, cells)
    unit_flow[:, cells.y.numpy(), cells.x.numpy()] = at_pixels.numpy()
    return unit_flow


def compute_flow_errors(labels: Tensor, flow: Tensor) -> Tensor:
    """Compute how far the predicted flow of each cell is from its ideal flow.

    Args:
        labels: ``(H, W)`` integers, ids 1 … n without gaps.
        flow: ``(2, H, W)`` float32, network scale (five times the unit flow), same device.

    Returns:
        ``(n,)`` float64: mean over the cell's pixels of the squared difference, y and x summed.
    """
    if not bool(labels.any()):
        return torch.zeros(0, dtype=torch.float64, device=labels.device)
    cells = gather_cells(labels)
    ideal = _unit_flow_at_pixels(labels.shape, cells)
    difference = flow[:, cells.y, cells.x] / FLOW_SCALE - ideal
    squared = difference.square_().sum(0)
    return torch.bincount(cells.cell, weights=squared) / cells.counts
