"""One stage of a recipe: its start, images, length and learning rate."""

import math
import re
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from mediar_infer.errors import UsageError
from mediar_infer.network.model import STRIDE
from mediar_infer.training.augmentation.settings import Augmentation
from mediar_infer.training.data.table import LABELLED_ROLES, ROLES

Sampling = Literal["all", "amplified", "balanced"]
TrainingPrecision = Literal["float32", "float16", "bfloat16"]
Schedule = Literal["cosine", "constant"]
Selection = Literal["last", "f1", "count"]

FLOW_WEIGHT: Final = 0.5
"""Weight of the flow in the loss (paper, section 5.3)."""

_PLAIN_STARTS: Final = ("random", "encoder")
_FACTOR: Final = re.compile(r".+=\d+(\.\d+)?")
_NOT_NEGATIVE: Final = (
    "t_max_epochs",
    "warmup_steps",
    "weight_decay",
    "flow_weight",
    "max_gradient_norm",
    "ema_from_step",
    "patience",
    "validate_every",
)


def check(holds: bool, message: str) -> None:
    """Raise UsageError with a message unless a condition holds."""
    if not holds:
        raise UsageError(message)


@dataclass(frozen=True, slots=True)
class StageConfig:
    """One stage: its start, images, length and learning rate."""

    name: str
    """The stage's table: ``[stages.NAME]``."""
    start: str
    """``random``, ``encoder`` (``[model] encoder_weights``), ``stage:NAME`` or ``weights:FILE``; a
    missing file is looked for in the default folder of weights."""
    roles: tuple[str, ...]
    """Images of these roles are drawn."""
    learning_rate: float
    """Highest learning rate."""
    final_learning_rate: float
    """Learning rate at the end of the cosine."""
    batch_size: int
    """Crops per optimiser step over all processes, including replayed ones."""
    crop_size: int
    """Side of a crop in pixels; a multiple of 32."""
    steps: int = 0
    """Length in optimiser steps, as an alternative to ``epochs``."""
    epochs: float = 0.0
    """Length in epochs: passes over the images of ``roles``, amplified where they are."""
    exclude_sources: tuple[str, ...] = ()
    """Images of these sources are neither drawn nor scored. Clusters and new labels, which stages
    share, also use them."""
    memory_roles: tuple[str, ...] = ()
    """Images of these roles are replayed beside those of ``roles``."""
    memory_per_batch: int = 0
    """Number of replayed crops per batch."""
    sampling: Sampling = "all"
    """``all``: every image once per epoch; ``amplified``: images of small clusters more often;
    ``balanced``: at random, each modality of each source ∝ (number of its images)^share_power."""
    share_power: float = 0.5
    """With balanced sampling: 0 draws all modalities alike, 1 all images."""
    source_factors: tuple[str, ...] = ()
    """With balanced sampling: ``SOURCE=FACTOR`` draws images of a source so many times as often."""
    memory_sampling: Literal["all", "balanced"] = "all"
    """The same for the replayed images."""
    amplify_to: int = 50
    """Clusters with fewer images are repeated up to this number per epoch."""
    relabelled: bool = False
    """Labels that disagree with a model's prediction are replaced by it (labelling consistency)."""
    excludes_boundary: tuple[str, ...] = ()
    """Images of these roles lose the boundary pixels of their cells."""
    intensity: tuple[str, ...] = LABELLED_ROLES
    """Images of these roles get intensity changes; all get spatial changes."""
    true_colour_sources: tuple[str, ...] = ()
    """Images of these sources keep their intensities whatever ``intensity`` says: where two sources
    label differently, only colours may tell them apart."""
    schedule: Schedule = "cosine"
    """Schedule of the learning rate."""
    t_max_epochs: float = 0.0
    """Epochs from the highest to the final learning rate, changed once per epoch as released;
    longer stages rise again. 0: it falls step by step until the end of the stage."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay; biases and normalisation layers have none."""
    flow_weight: float = FLOW_WEIGHT
    """Weight of the flow in the loss, beside 1 for the cell probability; lower values favour exact
    outlines."""
    max_gradient_norm: float = 0.0
    """Gradients are clipped to this norm; 0 is off."""
    freeze_norm_statistics: bool = False
    """BatchNorm keeps the means and variances of the start weights."""
    precision: TrainingPrecision = "float32"
    """Type that the network computes in; weights and losses are float32."""
    accumulate: int = 1
    """Number of parts into which a batch is cut to save memory."""
    ema_decay: float = 0.0
    """Decay per step of the moving average of the weights, which is then the result; 0 is off."""
    ema_from_step: int = 0
    """Up to this step the average is a plain copy."""
    checkpoint_every: float = 200
    """Distance of checkpoints, in the stage's unit (steps or epochs); one is always written at the
    end."""
    validate_every: float = 0
    """Distance of validations, in the stage's unit; 0 validates only at the end, if ``select``
    needs it."""
    select: Selection = "last"
    """Which weights are the result: the last, or those with the best F1 on held-out images or the
    most cells on tuning images."""
    validate_roles: tuple[str, ...] = ()
    """Held-out images of these roles are scored; by default those of ``roles``."""
    patience: int = 0
    """The stage ends after this number of validations without improvement, counted from the first
    score above 0; 0 is off."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Random changes of the crops."""

    def __post_init__(self) -> None:
        self._check_start()
        self._check_roles()
        self._check_lengths()
        self._check_rates()

    def _check_start(self) -> None:
        kind, colon, rest = self.start.partition(":")
        known = kind in ("stage", "weights") if colon and rest else self.start in _PLAIN_STARTS
        check(
            known,
            f"start: found {self.start!r}, expected random, encoder, stage:NAME or weights:FILE",
        )

    def _check_roles(self) -> None:
        for key in ("roles", "memory_roles", "excludes_boundary", "intensity", "validate_roles"):
            unknown = [role for role in getattr(self, key) if role not in ROLES]
            check(not unknown, f"{key}: found {unknown}, expected some of {', '.join(ROLES)}")
        check(len(self.roles) > 0, f"roles: found none, expected some of {', '.join(ROLES)}")
        check(
            bool(self.memory_roles) == bool(self.memory_per_batch),
            f"memory_per_batch: found {self.memory_per_batch} with memory_roles"
            f" {list(self.memory_roles)}, expected both or neither",
        )
        check(
            0 <= self.memory_per_batch < self.batch_size,
            f"memory_per_batch: found {self.memory_per_batch} of batch_size {self.batch_size},"
            " expected 0 or more and at least one other crop",
        )

    def _check_lengths(self) -> None:
        check(
            (self.steps > 0) != (self.epochs > 0) and min(self.steps, self.epochs) == 0,
            f"steps: found steps = {self.steps} and epochs = {self.epochs}, expected exactly one"
            " of them, above 0",
        )
        check(
            self.crop_size > 0 and self.crop_size % STRIDE == 0,
            f"crop_size: found {self.crop_size}, expected a multiple of {STRIDE}",
        )
        for key in ("batch_size", "accumulate", "amplify_to"):
            value = getattr(self, key)
            check(value >= 1, f"{key}: found {value}, expected 1 or more")
        check(
            self.batch_size % self.accumulate == 0,
            f"accumulate: found {self.accumulate}, expected a divisor of batch_size"
            f" {self.batch_size}",
        )
        check(
            self.checkpoint_every > 0,
            f"checkpoint_every: found {self.checkpoint_every}, expected above 0",
        )
        for key in _NOT_NEGATIVE:
            value = getattr(self, key)
            check(value >= 0, f"{key}: found {value}, expected 0 or more")
        check(
            self.patience == 0 or (self.validate_every > 0 and self.select != "last"),
            f"patience: found {self.patience} with validate_every = {self.validate_every} and"
            f" select = {self.select!r}, expected validations and f1 or count",
        )

    def _check_rates(self) -> None:
        check(
            self.learning_rate > 0, f"learning_rate: found {self.learning_rate}, expected above 0"
        )
        check(
            0 <= self.final_learning_rate <= self.learning_rate,
            f"final_learning_rate: found {self.final_learning_rate}, expected 0 to learning_rate",
        )
        check(
            all(_FACTOR.fullmatch(text) for text in self.source_factors),
            f"source_factors: found {list(self.source_factors)}, expected SOURCE=FACTOR, each a"
            " number from 0 on",
        )
        check(
            0 <= self.share_power <= 1,
            f"share_power: found {self.share_power}, expected 0 to 1",
        )
        check(
            0 <= self.ema_decay < 1,
            f"ema_decay: found {self.ema_decay}, expected 0 (off) or less than 1",
        )

    @property
    def fresh_per_batch(self) -> int:
        """Crops of a batch that are not replayed."""
        return self.batch_size - self.memory_per_batch

    @property
    def factor_of_source(self) -> dict[str, float]:
        """Source → how many times as often its images are drawn."""
        parts = [text.rpartition("=") for text in self.source_factors]
        return {source: float(factor) for source, _, factor in parts}

    @property
    def scored_roles(self) -> tuple[str, ...]:
        """Roles whose held-out images are scored."""
        return self.validate_roles or self.roles

    def count_steps_per_epoch(self, epoch_size: int) -> int:
        """Steps of one epoch; the last one is filled from the next epoch.

        Args:
            epoch_size: images per epoch, amplified where they are.
        """
        return math.ceil(epoch_size / self.fresh_per_batch)

    def count_steps(self, amount: float, epoch_size: int) -> int:
        """Turn an amount in the stage's unit (steps or epochs) into steps, at least one."""
        per_unit = 1 if self.steps else self.count_steps_per_epoch(epoch_size)
        return max(1, round(amount * per_unit))

    def scaled(self, factor: float) -> "StageConfig":
        """Copy that is ``factor`` times as long; schedules are scaled too."""

        def whole(number: int) -> int:
            return max(1, round(number * factor)) if number else 0

        return replace(
            self,
            steps=whole(self.steps),
            epochs=self.epochs * factor,
            t_max_epochs=self.t_max_epochs * factor,
            warmup_steps=whole(self.warmup_steps),
            ema_from_step=whole(self.ema_from_step),
            checkpoint_every=self.checkpoint_every * factor,
            validate_every=self.validate_every * factor,
        )
