"""A recipe's stages in order: start weights, images, training, blends; finished stages are kept."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from mediar_infer.errors import UsageError
from mediar_infer.training.data.table import TrainingImage
from mediar_infer.training.stages.averaging import blend_weights
from mediar_infer.training.stages.execution import Execution
from mediar_infer.training.stages.launch import run_stage
from mediar_infer.training.stages.recipe import Recipe
from mediar_infer.training.stages.run_folder import StageFolder, save_state, write_json
from mediar_infer.training.stages.stage_config import StageConfig
from mediar_infer.training.stages.stage_job import prepare_stage
from mediar_infer.training.stages.trainer import ExtraLoss


def run_recipe(
    recipe: Recipe,
    records: Sequence[TrainingImage],
    run_path: Path,
    *,
    execution: Execution,
    stage_names: Iterable[str] = (),
    clusters_path: Path | None = None,
    extra_losses: Mapping[str, ExtraLoss] | None = None,
) -> dict[str, Path]:
    """Train stages of a recipe in order.

    Args:
        recipe: the stages.
        records: the data table; each stage takes the training images of its roles.
        run_path: folder of the run, created if absent.
        execution: where and how to compute.
        stage_names: only these stages; all by default.
        clusters_path: cluster table of amplified stages; by default they are found by the recipe's
            ``[discovery]`` and kept in the run folder.
        extra_losses: stage → additional term of its loss; picklable.

    Returns:
        Stage → its weights (float32 safetensors), and blend → its weights.

    Raises:
        UsageError: if the folder holds these stages already without ``resume``, if they were made
            with other settings, or if something that a stage needs is missing.
        CheckpointError: if start weights are missing or of another architecture.
        TrainingError: if a loss or gradient becomes NaN or infinite.
        OutputError: if the disk is full; the last checkpoint stays.
    """
    execution.limit_threads()
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
            job = prepare_stage(
                recipe,
                config,
                records,
                run_path,
                execution=execution,
                clusters_path=clusters_path,
                extra_loss=(extra_losses or {}).get(config.name),
            )
            run_stage(job)
            made[config.name] = job.folder.weights_path
    return made | make_blends(recipe, run_path)


def _check_unused(run_path: Path, stages: Iterable[StageConfig]) -> None:
    for config in stages:
        folder = StageFolder(run_path / config.name)
        if folder.is_started:
            raise UsageError(
                f"{folder.path}: found a finished or started stage, expected an empty folder;"
                " continue with --resume, remove that folder, or choose another run folder"
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
