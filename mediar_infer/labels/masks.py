"""Dense maps → instance labels of one image or block: gradient flow tracking.

The steps are small functions because ``stitching.py`` runs the same ones on a moving band.

References:
    Stringer et al., Nature Methods 18, 2021; cellpose/dynamics.py (get_masks), BSD-3-Clause.
"""

import cv2
import numpy as np
import numpy.typing as npt

from mediar_infer.arrays import CELLPROB, BoolArray, Float32Array, LabelArray
from mediar_infer.config import MaskConfig
from mediar_infer.labels.confidence import CellConfidence
from mediar_infer.labels.flows import FlowCheck, compute_flow_errors
from mediar_infer.labels.kernels import Frame, LabelKernels
from mediar_infer.labels.kernels.choice import select_kernels

MIN_TRACKED_PIXELS = 5


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
        min_size: size in pixels of the smallest hole or object that remains.

    Returns:
        ``(H, W)`` bool.
    """
    return _drop_small(~_drop_small(~foreground, min_size), min_size)


def _renumber(labels: LabelArray, keep: npt.NDArray[np.bool_]) -> LabelArray:
    """Drop ids where ``keep`` (indexed by id, 0 included) is false; renumber the rest."""
    keep = keep.copy()
    keep[0] = False
    ids = np.where(keep, keep.cumsum(), 0).astype(np.int32)
    return ids[labels]


def compute_labels(
    maps: Float32Array,
    config: MaskConfig | None = None,
    kernels: LabelKernels | None = None,
    flow_check: FlowCheck | None = None,
    confidence: CellConfidence | None = None,
) -> tuple[LabelArray, int]:
    """Turn the maps of one image, or one block of it, into instance labels with released holes.

    Args:
        maps: ``(3, H, W)`` float32: flow y, flow x (network scale), cell-probability logit. Not
            modified.
        config: thresholds; the released ones by default. Holes are filled later, by
            ``labels.holes``: the flow check is that of the released system.
        kernels: implementation of the loops; by default the fastest one for a CPU.
        flow_check: gains the cells that the flow check examined and removed.
        confidence: gains the flow errors of the cells that remain; they are computed for it even
            without a flow check.

    Returns:
        ``(H, W)`` int32 labels 1 … n in the row-major order of their seeds, and n. The pixels of a
        cell may lie in several pieces, as in the released system.
    """
    config, kernels = config or MaskConfig(), kernels or select_kernels()
    height, width = maps.shape[1:]
    foreground = remove_small(
        foreground_of(maps[CELLPROB], config.cellprob_threshold), config.min_size
    )
    flow = np.ascontiguousarray(maps[:CELLPROB])
    ends, n_tracked = kernels.track(flow, foreground, Frame(0, 0, height, width))
    if n_tracked < MIN_TRACKED_PIXELS:
        return np.zeros((height, width), dtype=np.int32), 0
    hits = np.zeros((height, width), dtype=np.int32)
    kernels.add_hits(ends, hits)
    seeds, basins = kernels.find_basins(hits, 0, height, 1)
    labels: LabelArray = basins.ravel()[ends]
    sizes = np.bincount(labels.ravel(), minlength=len(seeds) + 1)
    labels = _renumber(labels, (sizes > 0) & (sizes <= config.max_fraction * labels.size))
    if config.max_flow_error is None and confidence is None:
        return labels, int(labels.max())
    errors = compute_flow_errors(labels, flow, kernels)
    if config.max_flow_error is not None:
        is_kept = errors <= config.max_flow_error
        labels, errors = _renumber(labels, np.append(True, is_kept)), errors[is_kept]
        if flow_check is not None:
            flow_check.add(is_kept)
    if confidence is not None:
        confidence.add_flow_errors(errors)
    return labels, int(labels.max())
