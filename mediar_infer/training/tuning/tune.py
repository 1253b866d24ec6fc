"""Fine-tuning on a user's own few images: safe by default, and rejected if it does not help.

A handful of images must not ruin a network that has seen thousands. Hence a small learning rate,
fixed BatchNorm statistics, clipped gradients, averaged weights, replayed memory if there are images
for it, a stop as soon as held-out images no longer improve, and a blend with the start weights
whose share is chosen on the held-out images.
"""

import logging
import shutil
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file

from mediar_infer.devices import select_device
from mediar_infer.errors import UsageError
from mediar_infer.labels.metrics import evaluate_labels
from mediar_infer.labels.reading import read_labels
from mediar_infer.network.checkpoints import Checkpoint, build_model, load_checkpoint
from mediar_infer.network.weight_files import find_weights
from mediar_infer.output_files import remove_result, to_output_error
from mediar_infer.training.data.index import Index, IndexOptions, index_folders
from mediar_infer.training.data.problems import log_problems, write_problems
from mediar_infer.training.data.table import (
    Role,
    TrainingImage,
    read_table,
    select_records,
    write_table,
)
from mediar_infer.training.export import check_output, export_weights
from mediar_infer.training.stages.averaging import blend_weights
from mediar_infer.training.stages.recipe import Recipe
from mediar_infer.training.stages.recipe_files import find_recipe, read_recipe
from mediar_infer.training.stages.run_folder import StageFolder, save_state, write_json
from mediar_infer.training.stages.runner import run_recipe
from mediar_infer.training.stages.scoring import compute_mean_f1, score_weights
from mediar_infer.training.tuning.blends import (
    BlendJudge,
    ScoredBlend,
    choose,
    describe_blend,
    score_memory,
)
from mediar_infer.training.tuning.options import TuneOptions

logger = logging.getLogger(__name__)

SHARES: Final = (0.25, 0.5, 0.75, 1.0)
"""Shares of the tuned weights that are tried in the blend with the start weights."""
_MAX_SHARE_WITH_MEMORY: Final = 0.75
"""With a memory, part of the start weights is always kept: no memory covers all that a network
knows (Wortsman et al., "Robust fine-tuning of zero-shot models", 2022)."""
_MEMORY_SHARE: Final = 2
"""One crop in this many is a replayed one: ten images need few crops, the memory needs more."""
_CANDIDATES_NAME: Final = "candidates.json"
"""In the run folder: scores of all blends; written last, so it also marks the end."""
_CHOSEN_NAME: Final = "chosen.safetensors"


@dataclass(frozen=True, slots=True)
class Tuning:
    """Outcome of a fine-tuning."""

    start_path: Path
    """Weights that it started from."""
    start: ScoredBlend
    """Scores of these."""
    candidates: tuple[ScoredBlend, ...]
    """The blends that were tried."""
    chosen: ScoredBlend
    """The one that was written."""
    written: tuple[Path, ...]
    """Files that were written."""


def tune(folder: Path, output: Path, options: TuneOptions) -> Tuning:
    """Fine-tune a model on a folder of labelled images.

    Args:
        folder: images with ``NAME_label.tiff`` beside them, or ``images/`` and ``labels/``, or a
            manifest, whose labelled images are all tuned on, whatever role it gives them.
        output: ``NAME.safetensors``, for ``predict --weights``; its run is kept in ``NAME.run``.
        options: start, memory, length.

    Returns:
        What was tried and written.

    Raises:
        UsageError: if there are fewer than two usable images, or if an interrupted tuning exists
            and is not resumed, or is resumed with other images.
        TrainingError: if the tuned weights are no better on the held-out images than the start;
            nothing is written then.
        CheckpointError: if start weights cannot be read, or the output is refused.
    """
    options.execution.limit_threads()
    check_output(output, replaces=options.replaces)
    run_path = output.with_suffix(".run")
    recipe = read_recipe(find_recipe(options.recipe))
    stage_folder = StageFolder(run_path / recipe.stages[-1].name)
    if not options.execution.resume:
        _refuse_interrupted(run_path, stage_folder)
    records = _find_images(folder, run_path, options)
    memory = _find_memory(options, {record.digest for record in records})
    _write_images([*records, *memory], run_path / "table.csv", options)
    device = select_device(options.execution.device).to_torch()
    start = _choose_start(options.weights, select_records(records, ("target",), "train"), device)
    recipe = _adapt(recipe, start, options, has_memory=bool(memory))
    if not options.execution.resume:
        _remove_earlier(run_path, stage_folder)
    made = run_recipe(recipe, [*records, *memory], run_path, execution=options.execution)
    tuned = load_file(made[recipe.stages[-1].name])
    judge = BlendJudge(start, tuned, device, records, memory)
    first = ScoredBlend(0.0, judge.score(0.0), judge.score_memory(0.0))
    candidates = _score_blends(judge, first, options.max_loss, has_memory=bool(memory))
    write_json(run_path / _CANDIDATES_NAME, [asdict(each) for each in (first, *candidates)])
    chosen = choose(first, candidates, options.max_loss)
    chosen_path = run_path / _CHOSEN_NAME
    save_state(blend_weights(start.state_dict, tuned, chosen.share), chosen_path)
    written = export_weights(
        chosen_path,
        output,
        replaces=options.replaces,
        has_graph=options.has_graph,
        flow_threshold=start.flow_threshold,
    )
    return Tuning(start.path, first, tuple(candidates), chosen, tuple(written))


def _score_blends(
    judge: BlendJudge, start: ScoredBlend, max_loss: float, *, has_memory: bool
) -> list[ScoredBlend]:
    """Score the blends of all shares, on the memory too as far as the choice needs it."""
    blends = []
    for share in SHARES:
        if not has_memory or share <= _MAX_SHARE_WITH_MEMORY:
            blends.append(ScoredBlend(share, judge.score(share), None))
            logger.info("%s", describe_blend(blends[-1]))
    return score_memory(start, blends, max_loss, judge.score_memory)


def _index(folder: Path, role: Role, options: TuneOptions) -> Index:
    """Index a folder, and log its problems."""
    index = index_folders(
        [folder],
        (),
        IndexOptions(
            role=role, hold_out=options.hold_out, accept_predictions=options.accept_predictions
        ),
    )
    log_problems(index.problems)
    return index


def _find_images(folder: Path, run_path: Path, options: TuneOptions) -> list[TrainingImage]:
    """The user's labelled images, as role target, at least one of them held out.

    Raises:
        UsageError: if there are too few to train on and to hold out.
    """
    index = _index(folder, "target", options)
    write_problems(index.problems, run_path / "problems.csv")
    # A manifest may call them public, as one of a converted set does.
    records = [
        replace(record, role="target") for record in index.records if record.label_path is not None
    ]
    n_unused = len(index.records) - len(records)
    if n_unused:
        logger.info(
            "%s: %d of %d images have no labels in their role; they are not used",
            *(folder, n_unused, len(index.records)),
        )
    n_different = len({record.digest for record in records})
    if n_different < 2:
        raise UsageError(
            f"{folder}: found {n_different} usable labelled images, expected at least two, one of"
            f" them to hold out; copies count once; see {run_path / 'problems.csv'}"
        )
    if not select_records(records, ("target",), "train"):
        raise UsageError(
            f"{folder}: found {len(records)} images, all of them held out (split val in the"
            " manifest), expected at least one to train on; leave split empty for some"
        )
    if not any(map(_can_score, select_records(records, ("target",), "val"))):
        records = _hold_out_one(records, folder)
    held_out = [record.image_id for record in select_records(records, ("target",), "val")]
    logger.info(
        "%s: %d images to train on, held out: %s",
        *(folder, len(records) - len(held_out), ", ".join(held_out)),
    )
    return records


def _hold_out_one(records: list[TrainingImage], folder: Path) -> list[TrainingImage]:
    """Hold out the image with a medium number of cells alone: the fraction gives none to score."""
    ordered = sorted(
        filter(_can_score, records), key=lambda record: (record.n_cells, record.image_id)
    )
    if not ordered:
        raise UsageError(
            f"{folder}: found no image with a cell away from the border, expected one to hold out:"
            " cells that touch the border are not scored; add a larger image"
        )
    chosen = ordered[len(ordered) // 2].digest
    return [
        replace(record, split="val" if record.digest == chosen else "train") for record in records
    ]


def _can_score(record: TrainingImage) -> bool:
    """Whether a labelled cell counts in the score: one that does not touch the border."""
    if record.label_path is None:
        return False
    labels = read_labels(record.label_path)
    return evaluate_labels(labels, labels)[0].n_true > 0


def _refuse_interrupted(run_path: Path, folder: StageFolder) -> None:
    """Refuse to overwrite an interrupted tuning; a finished one may be replaced."""
    if folder.is_started and not (run_path / _CANDIDATES_NAME).exists():
        raise UsageError(
            f"{folder.path}: found an interrupted tuning, expected none; continue with --resume,"
            " or remove that folder to restart"
        )


def _remove_earlier(run_path: Path, folder: StageFolder) -> None:
    """Remove what an earlier tuning, which is replaced, left in its run.

    Raises:
        OutputError: if something cannot be removed.
    """
    for name in (_CANDIDATES_NAME, _CHOSEN_NAME):
        remove_result(run_path / name)
    if folder.path.exists():
        try:
            shutil.rmtree(folder.path)
        except OSError as error:
            raise to_output_error(folder.path, error) from error


def _write_images(records: list[TrainingImage], path: Path, options: TuneOptions) -> None:
    is_resumed = options.execution.resume and path.is_file()
    earlier = read_table(path) if is_resumed else records
    if list(map(_identify, earlier)) != list(map(_identify, records)):
        raise UsageError(
            f"{path}: found other images or another hold-out than now, expected the same ones to"
            " continue; give the same folder, --memory and --hold-out, or restart: remove"
            f" {path.parent}"
        )
    write_table(records, path)


def _identify(record: TrainingImage) -> tuple[object, ...]:
    return record.image_id, record.role, record.split, record.digest, record.n_cells


def _find_memory(options: TuneOptions, known: Collection[str]) -> list[TrainingImage]:
    """Labelled images of the memory, as role public, under separate names.

    Without the images of the digests ``known``: the user's own, which may be held out.
    """
    path = options.memory
    if path is None:
        return []
    listed = read_table(path) if path.is_file() else _index(path, "public", options).records
    found = [record for record in listed if record.label_path is not None]
    records = [
        replace(record, image_id=f"memory:{record.image_id}", role="public")
        for record in found
        if record.digest not in known
    ]
    n_shared = len(found) - len(records)
    if n_shared:
        logger.warning(
            "%s: %d of %d images are among those to tune on; they are no part of the memory",
            *(path, n_shared, len(found)),
        )
    _check_memory(path, records, n_shared)
    return records


def _check_memory(path: Path, records: Sequence[TrainingImage], n_shared: int) -> None:
    """Refuse a memory with nothing to replay; warn of one that cannot be scored.

    Args:
        path: the memory's folder or data table.
        records: its labelled images.
        n_shared: images of the memory that are left out, as they are tuned on.
    """
    if not select_records(records, ("public",), "train"):
        expected = (
            "of split train" if path.is_file() else "with NAME_label.tiff beside each; see above"
        )
        raise UsageError(
            f"{path}: found no labelled image to replay"
            + (f" besides {n_shared} of those to tune on" if n_shared else "")
            + f", expected one {expected}; or omit --memory"
        )
    if not select_records(records, ("public",), "val"):
        logger.warning(
            "%s: none of the %d images is held out, so that what is forgotten is not measured and"
            " --max-loss has no effect; add images, or hold some out (split val)",
            *(path, len(records)),
        )


def _choose_start(
    given: Sequence[Path], records: Sequence[TrainingImage], device: torch.device
) -> Checkpoint:
    """Choose the better model of a pair on images that it has not been trained on."""
    checkpoints = [load_checkpoint(path) for path in find_weights(given)]
    if len(checkpoints) == 1:
        return checkpoints[0]
    scores = []
    for checkpoint in checkpoints:
        model = build_model(checkpoint).to(device)
        found = score_weights(model, records, flow_threshold=checkpoint.flow_threshold)
        scores.append(compute_mean_f1(found))
        logger.info(
            "%s: F1 %.4f on the training images before tuning", checkpoint.path.name, scores[-1]
        )
    best = checkpoints[scores.index(max(scores))]
    logger.info("tuning starts from %s", best.path)
    return best


def _adapt(recipe: Recipe, start: Checkpoint, options: TuneOptions, *, has_memory: bool) -> Recipe:
    stage = replace(recipe.stages[-1], start=f"weights:{start.path}")
    if options.steps:
        stage = replace(stage, steps=options.steps, epochs=0.0)
    if has_memory:
        stage = replace(
            stage,
            memory_roles=("public",),
            memory_per_batch=max(1, stage.batch_size // _MEMORY_SHARE),
            memory_sampling="balanced",
        )
    model = recipe.model.with_architecture(start.architecture)
    return replace(recipe, model=model, stages=(stage,), blends=())
