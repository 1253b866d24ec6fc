"""One training stage on Lightning Fabric: steps, checkpoints, validations, logs, result.

Everything random in a step follows from the seed and the step, and a checkpoint holds weights,
moments, average, scaler and scores: a run that was killed ends where an uninterrupted one does.
With several processes, each computes its part of every batch; gradients and BatchNorm statistics
are those of the whole batch. (Stochastic depth draws per process, so with it several processes
agree with one in distribution only.)
"""

import copy
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict
from typing import Any, Final, Protocol

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from tqdm import tqdm

from mediar_infer.errors import TrainingError, UsageError
from mediar_infer.output_files import remove_result, write_bytes
from mediar_infer.process import peak_memory_bytes
from mediar_infer.training.augmentation.loader import Batch
from mediar_infer.training.networks.fused_norms import fuse_norms
from mediar_infer.training.networks.synchronised_norm import freeze_statistics, synchronise_norms
from mediar_infer.training.stages.averaging import WeightAverage
from mediar_infer.training.stages.fabric import reduce_tensor
from mediar_infer.training.stages.losses import compute_loss
from mediar_infer.training.stages.optimisation import (
    build_optimizer,
    compute_learning_rate,
    set_learning_rate,
)
from mediar_infer.training.stages.progress import Score, StagePlan, StageProgress
from mediar_infer.training.stages.run_folder import StageFolder, save_state, write_json
from mediar_infer.training.stages.stage_log import StageLog
from mediar_infer.training.stages.stopping import StopLater

logger = logging.getLogger(__name__)

_MAX_SKIPPED: Final = 30
"""Consecutive steps that float16 may skip; its scale has then fallen from 65,536 to below 1e-4."""


class ExtraLoss(Protocol):
    """An additional term of the loss, for images without labels."""

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """Return a scalar to add to the loss, or None.

        Args:
            model: in training mode, wrapped for device and precision.
            batch: on the model's device.
        """
        ...


Validate = Callable[[nn.Module], Score]
"""Scores a network in evaluation mode on the training device; called in every process."""


class Trainer:
    """Trains a network through one stage.

    Args:
        fabric: launched; its precision is the stage's.
        model: with its start weights; modified.
        plan: plan of the stage.
        folder: folder of the stage.
        description: everything that the result depends on, as plain values; a checkpoint with
            another description is refused.
        name_images: step → images of its batch, for messages.
        validate: scores a network; needed if the stage validates.
        extra_loss: an additional term of the loss.
    """

    def __init__(
        self,
        *,
        fabric: Fabric,
        model: nn.Module,
        plan: StagePlan,
        folder: StageFolder,
        description: Mapping[str, Any],
        name_images: Callable[[int], Sequence[str]],
        validate: Validate | None = None,
        extra_loss: ExtraLoss | None = None,
    ) -> None:
        self.fabric, self.plan, self.folder = fabric, plan, folder
        self.config = plan.config
        self.description = dict(description)
        self.progress = StageProgress()
        self._name_images, self._validate, self._extra_loss = name_images, validate, extra_loss
        if fabric.world_size > 1:
            synchronise_norms(model)
        else:
            fuse_norms(model)
        # nn.Module.to is typed without a memory format together with a device
        model = model.to(fabric.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._plain_model = model
        optimizer = build_optimizer(model, self.config)
        self._model, self._optimizer = fabric.setup(model, optimizer)
        self._average = WeightAverage(model) if self.config.ema_decay else None
        self._log = StageLog(folder, plan, is_active=fabric.is_global_zero)

    @property
    def _scaler(self) -> GradScaler | None:
        precision = self.fabric.strategy.precision
        return precision.scaler if isinstance(precision, MixedPrecision) else None

    def restore(self) -> None:
        """Resume from the folder's checkpoint.

        Raises:
            CheckpointError: if it is damaged.
            UsageError: if it was made with other settings.
        """
        content = self.folder.load_checkpoint(self.description)
        self.progress = StageProgress(**content["progress"])
        self._plain_model.load_state_dict(content["model"])
        self._optimizer.load_state_dict(content["optimizer"])
        if self._average is not None:
            self._average.load(content["average"])
        if self._scaler is not None:
            self._scaler.load_state_dict(content["scaler"])
        logger.info("%s: resumed at step %d", self.config.name, self.progress.step)

    def run(self, make_batches: Callable[[int], Iterator[Batch]]) -> None:
        """Train to the end of the stage and write its result.

        Args:
            make_batches: first step → batches from there on to the end of the stage; this
                process's part of each.

        Raises:
            TrainingError: if a loss or gradient is NaN or infinite; the last checkpoint stays.
            OutputError: if the disk is full; the last checkpoint stays.
        """
        self._plain_model.train()
        if self.config.freeze_norm_statistics:
            freeze_statistics(self._plain_model)
        if self.progress.step < self.plan.n_steps and not self._is_out_of_patience:
            self._log.open(self.progress.step)
            try:
                batches: Any = make_batches(self.progress.step)
                # the generator ends its threads or processes when it is closed
                with closing(batches), self._stop_later() as stop:
                    self._train(batches, stop)
            finally:
                self._log.close()
        self._finish()

    def _stop_later(self) -> AbstractContextManager[StopLater | None]:
        """Signals wait for the end of a step, and of its validation.

        Not with several processes, as none knows the progress of the others.
        """
        return StopLater() if self.fabric.world_size == 1 else nullcontext()

    def _train(self, batches: Iterator[Batch], stop: StopLater | None) -> None:
        progress = self.progress
        is_shown = self.fabric.is_global_zero and sys.stderr.isatty()
        with tqdm(
            total=self.plan.n_steps,
            initial=progress.step,
            desc=self.config.name,
            unit="step",
            disable=not is_shown,
        ) as bar:
            started = time.perf_counter()
            for batch in batches:
                waited_s = time.perf_counter() - started
                losses, rate, norm = self._do_step(batch)
                seconds = time.perf_counter() - started
                progress.step += 1
                progress.seconds += seconds
                self._log.add_step(
                    progress.step, losses, rate, norm, (seconds, waited_s), self._images_per_s
                )
                bar.update()
                bar.set_postfix(loss=f"{losses[0]:.4f}", refresh=False)
                self._validate_and_save()
                if stop is not None:
                    stop.obey(self._save_and_tell)
                if self._is_out_of_patience:
                    logger.info(
                        "%s: no improvement in %d validations, stopped at step %d of %d",
                        *(self.config.name, progress.n_without_gain, progress.step),
                        self.plan.n_steps,
                    )
                    break
                started = time.perf_counter()

    @property
    def _is_out_of_patience(self) -> bool:
        return 0 < self.config.patience <= self.progress.n_without_gain

    def _do_step(self, batch: Batch) -> tuple[list[float], float, float]:
        """One optimiser step; returns the three losses, the learning rate and gradient norm."""
        step, plan = self.progress.step, self.plan
        rate = compute_learning_rate(self.config, step, plan.n_steps, plan.steps_per_epoch)
        set_learning_rate(self._optimizer, rate)
        torch.manual_seed((plan.seed * 1_000_003 + step) * 1024 + self.fabric.global_rank)
        self._optimizer.zero_grad()
        losses = self._compute_gradients(batch)
        losses = reduce_tensor(self.fabric, losses, "mean")
        norm = self.fabric.clip_gradients(
            self._model,
            self._optimizer,
            max_norm=self.config.max_gradient_norm or math.inf,
            error_if_nonfinite=False,
        )
        assert norm is not None
        values, norm_value = losses.tolist(), float(norm)
        self._check_finite(values, norm_value)
        self._optimizer.step()
        if self._average is not None:
            is_averaging = step + 1 > self.config.ema_from_step
            self._average.update(self._plain_model, self.config.ema_decay if is_averaging else 0.0)
        return values, rate, norm_value

    def _compute_gradients(self, batch: Batch) -> Tensor:
        """Add up the gradients of the parts of a batch; returns ``(3,)`` mean losses."""
        n_parts = self.config.accumulate
        losses = torch.zeros(3, device=self.fabric.device)
        parts = list(_cut(batch, n_parts))
        for index, (part, weight) in enumerate(zip(parts, self._weigh(parts), strict=True)):
            on_device = part.to(self.fabric.device)
            with self.fabric.no_backward_sync(self._model, enabled=index < n_parts - 1):
                logits = self._model(on_device.inputs)
                loss = compute_loss(
                    logits,
                    on_device.foreground,
                    on_device.unit_flow,
                    on_device.has_labels,
                    flow_weight=self.config.flow_weight,
                )
                total = weight * loss.total
                if self._extra_loss is not None:
                    extra = self._extra_loss(self._model, on_device)
                    total = total if extra is None else total + extra / n_parts
                self.fabric.backward(total)
            terms = [total, weight * loss.cellprob, weight * loss.flow]
            losses += torch.stack(terms).detach()
        return losses

    def _weigh(self, parts: Sequence[Batch]) -> Tensor:
        """Weight of each part's mean: its share of the labelled crops; ``(n_parts,)``.

        The mean over processes of the weighted sums is then the mean over all labelled crops.
        """
        counts = torch.tensor([float(part.has_labels.sum()) for part in parts])
        counts = counts.to(self.fabric.device)
        n_labelled = reduce_tensor(self.fabric, counts.sum(), "sum")
        return counts * self.fabric.world_size / n_labelled.clamp(min=1)

    def _check_finite(self, losses: Sequence[float], norm: float) -> None:
        """Raise TrainingError for values that are not finite; float16 may skip some steps."""
        has_loss, progress = all(map(math.isfinite, losses)), self.progress
        if has_loss and math.isfinite(norm):
            progress.n_skipped = 0
            return
        progress.n_skipped += 1
        if has_loss and self._scaler is not None and progress.n_skipped <= _MAX_SKIPPED:
            return
        raise TrainingError(
            f"stage {self.config.name}, step {progress.step + 1}: loss {losses[0]}, gradient norm"
            f" {norm} on the images {', '.join(self._name_images(progress.step))}; expected finite"
            " numbers; lower the learning rate, use bfloat16 or float32 instead of float16, or"
            " check these images, then resume from the last checkpoint"
        )

    @property
    def _images_per_s(self) -> float:
        return self.progress.step * self.config.batch_size / max(self.progress.seconds, 1e-9)

    def _validate_and_save(self) -> None:
        """Validate and write a checkpoint if they are due."""
        step, plan = self.progress.step, self.plan
        is_last = step == plan.n_steps
        if (plan.validate_every and step % plan.validate_every == 0) or (
            is_last and self.config.select != "last"
        ):
            self._score()
        if is_last or step % plan.checkpoint_every == 0 or self._is_out_of_patience:
            self._save()

    def _score(self) -> None:
        assert self._validate is not None, "a stage that validates is given a function for it"
        progress = self.progress
        score = self._validate(self._make_result_model())
        if score.value > progress.best_value:
            progress.best_value, progress.best_step = score.value, progress.step
            progress.n_without_gain = 0
            if self.fabric.is_global_zero and self.config.select != "last":
                save_state(self._result_state(), self.folder.best_path)
        elif progress.best_value > 0:  # before the first correct cell there is nothing to lose
            progress.n_without_gain += 1
        progress.last_validated = progress.step
        self._log.add_score(score, progress)

    def _make_result_model(self) -> nn.Module:
        model = copy.deepcopy(self._plain_model)
        model.load_state_dict(self._result_state())
        return model.eval().requires_grad_(False)

    def _result_state(self) -> dict[str, Tensor]:
        return self._average.state if self._average else self._plain_model.state_dict()

    def _save(self) -> None:
        if not self.fabric.is_global_zero:
            return
        self._log.flush()
        scaler = self._scaler
        self.folder.save_checkpoint(
            {
                "description": self.description,
                "progress": asdict(self.progress),
                "model": self._plain_model.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "average": self._average.state if self._average else {},
                "scaler": scaler.state_dict() if scaler is not None else {},
            }
        )

    def _save_and_tell(self) -> None:
        self._save()
        logger.info(
            "%s: saved at step %d of %d; --resume continues from there",
            *(self.config.name, self.progress.step, self.plan.n_steps),
        )

    def _finish(self) -> None:
        """Write the result, then the summary, then remove the checkpoint."""
        peaks = peak_memory_bytes(
            torch.cuda.max_memory_allocated(self.fabric.device)
            if self.fabric.device.type == "cuda"
            else None
        )
        if self.fabric.is_global_zero:
            folder, progress = self.folder, self.progress
            if self.config.select == "last":
                save_state(self._result_state(), folder.weights_path)
            else:
                write_bytes(folder.weights_path, folder.best_path.read_bytes())
            summary = {
                "description": self.description,
                "n_steps": progress.step,
                "best_step": progress.best_step,
                "best_value": progress.best_value if progress.best_step else None,
                "seconds": round(progress.seconds, 3),
                "images_per_s": round(self._images_per_s, 3),
                "peak_memory_bytes": peaks,
                "device": str(self.fabric.device),
                "n_processes": self.fabric.world_size,
            }
            write_json(folder.summary_path, summary)
            remove_result(folder.checkpoint_path)
            remove_result(folder.best_path)
            logger.info(
                "%s: done, %d steps, %.1f images/s, peak memory %s",
                *(self.config.name, progress.step, self._images_per_s),
                ", ".join(f"{key} {value / 2**30:.2f} GiB" for key, value in peaks.items()),
            )
        self.fabric.barrier()


def _cut(batch: Batch, n_parts: int) -> Iterator[Batch]:
    """Cut a batch into parts of equal size."""
    n_crops = len(batch.image_ids)
    if n_crops % n_parts:
        raise UsageError(
            f"accumulate: found {n_parts} parts for the {n_crops} crops of one process, expected a"
            " divisor; change accumulate, batch_size or the number of processes"
        )
    size = n_crops // n_parts
    for first in range(0, n_crops, size):
        yield batch.select(slice(first, first + size))
