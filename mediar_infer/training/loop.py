"""One training stage: batches, optimiser steps, averaged weights, checkpoints, log, export."""

import csv
import logging
import math
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from mediar_infer.checkpoints import save_weights
from mediar_infer.errors import MediarError, UsageError
from mediar_infer.training.data import Sample, compute_sampling_weights
from mediar_infer.training.losses import LossParts, compute_loss
from mediar_infer.training.transforms import Augmentation, draw_crop

logger = logging.getLogger(__name__)

_LOG_COLUMNS = ("stage", "step", "loss", "cellprob_loss", "flow_loss", "lr", "seconds")
_LOG_EVERY = 20
_N_PREFETCHED = 3


class TrainingError(MediarError):
    """A training step produced NaN or infinity."""


@dataclass(frozen=True, slots=True)
class StageConfig:
    """One stage: which images, how many steps, how fast."""

    name: str
    """Shown in the log, e.g. ``pretraining``."""
    roles: tuple[str, ...]
    """Images of these roles are drawn: ``public``, ``target`` or both."""
    n_steps: int
    """Optimiser steps."""
    learning_rate: float
    """Learning rate after the warm-up."""
    final_learning_rate: float
    """Learning rate that the cosine ends at."""
    n_warmup_steps: int = 100
    """Steps of linear warm-up."""
    batch_size: int = 8
    """Crops per step."""
    crop_size: int = 256
    """Side of a crop in pixels, a multiple of 32."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay; biases and normalisation layers have none."""
    max_gradient_norm: float = 1.0
    """Gradients are clipped to this norm."""
    average_decay: float = 0.995
    """Decay of the moving average of the weights, per step."""
    average_from_step: int = 200
    """Until this step of the stage the average is a plain copy."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Random changes of the crops."""

    def __post_init__(self) -> None:
        if self.n_steps < 1 or self.batch_size < 1:
            raise UsageError(
                f"stage {self.name}: n_steps={self.n_steps}, batch_size={self.batch_size}; "
                "expected at least 1 of each"
            )
        if self.crop_size % 32:
            raise UsageError(
                f"stage {self.name}: crop_size={self.crop_size}; expected a multiple of 32"
            )

    def compute_learning_rate(self, step: int) -> float:
        """Return the learning rate of a step (0 … n_steps - 1): linear warm-up, then cosine."""
        n_warmup = min(self.n_warmup_steps, self.n_steps)
        if step < n_warmup:
            return self.learning_rate * (step + 1) / n_warmup
        progress = (step - n_warmup + 1) / max(1, self.n_steps - n_warmup)
        swing = self.learning_rate - self.final_learning_rate
        return self.final_learning_rate + swing * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True, slots=True)
class Batch:
    """Crops of one step as tensors."""

    inputs: Tensor
    """``(N, 3, S, S)`` float32 in [0, 1], channels last."""
    foreground: Tensor
    """``(N, S, S)`` float32."""
    unit_flow: Tensor
    """``(N, 2, S, S)`` float32."""
    image_ids: tuple[str, ...]
    """Image of each crop."""


class BatchSource:
    """Draws the batches of a stage; batch ``step`` depends on seed and step only.

    Args:
        samples: images to draw from, by the weights of ``compute_sampling_weights``.
        config: sizes and augmentation.
        seed: of this stage.
    """

    def __init__(self, samples: Sequence[Sample], config: StageConfig, seed: int) -> None:
        self.samples = samples
        self.config = config
        self.seed = seed
        self.weights = compute_sampling_weights([sample.record for sample in samples])

    def draw(self, step: int) -> Batch:
        """Draw the batch of one step."""
        config = self.config
        rng = np.random.default_rng((self.seed, step))
        chosen = rng.choice(len(self.samples), config.batch_size, p=self.weights)
        crops = [
            draw_crop(self.samples[i], config.crop_size, config.augmentation, rng) for i in chosen
        ]
        inputs = torch.from_numpy(np.stack([crop.image for crop in crops])).permute(0, 3, 1, 2)
        return Batch(
            inputs=inputs,
            foreground=torch.from_numpy(
                np.stack([crop.foreground for crop in crops]).astype(np.float32)
            ),
            unit_flow=torch.from_numpy(np.stack([crop.unit_flow for crop in crops])),
            image_ids=tuple(self.samples[i].record.image_id for i in chosen),
        )

    def prefetch(self, first_step: int) -> Iterator[Batch]:
        """Yield the batches from ``first_step`` to the end of the stage, drawn in a thread."""
        steps = iter(range(first_step, self.config.n_steps))
        waiting: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
            try:
                for step in steps:
                    waiting.append(pool.submit(self.draw, step))
                    if len(waiting) > _N_PREFETCHED:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()


def build_optimizer(model: nn.Module, config: StageConfig) -> torch.optim.AdamW:
    """Build AdamW with weight decay on matrices and kernels only."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate)


class WeightAverage:
    """Exponential moving average of all weights and BatchNorm statistics.

    Args:
        model: start of the average.
    """

    def __init__(self, model: nn.Module) -> None:
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, decay: float) -> None:
        """Move the average towards the model; counters are copied."""
        for name, value in model.state_dict().items():
            average = self.state[name]
            if average.is_floating_point():
                average.lerp_(value, 1.0 - decay)
            else:
                average.copy_(value)


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, max_gradient_norm: float
) -> LossParts:
    """Do one optimiser step under bfloat16 autocast.

    Raises:
        TrainingError: if the loss or the gradient is not finite; the weights are unchanged then.
    """
    device = next(model.parameters()).device
    inputs = batch.inputs.to(device, memory_format=torch.channels_last)
    with torch.autocast(device.type, torch.bfloat16):
        logits = model(inputs)
    loss = compute_loss(logits, batch.foreground.to(device), batch.unit_flow.to(device))
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss.total)
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_gradient_norm)
    if not (torch.isfinite(loss.total) and torch.isfinite(norm)):
        raise TrainingError(
            f"loss {loss.total.item()}, gradient norm {norm.item()} on the images "
            f"{', '.join(batch.image_ids)}; expected finite numbers: lower the learning rate or "
            "look at these images, then resume from the last checkpoint"
        )
    optimizer.step()
    return loss


@dataclass(slots=True)
class TrainingState:
    """Everything that a checkpoint holds; modified by :func:`train_stage`."""

    model: nn.Module
    """Network in training mode."""
    average: WeightAverage
    """Moving average of its weights: the result."""
    optimizer: torch.optim.Optimizer
    """AdamW of the running stage."""
    stage_index: int = 0
    """Number of the running stage in its recipe."""
    step: int = 0
    """Steps done in the running stage."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Files of one run."""

    path: Path
    """Folder of the run."""
    description: dict[str, Any]
    """Recipe as plain values: kept in the checkpoint and compared on resume."""

    @property
    def checkpoint_path(self) -> Path:
        """State to resume from."""
        return self.path / "checkpoint.pt"

    @property
    def weights_path(self) -> Path:
        """Averaged weights in float16, ready for inference."""
        return self.path / "model.safetensors"

    def stage_path(self, name: str) -> Path:
        """Averaged weights at the end of a stage."""
        return self.path / f"{name}.safetensors"

    @property
    def log_path(self) -> Path:
        """Loss of every step."""
        return self.path / "log.csv"

    def save(self, state: TrainingState) -> None:
        """Write checkpoint and weights, each atomically."""
        content = {
            "recipe": self.description,
            "stage_index": state.stage_index,
            "step": state.step,
            "model": state.model.state_dict(),
            "average": state.average.state,
            "optimizer": state.optimizer.state_dict(),
            "log_bytes": self.log_path.stat().st_size,
        }
        unfinished = self.checkpoint_path.with_suffix(f".{os.getpid()}.part")
        torch.save(content, unfinished)
        unfinished.replace(self.checkpoint_path)
        save_weights(state.average.state, self.weights_path)

    def load(self) -> dict[str, Any]:
        """Read the checkpoint and cut the log back to it.

        Raises:
            UsageError: if there is none, or if it was made by another recipe.
        """
        if not self.checkpoint_path.is_file():
            raise UsageError(f"{self.checkpoint_path}: no such file; start without --resume")
        content: dict[str, Any] = torch.load(
            self.checkpoint_path, map_location="cpu", weights_only=True
        )
        if content["recipe"] != self.description:
            raise UsageError(
                f"{self.checkpoint_path}: made with {content['recipe']}, now asked for "
                f"{self.description}; resume with the same options or choose another folder"
            )
        os.truncate(self.log_path, content["log_bytes"])
        return content

    def append_log(self, rows: Sequence[Sequence[object]]) -> None:
        """Append rows to the log; the header is written first."""
        is_new = not self.log_path.exists()
        with self.log_path.open("a", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(_LOG_COLUMNS)
            writer.writerows(rows)


def train_stage(
    state: TrainingState,
    source: BatchSource,
    folder: RunFolder,
    *,
    checkpoint_every: int = 200,
) -> None:
    """Train from ``state.step`` to the end of the stage.

    Every random choice of a step follows from the seed and the step, so a resumed run draws the
    batches (and drops the branches) that an uninterrupted one would have.

    Args:
        state: modified.
        source: batches; holds the stage's configuration and seed.
        folder: where checkpoints, weights and log go.
        checkpoint_every: steps between checkpoints; the end of the stage always makes one.
    """
    cv2.setNumThreads(1)
    config = source.config
    state.model.train()
    rows: list[tuple[object, ...]] = []
    started = time.perf_counter()
    for batch in source.prefetch(state.step):
        rate = config.compute_learning_rate(state.step)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(source.seed * 1_000_003 + state.step)
        loss = train_step(state.model, state.optimizer, batch, config.max_gradient_norm)
        state.step += 1
        is_averaging = state.step > config.average_from_step
        state.average.update(state.model, config.average_decay if is_averaging else 0.0)
        now = time.perf_counter()
        values = [round(part.item(), 5) for part in (loss.total, loss.cellprob, loss.flow)]
        rows.append((config.name, state.step, *values, f"{rate:.3e}", round(now - started, 3)))
        started = now
        is_saving = state.step % checkpoint_every == 0 or state.step == config.n_steps
        if is_saving or state.step % _LOG_EVERY == 0:
            folder.append_log(rows)
            _log_progress(config, state.step, rows)
            rows.clear()
        if is_saving:
            folder.save(state)


def _log_progress(config: StageConfig, step: int, rows: Sequence[Sequence[Any]]) -> None:
    means = np.mean([[row[2], row[3], row[4], row[6]] for row in rows], axis=0)
    logger.info(
        "%s %d/%d: loss %.4f (cellprob %.4f, flow %.4f), %.2f s per step",
        *(config.name, step, config.n_steps, *means),
    )
