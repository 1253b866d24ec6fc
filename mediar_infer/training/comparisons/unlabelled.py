"""Additional terms of the loss for images without labels (paper, section 6.6 and Table 8).

Convention:
    - a term uses the crops of a batch that have no labels; it is ``None`` if all have labels.
    - random choices come from torch's global generator, which the trainer seeds in every step.
    - the network runs again on these crops: the terms fit any network, device and precision.

Pseudo-labels, the third approach of Table 8, are label files: see ``relabelling``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mediar_infer.arrays import CELLPROB, FLOW_SCALE
from mediar_infer.config import ALL_FLIPS
from mediar_infer.devices import CPU
from mediar_infer.engine.torch_ops import TorchOps
from mediar_infer.engine.tta import flip_windows, unflip_logits
from mediar_infer.errors import UsageError
from mediar_infer.training.augmentation.loader import Batch
from mediar_infer.training.networks.build import N_OUTPUTS
from mediar_infer.training.stages.losses import compute_loss

Approach = Literal["consistency", "reconstruction_cells", "reconstruction_image"]
APPROACHES: Final[tuple[Approach, ...]] = get_args(Approach)

_GAMMAS: Final = (0.5, 2.0)
_NOISE_SIGMA: Final = 0.1
_SMOOTHING_SIGMA: Final = 1.0
_SMOOTHING_RADIUS: Final = 3


@dataclass(frozen=True, slots=True)
class ConsistencyLoss:
    """The prediction on a distorted crop should equal the one on the original crop.

    The latter is computed in evaluation mode and without gradient, and is the target of the usual
    loss. A crop is distorted by the intensity changes of Table 1 that act on any image: contrast,
    smoothing and noise, each in half of the cases, and mirrored.
    """

    weight: float = 1.0
    """Factor of the term."""

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """Return the term, or None if all crops have labels."""
        inputs = batch.inputs[~batch.has_labels]
        if not len(inputs):
            return None
        with torch.no_grad(), _evaluating(model):
            target = model(inputs).float()
        flip = ALL_FLIPS[int(torch.randint(len(ALL_FLIPS), ()))]
        ops = TorchOps(CPU)  # a flip does not depend on the device
        logits = unflip_logits(model(flip_windows(distort(inputs), flip, ops)), flip, ops)
        loss = compute_loss(
            logits, target[:, CELLPROB].sigmoid(), target[:, :CELLPROB] / FLOW_SCALE
        )
        return self.weight * loss.total


def distort(inputs: Tensor) -> Tensor:
    """Change contrast, sharpness and noise of crops, each in half of the cases.

    Args:
        inputs: ``(N, 3, S, S)`` float32, about [0, 1]. Not modified.

    Returns:
        ``(N, 3, S, S)``; noise reaches beyond [0, 1].
    """
    shape, device = (len(inputs), 1, 1, 1), inputs.device

    def happens() -> Tensor:
        return torch.rand(shape, device=device) < 0.5

    low, high = _GAMMAS
    # Uniformly on a logarithmic scale; a power of 0 has no gradient, and no colours either.
    gamma = low * (high / low) ** torch.rand(shape, device=device)
    changed = torch.where(happens(), inputs.clamp(1e-4, 1) ** gamma, inputs)
    changed = torch.where(happens(), _smooth(changed), changed)
    noisy = changed + _NOISE_SIGMA * torch.randn_like(changed)
    return torch.where(happens(), noisy, changed)


def _smooth(inputs: Tensor) -> Tensor:
    steps = torch.arange(-_SMOOTHING_RADIUS, _SMOOTHING_RADIUS + 1, device=inputs.device)
    kernel = torch.exp(-0.5 * (steps / _SMOOTHING_SIGMA) ** 2)
    square = torch.outer(kernel, kernel) / kernel.sum() ** 2
    padded = F.pad(inputs, [_SMOOTHING_RADIUS] * 4, mode="replicate")
    weights = square.to(inputs.dtype).expand(inputs.shape[1], 1, *square.shape)
    return F.conv2d(padded, weights, groups=inputs.shape[1])


@dataclass(frozen=True, slots=True)
class ReconstructionLoss:
    """An additional head should reconstruct the crop: mean squared error of its pixels.

    Needs the network ``mediar_former_reconstructing``, whose output has three more channels while
    it is trained.
    """

    only_cells: bool
    """Count only pixels that the network classifies as cells; otherwise the whole crop."""
    weight: float = 1.0
    """Factor of the term."""

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """Return the term, or None if all crops have labels.

        Raises:
            UsageError: if the network has no such head.
        """
        inputs = batch.inputs[~batch.has_labels]
        if not len(inputs):
            return None
        outputs = model(inputs).float()
        if outputs.shape[1] != N_OUTPUTS + inputs.shape[1]:
            raise UsageError(
                f"found a network with {outputs.shape[1]} channels, expected"
                f" {N_OUTPUTS + inputs.shape[1]} for a reconstruction; set [model] network ="
                ' "mediar_former_reconstructing"'
            )
        errors = F.mse_loss(outputs[:, N_OUTPUTS:], inputs.float(), reduction="none").mean(1)
        counted = torch.ones_like(errors)
        if self.only_cells:
            counted = (outputs[:, CELLPROB].detach() > 0).float()
        # Where nothing counts, a zero with a graph, because several processes average all
        # gradients.
        loss: Tensor = self.weight * (errors * counted).sum() / counted.sum().clamp(min=1)
        return loss


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Temporary evaluation mode; modules that were in it before stay in it."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def build_extra_loss(approach: str, weight: float = 1.0) -> ConsistencyLoss | ReconstructionLoss:
    """Build the term of an approach.

    Args:
        approach: one of ``APPROACHES``.
        weight: factor of the term.

    Raises:
        UsageError: if there is no such approach.
    """
    if approach not in APPROACHES:
        raise UsageError(
            f"found approach {approach!r} for unlabelled images, expected one of"
            f" {', '.join(APPROACHES)}"
        )
    if approach == "consistency":
        return ConsistencyLoss(weight)
    return ReconstructionLoss(only_cells=approach == "reconstruction_cells", weight=weight)
