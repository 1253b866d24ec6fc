"""The training loss of MEDIAR: cell recognition and cell distinction."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from mediar_infer.types import CELLPROB, FLOW_SCALE

FLOW_WEIGHT = 0.5
"""Weight of the flow term (paper, section 5.3)."""


@dataclass(frozen=True, slots=True)
class LossParts:
    """The loss and its two terms; all are scalars (float32)."""

    total: Tensor
    """``cellprob + FLOW_WEIGHT * flow``; the one to differentiate."""
    cellprob: Tensor
    """Binary cross-entropy of the cell-probability logits."""
    flow: Tensor
    """Mean squared error of the flow against five times the unit flow."""


def compute_loss(logits: Tensor, foreground: Tensor, unit_flow: Tensor) -> LossParts:
    """Compare the network's output with the targets, averaged over all pixels.

    Args:
        logits: ``(N, 3, H, W)`` network output; flow y, flow x, cell-probability logit.
        foreground: ``(N, H, W)`` float32, 1 inside cells.
        unit_flow: ``(N, 2, H, W)`` float32, (dy, dx).
    """
    logits = logits.float()  # under bfloat16 autocast the sums would lose the small differences
    cellprob = F.binary_cross_entropy_with_logits(logits[:, CELLPROB], foreground)
    flow = F.mse_loss(logits[:, :CELLPROB], FLOW_SCALE * unit_flow)
    return LossParts(cellprob + FLOW_WEIGHT * flow, cellprob, flow)
