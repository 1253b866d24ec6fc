"""What one stage needs: its images, clusters, new labels, start weights and sampling order."""

import hashlib
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mediar_infer.errors import UsageError
from mediar_infer.network.weight_files import compute_digest
from mediar_infer.training.data.csv_files import encode_text
from mediar_infer.training.data.digests import digest_file
from mediar_infer.training.data.table import TrainingImage, select_records
from mediar_infer.training.stages.discovery import CLUSTERS_NAME, discover, find_earlier
from mediar_infer.training.stages.execution import Execution
from mediar_infer.training.stages.recipe import Recipe
from mediar_infer.training.stages.relabelling import relabel_for_stage
from mediar_infer.training.stages.run_folder import StageFolder
from mediar_infer.training.stages.sampling import StepSampler, build_sampler, read_clusters
from mediar_infer.training.stages.stage_config import StageConfig
from mediar_infer.training.stages.start_weights import find_stage_weights, find_start
from mediar_infer.training.stages.trainer import ExtraLoss

logger = logging.getLogger(__name__)

_SEED_STEP: Final = 1000


@dataclass(frozen=True, slots=True)
class StageJob:
    """Everything that a process needs for one stage; picklable."""

    recipe: Recipe
    """The recipe that the stage is from."""
    config: StageConfig
    """The stage."""
    seed: int
    """Of everything random in the stage."""
    run_path: Path
    """Folder of the run."""
    records: Sequence[TrainingImage]
    """Images that it trains on."""
    scored: Sequence[TrainingImage]
    """Images on which it is validated; empty if it is not."""
    sampler: StepSampler
    """Which images each step takes."""
    label_paths: Mapping[str, Path]
    """Image id → labels in place of the image's own, where a prediction replaced them."""
    description: Mapping[str, Any]
    """Everything that the result depends on, as plain values."""
    execution: Execution
    """Where and how to compute."""
    log_level: int
    """Least level of log lines in processes that are started for the stage."""
    extra_loss: ExtraLoss | None = None
    """Additional term of the loss."""

    @property
    def folder(self) -> StageFolder:
        """Folder of the stage."""
        return StageFolder(self.run_path / self.config.name)


def prepare_stage(
    recipe: Recipe,
    config: StageConfig,
    records: Sequence[TrainingImage],
    run_path: Path,
    *,
    execution: Execution,
    clusters_path: Path | None = None,
    extra_loss: ExtraLoss | None = None,
) -> StageJob:
    """Find images, clusters, labels and start weights of a stage; clusters and labels are created.

    Args:
        recipe: the stage's recipe.
        config: the stage.
        records: the data table.
        run_path: folder of the run.
        execution: where and how to compute.
        clusters_path: cluster table to use for an amplified stage, instead of one in the run.
        extra_loss: additional term of the loss; picklable.

    Raises:
        UsageError: if images, clusters or an earlier stage are missing.
        CheckpointError: if start weights are missing.
        ImageReadError: if a label file is missing.
    """
    _warn_of_unknown_sources(config, {record.source for record in records})
    seed = recipe.seed + _SEED_STEP * recipe.stages.index(config)
    roles = {*config.roles, *config.memory_roles}
    seen = [record for record in records if record.source not in config.exclude_sources]
    chosen = select_records(seen, roles, "train")
    clusters: Mapping[str, int] = {}
    label_paths: Mapping[str, Path] = {}
    if config.sampling == "amplified":
        clusters = (
            read_clusters(clusters_path)
            if clusters_path
            else _discover(recipe, config, records, run_path, execution.device)
        )
    if config.relabelled:
        label_paths = _relabel(recipe, config, records, run_path, execution.device)
    sampler = build_sampler(chosen, config, seed, clusters)
    start_path = find_start(config.start, run_path)
    scored = _find_scored(config, seen)
    return StageJob(
        recipe=recipe,
        config=config,
        seed=seed,
        run_path=run_path,
        records=chosen,
        scored=scored,
        sampler=sampler,
        label_paths=label_paths,
        description={
            **_describe_settings(recipe, config, seed, start_path),
            "images": _digest_images(chosen, label_paths),
            "scored": _digest_images(scored, {}) if config.select != "last" else "",
            "clusters": _digest(f"{name} {number}" for name, number in sorted(clusters.items())),
        },
        execution=execution,
        log_level=logging.getLogger("mediar_infer").getEffectiveLevel(),
        extra_loss=extra_loss,
    )


def _warn_of_unknown_sources(config: StageConfig, known: Collection[str]) -> None:
    for key, names in (
        ("exclude_sources", config.exclude_sources),
        ("true_colour_sources", config.true_colour_sources),
        ("source_factors", config.factor_of_source),
    ):
        for name in names:
            if name not in known:
                logger.warning(
                    "stage %s, %s: found no image of source %r in the table, so that it changes"
                    " nothing; the sources are %s",
                    *(config.name, key, name, ", ".join(sorted(filter(None, known))) or "unknown"),
                )


def _describe_settings(
    recipe: Recipe, config: StageConfig, seed: int, start_path: Path | None
) -> dict[str, Any]:
    """What the result depends on besides images and clusters, as plain values."""
    plain = recipe.to_plain()
    return {
        "model": plain["model"],
        "stage": plain["stages"][recipe.stages.index(config)],
        "seed": seed,
        "start": compute_digest(start_path) if start_path else config.start,
    }


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256(encode_text("\n".join(lines))).hexdigest()


def _digest_images(records: Sequence[TrainingImage], label_paths: Mapping[str, Path]) -> str:
    """Digest of images and labels, which are read: they may have been corrected since ``index``."""
    lines = []
    for record in records:
        path = label_paths.get(record.image_id, record.label_path)
        facts = (record.image_id, record.role, record.digest, record.n_cells)
        lines.append(" ".join(map(str, (*facts, digest_file(path) if path else ""))))
    return _digest(lines)


def _find_scored(config: StageConfig, records: Sequence[TrainingImage]) -> list[TrainingImage]:
    """Images on which the stage is validated; empty if it is not."""
    if config.select == "last" and not config.validate_every:
        return []
    held_out = select_records(records, config.scored_roles, "val")
    if config.select == "count" or (config.select == "last" and not held_out):
        tuning = select_records(records, ("tuning",), "train")
        if not tuning:
            raise UsageError(
                f"stage {config.name}: found no tuning image to count cells on, expected one in the"
                ' table; index a folder with --role tuning, or set select = "last"'
            )
        return tuning
    if not held_out:
        raise UsageError(
            f"stage {config.name}: found no held-out image (split val) with one of the roles"
            f" {', '.join(config.scored_roles)}, expected one; index with --hold-out, or set"
            ' select = "last"'
        )
    return held_out


def _discover(
    recipe: Recipe,
    config: StageConfig,
    records: Sequence[TrainingImage],
    run_path: Path,
    device: str,
) -> Mapping[str, int]:
    """Cluster the images of an amplified stage, unless that is done: image → cluster."""
    how, folder = recipe.discovery, run_path / "discovery"
    if not how.from_stage and (folder / CLUSTERS_NAME).exists():
        return read_clusters(folder / CLUSTERS_NAME)
    weights = _need_stage(run_path, how.from_stage, config, "discovery")
    images = select_records(records, config.roles, "train")
    found = find_earlier(weights, images, folder, n_clusters=how.n_clusters, seed=recipe.seed)
    if found is not None:
        logger.info("%s: already clustered", folder)
        return found
    return discover(
        weights, images, folder, n_clusters=how.n_clusters, seed=recipe.seed, device=device
    )


def _relabel(
    recipe: Recipe,
    config: StageConfig,
    records: Sequence[TrainingImage],
    run_path: Path,
    device: str,
) -> Mapping[str, Path]:
    """Relabel the images of a stage: image → new label file."""
    weights = _need_stage(run_path, recipe.relabelling.from_stage, config, "relabelling")
    images = select_records(records, config.roles, "train")
    return relabel_for_stage(weights, images, recipe, run_path / "relabelled", device)


def _need_stage(run_path: Path, name: str, config: StageConfig, table: str) -> Path:
    if not name:
        raise UsageError(
            f"stage {config.name}: found no [{table}] from_stage, expected the stage whose network"
            " is used" + (", or a table of clusters (--clusters)" if table == "discovery" else "")
        )
    return find_stage_weights(run_path, name)
