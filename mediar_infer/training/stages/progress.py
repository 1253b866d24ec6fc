"""A stage in steps: its plan, its progress and its scores."""

import math
from dataclasses import dataclass

from mediar_infer.training.stages.stage_config import StageConfig


@dataclass(frozen=True, slots=True)
class Score:
    """Outcome of one validation."""

    measure: str
    """``f1`` or ``count``."""
    value: float
    """Mean F1 at IoU 0.5, or number of cells; more is better."""
    n_images: int
    """Images that were predicted."""


@dataclass(slots=True)
class StageProgress:
    """What a checkpoint holds besides weights and moments."""

    step: int = 0
    """Finished steps."""
    seconds: float = 0.0
    """Time of these steps without validations and checkpoints."""
    best_value: float = -math.inf
    """Best score so far."""
    best_step: int = 0
    """Step of the best score; 0 before the first validation."""
    last_validated: int = 0
    """Step of the last validation."""
    n_without_gain: int = 0
    """Validations since the best score."""
    n_skipped: int = 0
    """Consecutive steps that float16 has skipped."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A stage in steps, given the images."""

    config: StageConfig
    """The recipe's values."""
    n_steps: int
    """Optimiser steps."""
    steps_per_epoch: int
    """Steps of one epoch."""
    checkpoint_every: int
    """Steps between checkpoints."""
    validate_every: int
    """Steps between validations; 0 means none before the end."""
    seed: int
    """Seed of everything random."""


def plan_stage(config: StageConfig, epoch_size: int, seed: int) -> StagePlan:
    """Turn epochs into steps.

    Args:
        config: settings of the stage.
        epoch_size: images per epoch, amplified where they are.
        seed: seed of the stage.
    """
    every = config.validate_every
    return StagePlan(
        config=config,
        n_steps=config.count_steps(config.steps or config.epochs, epoch_size),
        steps_per_epoch=config.count_steps_per_epoch(epoch_size),
        checkpoint_every=config.count_steps(config.checkpoint_every, epoch_size),
        validate_every=config.count_steps(every, epoch_size) if every else 0,
        seed=seed,
    )
