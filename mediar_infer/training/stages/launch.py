"""A prepared stage, trained in one process or in several that share every batch."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from mediar_infer.errors import TrainingError
from mediar_infer.process import keep_large_blocks
from mediar_infer.training.augmentation.loader import Batch, iterate_batches
from mediar_infer.training.data.cell_statistics import median_diameter
from mediar_infer.training.data.samples import SampleStore
from mediar_infer.training.data.table import TrainingImage
from mediar_infer.training.stages.fabric import build_fabric, reduce_tensor
from mediar_infer.training.stages.progress import Score, plan_stage
from mediar_infer.training.stages.run_folder import check_same, write_json
from mediar_infer.training.stages.scoring import build_segmenter, score_image, select_scored
from mediar_infer.training.stages.stage_job import StageJob
from mediar_infer.training.stages.start_weights import build_start
from mediar_infer.training.stages.trainer import Trainer

logger = logging.getLogger(__name__)


def run_stage(job: StageJob) -> None:
    """Train one stage, unless it is already finished.

    Raises:
        UsageError: if it was made with other settings.
        TrainingError: if a loss or gradient becomes NaN or infinite, or a process dies.
        OutputError: if the disk is full; the last checkpoint stays.
    """
    folder, config = job.folder, job.config
    folder.remove_leftovers()
    summary = folder.read_summary()
    if summary is not None:
        check_same(folder.summary_path, summary["description"], job.description)
        logger.info("%s: already finished", config.name)
        _note_cell_size(job)
        return
    if folder.checkpoint_path.exists():
        logger.info("%s: resumes from %s", config.name, folder.checkpoint_path)
    fabric = build_fabric(job.execution.device, job.execution.processes, config.precision)
    logger.info(
        "%s, %s: %d images to train on, %s, seed %d, %s on %d × %s",
        *(job.recipe.name, config.name, len(job.records)),
        f"{len(job.scored)} to validate on" if job.scored else "no validation",
        *(job.seed, config.precision, job.execution.processes, fabric.device.type),
    )
    try:
        # Bound, because Fabric walks through arguments and rejects frozen dataclasses
        fabric.launch(partial(_work, job=job))
    except ProcessRaisedException as error:
        # the last line of the other process's traceback is its error
        message = error.msg.strip().splitlines()[-1]
        raise TrainingError(f"process {error.error_index}: {message}") from error
    except ProcessExitedException as error:
        raise TrainingError(
            f"process {error.error_index} ended by {error.signal_name or error.exit_code},"
            " expected it to train; check for lack of memory, then resume"
        ) from error
    _note_cell_size(job)


def _note_cell_size(job: StageJob) -> None:
    """Add the typical size of the training cells to the summary of a finished stage."""
    summary = job.folder.read_summary()
    if summary is None or "cell_diameter" in summary:
        return
    paths = [job.label_paths.get(record.image_id, record.label_path) for record in job.records]
    diameter = median_diameter(path for path in paths if path is not None)
    write_json(job.folder.summary_path, summary | {"cell_diameter": diameter})


def _work(fabric: Fabric, job: StageJob) -> None:
    """Train one stage; runs in every process."""
    if fabric.world_size > 1:
        from mediar_infer.cli import set_up_logging

        set_up_logging(job.log_level if fabric.is_global_zero else logging.ERROR)
        keep_large_blocks()  # this process is ours
        job.execution.limit_threads()
    config = job.config
    plan = plan_stage(config, job.sampler.epoch_size, job.seed)
    store = SampleStore(
        job.records, cache_bytes=job.recipe.data.cache_bytes, label_paths=job.label_paths
    )

    def name_images(step: int) -> list[str]:
        return [job.records[draw.index].image_id for draw in job.sampler(step)]

    def make_batches(first_step: int) -> Iterator[Batch]:
        return iterate_batches(
            store,
            job.sampler,
            config.augmentation,
            crop_size=config.crop_size,
            seed=job.seed,
            first_step=first_step,
            n_steps=plan.n_steps - first_step,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
            n_workers=job.recipe.data.workers,
        )

    trainer = Trainer(
        fabric=fabric,
        model=build_start(job.recipe, config, job.run_path),
        plan=plan,
        folder=job.folder,
        description=job.description,
        name_images=name_images,
        validate=_Validation(fabric, job.scored, _measure(job)) if job.scored else None,
        extra_loss=job.extra_loss,
    )
    if job.folder.checkpoint_path.exists():
        trainer.restore()
    trainer.run(make_batches)


def _measure(job: StageJob) -> str:
    return "f1" if job.scored[0].label_path else "count"


@dataclass(frozen=True, slots=True)
class _Validation:
    """Scores a network on images; each process scores a part of them."""

    fabric: Fabric
    records: Sequence[TrainingImage]
    measure: str

    def __call__(self, model: nn.Module) -> Score:
        mine = self.records[self.fabric.global_rank :: self.fabric.world_size]
        segmenter = build_segmenter(model, self.fabric.device)
        scores = [score_image(segmenter, record) for record in mine]
        is_mean = self.measure == "f1"
        values = (
            [score.f1 for score in select_scored(scores)]
            if is_mean
            else [score.n_cells for score in scores]
        )
        sums = torch.tensor(
            [float(sum(values)), len(values)], dtype=torch.float64, device=self.fabric.device
        )
        total, n_images = reduce_tensor(self.fabric, sums, "sum").tolist()
        value = total / max(n_images, 1) if is_mean else total
        return Score(self.measure, value, int(n_images))
