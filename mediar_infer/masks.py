"""Dense maps → instance labels of one image or block: gradient flow tracking.

The steps are small functions, because a slide runs the same ones on a moving band
(``stitching.py``). All of them work on torch tensors of one device; only the removal of small
objects runs in OpenCV.

References:
    Stringer et al., Nature Methods 18, 2021; cellpose/dynamics.py (get_masks), BSD-3-Clause.
"""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mediar_infer.config import MaskConfig
from mediar_infer.flows import Frame, compute_flow_errors, track_flow
from mediar_infer.types import CELLPROB, FLOW_SCALE, FLOW_X, FLOW_Y, BoolArray, Float32Array

MIN_TRACKED_PIXELS = 5
SEED_HITS = 10
BASIN_HITS = 2
BASIN_STEPS = 5
_MIN_SPEED = 1e-3


def _drop_small(mask: BoolArray, min_size: int) -> BoolArray:
    """Remove 4-connected components of fewer than ``min_size`` pixels."""
    n, components, stats, _ = cv2.connectedComponentsWithStats(
        mask.view(np.uint8), connectivity=4, ltype=cv2.CV_32S
    )
    if n <= 1:
        return mask
    small = stats[:, cv2.CC_STAT_AREA] < min_size
    small[0] = False
    kept: BoolArray = mask & ~small[components]
    return kept


def foreground_of(cellprob_logits: Float32Array, threshold: float) -> BoolArray:
    """Pixels whose cell probability is above the threshold; ``(H, W)`` logits in, bool out."""
    # The logit of the threshold: no probability map is needed.
    foreground: BoolArray = cellprob_logits > np.float32(np.log(threshold / (1 - threshold)))
    return foreground


def remove_small(foreground: BoolArray, min_size: int) -> BoolArray:
    """Fill holes, then drop objects, of fewer than ``min_size`` 4-connected pixels.

    Args:
        foreground: ``(H, W)``. Not modified.
        min_size: smallest hole or object that stays.

    Returns:
        ``(H, W)`` bool.
    """
    return _drop_small(~_drop_small(~foreground, min_size), min_size)


def tracked_points(flow: Tensor, foreground: Tensor) -> Tensor:
    """Pixels that are followed: foreground whose vertical unit flow is not zero (as released).

    Args:
        flow: ``(2, H, W)`` network scale.
        foreground: ``(H, W)`` bool.

    Returns:
        ``(n, 2)`` int64 (y, x), row-major.
    """
    return (foreground & ((flow[FLOW_Y] / FLOW_SCALE).abs() > _MIN_SPEED)).nonzero()


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


def _renumber(labels: Tensor, keep: Tensor) -> Tensor:
    """Drop ids where ``keep`` (indexed by id, 0 included) is false; make the rest consecutive."""
    keep = keep.clone()
    keep[0] = False
    ids = torch.where(keep, keep.cumsum(0), 0)
    return ids.int()[labels]


def _cells_of_end_points(end: Tensor, points: Tensor, shape: torch.Size) -> Tensor:
    """Label every pixel with the basin that it ends in; background pixels stay where they are."""
    height, width = shape
    ends = torch.arange(height * width, device=end.device)
    ends[points[:, 0] * width + points[:, 1]] = end[:, 0] * width + end[:, 1]
    hits = torch.bincount(ends, minlength=height * width).int().view(height, width)
    basins = grow_basins(hits, find_seeds(hits))
    return basins.flatten()[ends].view(height, width)


def compute_labels(
    maps: Float32Array, config: MaskConfig | None = None, device: torch.device | None = None
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.int32]], int]:
    """Turn the maps of one image, or one block of it, into instance labels.

    Args:
        maps: ``(3, H, W)`` float32: flow y, flow x (network scale), cell-probability logit. Not
            modified.
        config: thresholds; the released ones by default.
        device: where tracking and diffusion run; the CPU by default.

    Returns:
        ``(H, W)`` int32 labels 1 … n in the row-major order of their seeds, and n. Without any cell
        all are zero.
    """
    config = config or MaskConfig()
    foreground = remove_small(
        foreground_of(maps[CELLPROB], config.cellprob_threshold), config.min_size
    )
    flow = torch.from_numpy(maps[[FLOW_Y, FLOW_X]]).to(device)
    is_cell = torch.from_numpy(foreground).to(device)
    points = tracked_points(flow, is_cell)
    if len(points) < MIN_TRACKED_PIXELS:
        return np.zeros(maps.shape[1:], dtype=np.int32), 0
    frame = Frame(0, 0, maps.shape[1], maps.shape[2])
    end = track_flow(flow * is_cell / FLOW_SCALE, points, frame)
    labels = _cells_of_end_points(end, points, is_cell.shape)
    sizes = torch.bincount(labels.flatten(), minlength=int(labels.max()) + 1)
    labels = _renumber(labels, (sizes > 0) & (sizes <= config.max_fraction * labels.numel()))
    if config.flow_threshold is not None:
        errors = compute_flow_errors(labels, flow)
        good = torch.cat(
            [torch.ones_like(errors[:1], dtype=torch.bool), errors <= config.flow_threshold]
        )
        labels = _renumber(labels, good) if len(errors) else labels
    return labels.cpu().numpy(), int(labels.max())
