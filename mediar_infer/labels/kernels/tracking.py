"""Tracking on torch tensors, in two ways.

:func:`track_points` runs the operations of ``label_kernels.c`` one by one and in its order. Each
rounds once, in float32, so tracks end in the same pixels as those of the compiled loops.

:func:`track_points_by_sampling` runs a few operations per step instead of about thirty, for GPUs,
where each is a kernel to start. It rounds in other places: an end point near the border of a pixel
may fall into the next one.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from mediar_infer.labels.kernels import Frame
from mediar_infer.labels.kernels.field import FieldAxis, describe_axes

_CHECK_EVERY = 8
# A group of walkers and what a step computes of it stay in a core's cache.
_GROUP = 1 << 13


def track_points(unit_flow: Tensor, points: Tensor, frame: Frame, *, n_steps: int) -> Tensor:
    """Follow the flow from integer start points; conventions as in :meth:`LabelKernels.track`.

    Args:
        unit_flow: ``(2, h, w)`` float32, pixels per step, zero in the background. Not modified.
        points: ``(n, 2)`` integer start points.
        frame: position of the array in the image.
        n_steps: number of steps.

    Returns:
        ``(n, 2)`` int64 end points, truncated to the pixel that they lie in.
    """
    axes = describe_axes(frame, *unit_flow.shape[1:])
    width = unit_flow.shape[2] + 2
    dy, dx = (F.pad(unit_flow[i] * axis.scale, (1, 1, 1, 1)) for i, axis in enumerate(axes))
    field = torch.stack([dy.flatten(), dx.flatten()], dim=1)
    # A pixel and the one right of it side by side: dy, dx, dy, dx.
    pairs = torch.cat([field[:-1], field[1:]], dim=1)
    groups = [points[first : first + _GROUP] for first in range(0, len(points), _GROUP)]
    return torch.cat(
        [points[:0].long(), *(_walk(pairs, width, group, axes, n_steps) for group in groups)]
    )


def _count_steps(n_steps: int) -> Iterator[int]:
    """Numbers of steps between checks for rest; the number left after a check is even."""
    n_done = 0
    while n_done < n_steps:
        n = (n_steps - n_done) % _CHECK_EVERY or _CHECK_EVERY
        yield n
        n_done += n


def _walk(
    pairs: Tensor, width: int, points: Tensor, axes: tuple[FieldAxis, FieldAxis], n_steps: int
) -> Tensor:
    y, x = (points[:, i].float() * axis.scale + axis.shift for i, axis in enumerate(axes))
    index = torch.arange(len(points), device=points.device)
    ends = torch.empty(len(points), 2, dtype=torch.int64, device=points.device)
    for n in _count_steps(n_steps):
        y_before, x_before = y, x
        for i in range(n):
            if n - i == 2:
                y_before, x_before = y, x
            y, x = _step(pairs, width, y, x, axes)
        # A walker that is where it was two steps ago rests or oscillates, and ends here too.
        rests = (y == y_before) & (x == x_before) & (n >= 2)
        moves = ~rests
        ends[index[rests]] = _truncate(y[rests], x[rests], axes)
        y, x, index = y[moves], x[moves], index[moves]
        if len(index) == 0:
            break
    ends[index] = _truncate(y, x, axes)
    return ends


def _step(
    pairs: Tensor, width: int, y: Tensor, x: Tensor, axes: tuple[FieldAxis, FieldAxis]
) -> tuple[Tensor, Tensor]:
    # Positions are not negative: truncation is floor.
    row, column = y.int(), x.int()
    ty, tx = y - row, x - column
    at = row * width + column
    above, below = pairs.index_select(0, at), pairs.index_select(0, at + width)
    between = above + ty[:, None] * (below - above)
    dy, dx, dy_right, dx_right = between.unbind(1)
    return (
        _clamp(y + (dy + tx * (dy_right - dy)), axes[0]),
        _clamp(x + (dx + tx * (dx_right - dx)), axes[1]),
    )


def _clamp(position: Tensor, axis: FieldAxis) -> Tensor:
    # In this form NaN becomes ``low``, which is a place to read from.
    position = torch.where(position > axis.low, position, axis.low)
    return torch.where(position < axis.high, position, axis.high)


def _truncate(y: Tensor, x: Tensor, axes: tuple[FieldAxis, FieldAxis]) -> Tensor:
    ends = []
    for position, axis in zip((y, x), axes, strict=True):
        # Scaled back, a walker on the border may miss it by a rounding error, and truncation would
        # take the pixel before it.
        pixel = ((position - axis.shift) / axis.scale).clamp(min=axis.first)
        ends.append(pixel.long().masked_fill(position >= axis.high, axis.last))
    return torch.stack(ends, dim=1)


def track_points_by_sampling(
    unit_flow: Tensor, points: Tensor, frame: Frame, *, n_steps: int
) -> Tensor:
    """Follow the flow as :func:`track_points` does, by ``grid_sample``."""
    size = torch.tensor(unit_flow.shape[1:], dtype=torch.float64)
    origin = torch.tensor([frame.top, frame.left], dtype=torch.float64)
    extent = torch.tensor([frame.image_height, frame.image_width], dtype=torch.float64)
    # An image one pixel wide has no size - 1 to scale by: nothing can move along that axis.
    stretch = extent / (extent - 1).clamp(min=1)
    # Array coordinate c is sampled at grid value c·scale + shift: the whole walk runs in the
    # units of grid_sample: one multiplication of the field instead of two per step.
    scale = 2 * stretch / size
    shift = (2 * (origin * stretch - 0.5 - origin) + 1) / size - 1
    low, high = -origin * scale + shift, (extent - 1 - origin) * scale + shift

    scale_x, scale_y = scale.flip(0).tolist()
    shift_x, shift_y = shift.flip(0).tolist()
    # grid_sample expects x before y; it is fastest with x and y in separate planes.
    field = torch.stack([unit_flow[1] * scale_x, unit_flow[0] * scale_y])[None]
    y, x = points.T.float()[:, None, None]
    walkers = torch.stack([x * scale_x + shift_x, y * scale_y + shift_y], dim=1)
    grid = walkers.permute(0, 2, 3, 1)
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
    return end.T.long()
