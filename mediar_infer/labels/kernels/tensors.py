"""The label stage's loops on torch tensors: for GPUs, and for a CPU without the compiled library.

Diffusion works on the bounding boxes of the cells, laid end to end in one flat strip, and tracking
follows foreground pixels only.
"""

from dataclasses import dataclass

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

# Three float64 strips of this many pixels stay in a core's second-level cache.
_CPU_STRIP_PIXELS = 1 << 14
# A GPU wants few, long strips: every step is a handful of kernels per strip.
_GPU_STRIP_PIXELS = 1 << 24
_SETTLING_STEPS = 32


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
        inside = torch.from_numpy(foreground).to(self._device)
        field = torch.from_numpy(flow).to(self._device)
        fast = (field[FLOW_Y, rows, columns] / FLOW_SCALE).abs() > MIN_SPEED
        points = (inside[rows, columns] & fast).nonzero()
        points += torch.tensor([region.top, region.left], device=self._device)
        end = track_points(field * inside / FLOW_SCALE, points, frame, n_steps=n_steps).int()
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
        counts = torch.from_numpy(hits).to(self._device)
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
            cells = gather_cells(torch.from_numpy(labels).to(self._device))
            n_iterations = 2 * (cells.height + cells.width + 2)
            if same_iterations:
                n_iterations = n_iterations.max().expand(len(n_iterations))
            warmth = diffuse_cells(cells, n_iterations)
            canvas[cells.y.cpu().numpy() + 1, cells.x.cpu().numpy() + 1] = warmth.cpu().numpy()
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


def track_points(unit_flow: Tensor, points: Tensor, frame: Frame, *, n_steps: int) -> Tensor:
    """Follow the flow from integer start points; conventions as in :meth:`LabelKernels.track`.

    Args:
        unit_flow: ``(2, h, w)`` float32, pixels per step, zero in the background. Not modified.
        points: ``(n, 2)`` integer start points.
        frame: place of the array in the image.
        n_steps: number of steps.

    Returns:
        ``(n, 2)`` int64 end points, truncated to the pixel that they lie in.
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


def find_seeds(hits: Tensor) -> Tensor:
    """Local maxima (5x5) of the end-point histogram with more than 10 hits.

    Args:
        hits: ``(H, W)`` int32 end points per pixel.

    Returns:
        ``(n, 2)`` int64 (y, x), row-major.
    """
    highest = F.max_pool2d(hits[None].float(), 5, stride=1, padding=2)[0]
    return ((hits == highest) & (hits > SEED_HITS)).nonzero()


def grow_basins(hits: Tensor, seeds: Tensor) -> Tensor:
    """Grow each seed five times by its 3x3 neighbourhood over pixels with more than two hits.

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
    is_cpu = cells.y.device.type == "cpu"
    width_class = (cells.width.double().log2() * 4).ceil().long()
    key = width_class * (int(n_iterations.max()) + 1) + (n_iterations.max() - n_iterations)
    order = key.argsort(stable=True)
    area = ((cells.height + 1) * (cells.width + 1))[order]
    part = area.cumsum(0) // (_CPU_STRIP_PIXELS if is_cpu else _GPU_STRIP_PIXELS)
    _, counts = torch.unique_consecutive(
        torch.stack([width_class[order], part]), dim=1, return_counts=True
    )
    return list(torch.split(order, counts.tolist()))


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
