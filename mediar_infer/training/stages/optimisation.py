"""AdamW with weight decay on matrices and kernels only, and its learning-rate schedule."""

import math

import torch
from torch import nn

from mediar_infer.training.stages.stage_config import StageConfig


def build_optimizer(model: nn.Module, config: StageConfig) -> torch.optim.AdamW:
    """Build AdamW; biases and normalisation layers have no weight decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def compute_learning_rate(
    config: StageConfig, step: int, n_steps: int, steps_per_epoch: int
) -> float:
    """Return the learning rate of a step.

    After a linear warm-up it follows a cosine, by steps to the end of the stage or, with
    ``t_max_epochs``, by epochs: the paper's "100 interval without restarts", which rises again
    after 100 epochs, as torch's ``CosineAnnealingLR`` of the released code does.

    Args:
        config: settings of the stage.
        step: 0 … ``n_steps - 1``.
        n_steps: of the stage.
        steps_per_epoch: for ``t_max_epochs``.
    """
    n_warmup = min(config.warmup_steps, n_steps)
    if step < n_warmup:
        return config.learning_rate * (step + 1) / n_warmup
    if config.schedule == "constant":
        return config.learning_rate
    if config.t_max_epochs:
        progress = (step // steps_per_epoch) / config.t_max_epochs
    else:
        progress = (step - n_warmup + 1) / max(1, n_steps - n_warmup)
    swing = config.learning_rate - config.final_learning_rate
    return config.final_learning_rate + swing * (1 + math.cos(math.pi * progress)) / 2
