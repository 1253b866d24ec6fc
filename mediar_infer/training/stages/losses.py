"""The training loss of MEDIAR: cell recognition and cell distinction."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from mediar_infer.arrays import CELLPROB, FLOW_SCALE
from mediar_infer.training.stages.stage_config import FLOW_WEIGHT


@dataclass(frozen=True, slots=True)
class LossParts:
    """The loss and its two terms; all are scalars (float32)."""

    total: Tensor
    """``cellprob + flow_weight * flow``; the one to differentiate."""
    cellprob: Tensor
    """Binary cross-entropy of the cell-probability logits."""
    flow: Tensor
    """Mean squared error of the flow against five times the unit flow."""


def compute_loss(
    logits: Tensor,
    foreground: Tensor,
    unit_flow: Tensor,
    has_labels: Tensor | None = None,
    *,
    flow_weight: float = FLOW_WEIGHT,
) -> LossParts:
    """Compare the network's output with the targets, averaged over all pixels of labelled crops.

    Args:
        logits: ``(N, 3, H, W)`` network output; flow y, flow x, cell-probability logit.
        foreground: ``(N, H, W)`` float32, 1 inside cells.
        unit_flow: ``(N, 2, H, W)`` float32, (dy, dx).
        has_labels: ``(N,)`` bool, false for crops without labels, whose targets do not count; all
            true by default.
        flow_weight: weight of the flow term beside that of the cell probability, which is 1.

    Returns:
        The loss; 0, with zero gradients, if no crop has labels.
    """
    logits = logits.float()  # under bfloat16 autocast the sums would lose the small differences
    cellprob_logits, flow_target = logits[:, CELLPROB], FLOW_SCALE * unit_flow
    if has_labels is None:
        cellprob = F.binary_cross_entropy_with_logits(cellprob_logits, foreground)
        flow = F.mse_loss(logits[:, :CELLPROB], flow_target)
    else:
        # Weighted means per crop: selecting crops would make a GPU wait for their number.
        weights = has_labels.float() / has_labels.sum().clamp(min=1)
        cellprob_errors = F.binary_cross_entropy_with_logits(
            cellprob_logits, foreground, reduction="none"
        )
        flow_errors = F.mse_loss(logits[:, :CELLPROB], flow_target, reduction="none")
        cellprob = (cellprob_errors.mean((1, 2)) * weights).sum()
        flow = (flow_errors.mean((1, 2, 3)) * weights).sum()
    return LossParts(cellprob + flow_weight * flow, cellprob, flow)
