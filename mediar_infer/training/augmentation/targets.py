"""Augmented label crop → what the network is trained to predict."""

from dataclasses import dataclass

import numpy as np

from mediar_infer.arrays import Float32Array, LabelArray
from mediar_infer.labels.flows import compute_unit_flow
from mediar_infer.labels.kernels.choice import select_kernels


@dataclass(frozen=True, slots=True)
class Targets:
    """Targets of one crop."""

    foreground: Float32Array
    """``(H, W)`` float32, 1 inside cells and 0 outside."""
    unit_flow: Float32Array
    """``(2, H, W)`` float32, (dy, dx), unit length inside cells; the network predicts 5 × it."""


def compute_targets(labels: LabelArray) -> Targets:
    """Compute the targets of a crop from its labels, on one thread.

    The flow belongs to the cells as the crop shows them: a cell cut by the edge of the crop has its
    centre inside the crop, as in the released training.

    Args:
        labels: ``(H, W)`` int32, 0 = background; any ids. Not modified.
    """
    # Crops are made beside a training step or in several processes: one thread each.
    kernels = select_kernels(n_threads=1)
    return Targets((labels > 0).astype(np.float32), compute_unit_flow(labels, kernels))
