"""Progress of a stage: CSV rows, TensorBoard, and log lines."""

import logging
from collections.abc import Sequence
from typing import Any, Final

from mediar_infer.training.stages.progress import Score, StagePlan, StageProgress
from mediar_infer.training.stages.run_folder import (
    LOG_COLUMNS,
    VALIDATION_COLUMNS,
    CsvLog,
    StageFolder,
)

logger = logging.getLogger(__name__)

_LOG_EVERY: Final = 20


class StageLog:
    """Records and reports the results of steps and validations.

    Args:
        folder: folder of the stage.
        plan: plan of the stage.
        is_active: only one of several processes reports.
    """

    def __init__(self, folder: StageFolder, plan: StagePlan, *, is_active: bool) -> None:
        self._folder, self._plan, self._is_active = folder, plan, is_active
        self._steps = CsvLog(folder.log_path, LOG_COLUMNS)
        self._validations = CsvLog(folder.validation_path, VALIDATION_COLUMNS)
        self._writer: Any = None

    def open(self, step: int) -> None:
        """Start after ``step`` steps; later entries in TensorBoard are dropped."""
        if not self._is_active:
            return
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self._folder.tensorboard_path), purge_step=step + 1)

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self._writer is not None:
            self._writer.close()

    def flush(self) -> None:
        """Write the rows of all steps up to a checkpoint.

        Raises:
            OutputError: if the folder is full or locked; the rows are kept.
        """
        if self._is_active:
            self._steps.flush()

    def add_step(
        self,
        step: int,
        losses: Sequence[float],
        rate: float,
        norm: float,
        times_s: tuple[float, float],
        images_per_s: float,
    ) -> None:
        """Record a step; report every twentieth and the last.

        Args:
            step: number of steps done.
            losses: total, cell probability, flow.
            rate: learning rate.
            norm: of the gradients.
            times_s: seconds of the step, and the part spent waiting for its batch.
            images_per_s: crops per second since the stage began.

        Raises:
            OutputError: if the folder is full or locked.
        """
        if not self._is_active:
            return
        epoch = (step - 1) // self._plan.steps_per_epoch
        rounded = [round(loss, 6) for loss in losses]
        times = [round(seconds, 4) for seconds in times_s]
        self._steps.add((step, epoch, *rounded, f"{rate:.6e}", round(norm, 4), *times))
        if step % _LOG_EVERY and step != self._plan.n_steps:
            return
        if self._writer is not None:
            for name, loss in zip(("total", "cellprob", "flow"), losses, strict=True):
                self._writer.add_scalar(f"loss/{name}", loss, step)
            self._writer.add_scalar("learning_rate", rate, step)
        self._steps.flush()
        logger.info(
            "%s %d/%d: loss %.4f (cellprob %.4f, flow %.4f), %.1f images/s",
            *(self._plan.config.name, step, self._plan.n_steps, *losses, images_per_s),
        )

    def add_score(self, score: Score, progress: StageProgress) -> None:
        """Record and report a validation.

        Args:
            score: its outcome.
            progress: of the stage, with this score among the best.

        Raises:
            OutputError: if the folder is full or locked.
        """
        if not self._is_active:
            return
        row = (progress.step, score.measure, round(score.value, 6), score.n_images)
        self._validations.add(row)
        self._validations.flush()
        if self._writer is not None:
            self._writer.add_scalar(f"validation/{score.measure}", score.value, progress.step)
        logger.info(
            "%s %d/%d: %s %.4f on %d images (best %.4f at step %d)",
            *(self._plan.config.name, progress.step, self._plan.n_steps),
            *(score.measure, score.value, score.n_images),
            *(progress.best_value, progress.best_step),
        )
