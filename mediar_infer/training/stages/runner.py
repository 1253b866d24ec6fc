"""A recipe's stages in order: start weights, images, training, blends; finished ones are kept."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from mediar_infer.errors import TrainingError, UsageError
from mediar_infer.network.weight_files import compute_digest
from mediar_infer.process import keep_large_blocks
from mediar_infer.training.augmentation.loader import Batch, iterate_batches
from mediar_infer.training.data.samples import SampleStore
from mediar_infer.training.data.table import TrainingImage, select_records
from mediar_infer.training.stages.averaging import blend_weights
from mediar_infer.training.stages.fabric import build_fabric, reduce_tensor
from mediar_infer.training.stages.progress import Score, plan_stage
from mediar_infer.training.stages.recipe import Recipe
from mediar_infer.training.stages.run_folder import StageFolder, check_same, save_state, write_json
from mediar_infer.training.stages.sampling import StepSampler, build_sampler, read_clusters
from mediar_infer.training.stages.scoring import build_segmenter, score_image
from mediar_infer.training.stages.stage_config import StageConfig
from mediar_infer.training.stages.start_weights import build_start, find_stage_weights, find_start
from mediar_infer.training.stages.trainer import ExtraLoss, Trainer

logger = logging.getLogger(__name__)

CLUSTERS_NAME: Final = "clusters.csv"
"""Cluster table in the run folder's ``discovery/``."""
_SEED_STEP: Final = 1000


@dataclass(frozen=True, slots=True)
class Execution:
    """Where and how a run is computed; changes speed, not the result beyond rounding."""

    device: str = "auto"
    """As for inference."""
    n_processes: int = 1
    """Processes that share every batch; with CUDA one GPU each."""
    threads: int = 0
    """CPU threads per process; 0 leaves torch's choice."""
    resume: bool = False
    """Keep finished stages and go on with started ones; otherwise they are an error."""

    def limit_threads(self) -> None:
        """Let torch use so many threads in this process, for training and scoring."""
        if self.threads:
            torch.set_num_threads(self.threads)


Discover = Callable[[Path, Sequence[TrainingImage], Recipe, Path], Mapping[str, int]]
"""Weights of a stage, images, recipe, output folder → cluster of each image."""
Relabel = Callable[[Path, Sequence[TrainingImage], Recipe, Path], Mapping[str, Path]]
"""Weights of a stage, images, recipe, output folder → label files of relabelled images."""


@dataclass(frozen=True, slots=True)
class Preparations:
    """What some stages need beforehand; called when their turn comes, inside the run folder."""

    discover: Discover | None = None
    """Finds clusters for amplified sampling."""
    relabel: Relabel | None = None
    """Makes labels for stages with relabelled targets."""
    clusters_path: Path | None = None
    """A cluster table that is there already, used in place of ``discover``."""


@dataclass(frozen=True, slots=True)
class StageJob:
    """All that a process needs for one stage; picklable."""

    recipe: Recipe
    config: StageConfig
    seed: int
    run_path: Path
    records: Sequence[TrainingImage]
    scored: Sequence[TrainingImage]
    sampler: StepSampler
    label_paths: Mapping[str, Path]
    description: Mapping[str, Any]
    execution: Execution
    log_level: int
    extra_loss: ExtraLoss | None = field(default=None)

    @property
    def folder(self) -> StageFolder:
        """Folder of the stage."""
        return StageFolder(self.run_path / self.config.name)


def run_recipe(
    recipe: Recipe,
    records: Sequence[TrainingImage],
    run_path: Path,
    *,
    stage_names: Iterable[str] = (),
    execution: Execution | None = None,
    preparations: Preparations | None = None,
    extra_losses: Mapping[str, ExtraLoss] | None = None,
) -> dict[str, Path]:
    """Train stages of a recipe in order.

    Args:
        recipe: what to do.
        records: the data table; each stage takes the training images of its roles.
        run_path: folder of the run, made if absent.
        stage_names: only these stages; all by default.
        execution: where and how.
        preparations: what finds clusters and relabels targets, for stages that need it.
        extra_losses: stage → further term of its loss; picklable.

    Returns:
        Stage → its weights (float32 safetensors), and blend → its.

    Raises:
        UsageError: if the folder holds these stages already and is not to be resumed, if they were
            made with other settings, or if something that a stage needs is missing.
        CheckpointError: if start weights are missing or of another architecture.
        TrainingError: if a loss or gradient becomes NaN or infinite.
        OutputError: if the disk is full; the last checkpoint stays.
    """
    execution = execution or Execution()
    execution.limit_threads()
    preparations = preparations or Preparations()
    names = list(stage_names) or [stage.name for stage in recipe.stages]
    asked = [recipe.stage(name) for name in names]
    if not execution.resume:
        _check_unused(run_path, asked)
    write_json(
        run_path / "recipe.json",
        {"recipe": recipe.to_plain(), "n_images": len(records), "torch": str(torch.__version__)},
    )
    made: dict[str, Path] = {}
    for config in recipe.stages:
        if config.name in names:
            extra_loss = (extra_losses or {}).get(config.name)
            job = _prepare(recipe, config, records, run_path, execution, preparations, extra_loss)
            _run_stage(job)
            made[config.name] = job.folder.weights_path
    return made | make_blends(recipe, run_path)


def _check_unused(run_path: Path, stages: Iterable[StageConfig]) -> None:
    for config in stages:
        folder = StageFolder(run_path / config.name)
        if folder.is_started:
            raise UsageError(
                f"{folder.path}: found this stage finished or begun, expected an empty folder; go"
                " on with --resume, remove that folder, or choose another run folder"
            )


def make_blends(recipe: Recipe, run_path: Path) -> dict[str, Path]:
    """Average the results of stages, where both are finished.

    Returns:
        Blend → its file in the run folder.
    """
    made = {}
    for blend in recipe.blends:
        parts = [StageFolder(run_path / name) for name in (blend.first, blend.second)]
        if all(part.summary_path.exists() for part in parts):
            path = run_path / f"{blend.name}.safetensors"
            first, second = (load_file(part.weights_path) for part in parts)
            save_state(blend_weights(first, second, blend.share), path)
            made[blend.name] = path
    return made


def _prepare(
    recipe: Recipe,
    config: StageConfig,
    records: Sequence[TrainingImage],
    run_path: Path,
    execution: Execution,
    preparations: Preparations,
    extra_loss: ExtraLoss | None,
) -> StageJob:
    """Find images, clusters, labels and start weights of a stage."""
    index = recipe.stages.index(config)
    seed = recipe.seed + _SEED_STEP * index
    roles = {*config.roles, *config.memory_roles}
    seen = [record for record in records if record.source not in config.exclude_sources]
    chosen = select_records(seen, roles, "train")
    clusters = _find_clusters(recipe, config, records, run_path, preparations)
    label_paths = _find_labels(recipe, config, records, run_path, preparations)
    sampler = build_sampler(chosen, config, seed, clusters)
    start_path = find_start(config.start, run_path)
    description = {
        "model": recipe.to_plain()["model"],
        "stage": next(s for s in recipe.to_plain()["stages"] if s["name"] == config.name),
        "seed": seed,
        "start": compute_digest(start_path) if start_path else config.start,
        "images": _digest_images(chosen, label_paths),
        "clusters": _digest(
            f"{name} {number}" for name, number in sorted((clusters or {}).items())
        ),
    }
    return StageJob(
        recipe=recipe,
        config=config,
        seed=seed,
        run_path=run_path,
        records=chosen,
        scored=_find_scored(config, seen),
        sampler=sampler,
        label_paths=label_paths,
        description=description,
        execution=execution,
        log_level=logging.getLogger("mediar_infer").getEffectiveLevel(),
        extra_loss=extra_loss,
    )


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _digest_images(records: Sequence[TrainingImage], label_paths: Mapping[str, Path]) -> str:
    return _digest(
        f"{record.image_id} {record.role} {record.digest} {record.n_cells}"
        + (
            f" {compute_digest(label_paths[record.image_id])}"
            if record.image_id in label_paths
            else ""
        )
        for record in records
    )


def _find_scored(config: StageConfig, records: Sequence[TrainingImage]) -> list[TrainingImage]:
    """Images that the stage is validated on; none if it is not."""
    if config.select == "last" and not config.validate_every:
        return []
    held_out = select_records(records, config.scored_roles, "val")
    if config.select == "count" or (config.select == "last" and not held_out):
        tuning = select_records(records, ("tuning",), "train")
        if not tuning:
            raise UsageError(
                f"stage {config.name}: found no tuning image to count cells on, expected some in"
                ' the table; index a folder with --role tuning, or set select = "last"'
            )
        return tuning
    if not held_out:
        raise UsageError(
            f"stage {config.name}: found no held-out image (split val) with one of the roles"
            f" {', '.join(config.scored_roles)}, expected some; index with --hold-out, or set"
            ' select = "last"'
        )
    return held_out


def _find_clusters(
    recipe: Recipe,
    config: StageConfig,
    records: Sequence[TrainingImage],
    run_path: Path,
    preparations: Preparations,
) -> Mapping[str, int] | None:
    if config.sampling != "amplified":
        return None
    path = preparations.clusters_path or run_path / "discovery" / CLUSTERS_NAME
    if path.exists() or preparations.clusters_path or preparations.discover is None:
        return read_clusters(path)
    weights = _need_stage(run_path, recipe.discovery.from_stage, config, "discovery")
    images = select_records(records, config.roles, "train")
    return preparations.discover(weights, images, recipe, path.parent)


def _find_labels(
    recipe: Recipe,
    config: StageConfig,
    records: Sequence[TrainingImage],
    run_path: Path,
    preparations: Preparations,
) -> Mapping[str, Path]:
    if not config.relabelled:
        return {}
    if preparations.relabel is None:
        raise UsageError(
            f"stage {config.name}: found no way to relabel its targets, expected one; set"
            " relabelled = false"
        )
    weights = _need_stage(run_path, recipe.relabelling.from_stage, config, "relabelling")
    images = select_records(records, config.roles, "train")
    return preparations.relabel(weights, images, recipe, run_path / "relabelled")


def _need_stage(run_path: Path, name: str, config: StageConfig, table: str) -> Path:
    if not name:
        raise UsageError(
            f"stage {config.name}: found no [{table}] from_stage, expected the stage whose network"
            " is used" + (", or a table of clusters (--clusters)" if table == "discovery" else "")
        )
    return find_stage_weights(run_path, name)


def _run_stage(job: StageJob) -> None:
    """Train one stage, in one process or several."""
    folder, config = job.folder, job.config
    folder.remove_leftovers()
    summary = folder.read_summary()
    if summary is not None:
        check_same(folder.summary_path, summary["description"], job.description)
        logger.info("%s: finished already", config.name)
        return
    if folder.checkpoint_path.exists():
        logger.info("%s: goes on from %s", config.name, folder.checkpoint_path)
    fabric = build_fabric(job.execution.device, job.execution.n_processes, config.precision)
    logger.info(
        "%s, %s: %d images to train on, %d to validate on, seed %d, %s on %d × %s",
        *(job.recipe.name, config.name, len(job.records), len(job.scored), job.seed),
        *(config.precision, job.execution.n_processes, fabric.device.type),
    )
    try:
        # bound, as Fabric walks through arguments and takes no frozen dataclass
        fabric.launch(partial(_work, job=job))
    except ProcessRaisedException as error:
        # the last line of the other process's traceback is its error
        message = error.msg.strip().splitlines()[-1]
        raise TrainingError(f"process {error.error_index}: {message}") from error
    except ProcessExitedException as error:
        raise TrainingError(
            f"process {error.error_index} ended by {error.signal_name or error.exit_code},"
            " expected it to train; look for a lack of memory, then resume"
        ) from error


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
        fabric,
        build_start(job.recipe, config, job.run_path),
        plan,
        job.folder,
        job.description,
        name_images,
        _Validation(fabric, job.scored, _measure(job)) if job.scored else None,
        job.extra_loss,
    )
    if job.folder.checkpoint_path.exists():
        trainer.restore()
    trainer.run(make_batches)


def _measure(job: StageJob) -> str:
    return "f1" if job.scored[0].label_path else "count"


@dataclass(frozen=True, slots=True)
class _Validation:
    """Scores a network on images, each process its part of them."""

    fabric: Fabric
    records: Sequence[TrainingImage]
    measure: str

    def __call__(self, model: nn.Module) -> Score:
        mine = self.records[self.fabric.global_rank :: self.fabric.world_size]
        segmenter = build_segmenter(model, self.fabric.device)
        scores = [score_image(segmenter, record) for record in mine]
        values = [score.f1 if self.measure == "f1" else score.n_cells for score in scores]
        total = torch.tensor(float(sum(values)), dtype=torch.float64, device=self.fabric.device)
        value = float(reduce_tensor(self.fabric, total, "sum"))
        n_images = len(self.records)
        return Score(self.measure, value / n_images if self.measure == "f1" else value, n_images)
