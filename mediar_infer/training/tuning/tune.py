"""Fine-tuning on a user's own few images: safe by default, and refused if it does not help.

What keeps a handful of images from ruining a network that has seen thousands: a small learning
rate, BatchNorm statistics that stay as they are, clipped gradients, averaged weights, replayed
memory where there are images for it, an end as soon as held-out images no longer improve, and a
blend with the start weights whose share is chosen on the held-out images.
"""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file
from torch import Tensor

from mediar_infer.devices import select_device
from mediar_infer.errors import TrainingError, UsageError
from mediar_infer.network.checkpoints import Checkpoint, build_model, load_checkpoint
from mediar_infer.network.model import MediarFormer
from mediar_infer.network.weight_files import find_weights
from mediar_infer.training.data.index import Index, IndexOptions, index_folders
from mediar_infer.training.data.problems import log_problems, write_problems
from mediar_infer.training.data.table import (
    LABELLED_ROLES,
    TrainingImage,
    read_table,
    select_records,
    write_table,
)
from mediar_infer.training.export import check_output, export_weights
from mediar_infer.training.stages.averaging import blend_weights
from mediar_infer.training.stages.recipe import Recipe, find_recipe, read_recipe
from mediar_infer.training.stages.run_folder import StageFolder, save_state, write_json
from mediar_infer.training.stages.runner import Execution, run_recipe
from mediar_infer.training.stages.scoring import compute_mean_f1, score_weights

logger = logging.getLogger(__name__)

SHARES: Final = (0.25, 0.5, 0.75, 1.0)
"""Shares of the tuned weights that are tried in the blend with the start weights."""
_MAX_SHARE_WITH_MEMORY: Final = 0.75
"""Where something is to be kept, a part of the start is: no memory shows all that a network knows
(Wortsman et al., "Robust fine-tuning of zero-shot models", 2022)."""
_MEMORY_SHARE: Final = 2
"""One crop of so many is a replayed one: ten images need few crops, what is to be kept more."""
_MAX_SCORED_MEMORY: Final = 64
_CANDIDATES_NAME: Final = "candidates.json"
"""In the run folder: scores of all blends; written last, so that it also marks the end."""
_CHOSEN_NAME: Final = "chosen.safetensors"


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """What may be changed about a fine-tuning."""

    weights: tuple[Path, ...] = ()
    """Start weights; of several files, or the default pair, the better one on the user's training
    images is taken."""
    memory: Path | None = None
    """Labelled images of what must not be forgotten: a folder, or a data table."""
    recipe: str = "finetune"
    """Recipe whose last stage is used."""
    steps: int = 0
    """Longest training in steps; 0 takes the recipe's."""
    hold_out: float = 0.2
    """Share of the user's images that only judge."""
    max_loss: float = 0.02
    """Largest loss of F1 on the memory's held-out images."""
    accept_predictions: bool = False
    """Train on labels that this package predicted, as they are."""
    replaces: bool = False
    """Overwrite an output of this name."""
    has_graph: bool = True
    """Export the graph for fast prediction on CPUs too."""
    execution: Execution = field(default_factory=Execution)
    """Where and how."""


@dataclass(frozen=True, slots=True)
class ScoredBlend:
    """A blend and what it reaches on held-out images."""

    share: float
    """Share of the tuned weights; 0 is the start."""
    f1: float
    """Mean F1 at IoU 0.5 on the user's held-out images."""
    memory_f1: float | None
    """The same on the memory's held-out images; None if it was not needed, or without memory."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """Outcome of a fine-tuning."""

    start_path: Path
    """Weights that it started from."""
    start: ScoredBlend
    """How these do."""
    candidates: tuple[ScoredBlend, ...]
    """The blends that were tried."""
    chosen: ScoredBlend
    """The one that was written."""
    written: tuple[Path, ...]
    """Files that were written."""


def tune(folder: Path, output: Path, options: TuneOptions | None = None) -> Tuning:
    """Fine-tune a model on a folder of labelled images.

    Args:
        folder: images with ``NAME_label.tiff`` beside them, or ``images/`` and ``labels/``.
        output: ``NAME.safetensors``, for ``predict --weights``; its run is kept in ``NAME.run``.
        options: start, memory, length.

    Returns:
        What was tried and written.

    Raises:
        UsageError: if there are fewer than two usable images, if an earlier tuning was stopped and
            is not to be resumed, or if it is and has other images.
        TrainingError: if the tuned weights are no better on the held-out images than the start;
            nothing is written then.
        CheckpointError: if start weights cannot be read, or the output is refused.
    """
    options = options or TuneOptions()
    options.execution.limit_threads()
    check_output(output, replaces=options.replaces)
    run_path = output.with_suffix(".run")
    recipe = read_recipe(find_recipe(options.recipe))
    stage_folder = StageFolder(run_path / recipe.stages[-1].name)
    if not options.execution.resume:
        _check_room(run_path, stage_folder)
    records = _find_images(folder, run_path, options)
    memory = _find_memory(options)
    _write_images([*records, *memory], run_path / "table.csv", options)
    device = select_device(options.execution.device)
    start = _choose_start(options.weights, select_records(records, ("target",), "train"), device)
    recipe = _adapt(recipe, start, options, has_memory=bool(memory))
    if not options.execution.resume:
        _remove_earlier(run_path, stage_folder)
    made = run_recipe(recipe, [*records, *memory], run_path, execution=options.execution)
    tuned = load_file(made[recipe.stages[-1].name])
    judge = _Judge(start, tuned, device, records, memory)
    first = ScoredBlend(0.0, judge.score(0.0), judge.score_memory(0.0))
    blends = []
    for share in (each for each in SHARES if not memory or each <= _MAX_SHARE_WITH_MEMORY):
        blends.append(ScoredBlend(share, judge.score(share), None))
        logger.info("%s", describe_blend(blends[-1]))
    candidates = score_memory(first, blends, options.max_loss, judge.score_memory)
    write_json(run_path / _CANDIDATES_NAME, [asdict(each) for each in (first, *candidates)])
    chosen = choose(first, candidates, options.max_loss)
    chosen_path = run_path / _CHOSEN_NAME
    save_state(blend_weights(start.state_dict, tuned, chosen.share), chosen_path)
    written = export_weights(
        chosen_path, output, replaces=options.replaces, has_graph=options.has_graph
    )
    return Tuning(start.path, first, tuple(candidates), chosen, tuple(written))


def score_memory(
    start: ScoredBlend,
    candidates: Sequence[ScoredBlend],
    max_loss: float,
    score: Callable[[float], float | None],
) -> list[ScoredBlend]:
    """Score blends that do better than the start on the memory, the best first, until one is kept.

    Args:
        start: the start weights.
        candidates: blends, without F1 on the memory.
        max_loss: as for ``choose``.
        score: share of a blend → its F1 on the memory's held-out images.

    Returns:
        The blends in the same order, those that were needed with their F1 on the memory.
    """
    scored = {}
    for each in sorted(candidates, key=_rank):
        if each.f1 > start.f1:
            scored[each.share] = replace(each, memory_f1=score(each.share))
            logger.info("%s", describe_blend(scored[each.share]))
            if not _forgets(start, scored[each.share], max_loss):
                break
    return [scored.get(each.share, each) for each in candidates]


def choose(start: ScoredBlend, candidates: Sequence[ScoredBlend], max_loss: float) -> ScoredBlend:
    """Choose the blend with the best F1 among those that forget little.

    Args:
        start: the start weights.
        candidates: blends; of equal ones the smaller share is taken.
        max_loss: largest loss of F1 on the memory's held-out images.

    Raises:
        TrainingError: if none is better than the start.
    """
    better = [each for each in candidates if each.f1 > start.f1]
    kept = [each for each in better if not _forgets(start, each, max_loss)]
    if not kept:
        best = min(candidates, key=_rank)
        raise TrainingError(
            f"found no tuned weights that do better than the start ({describe_blend(start)}; best"
            f" of {len(candidates)}: {describe_blend(best)}), expected a higher F1 on the held-out"
            " images"
            + (f" and at most {max_loss} less on the memory" if better else "")
            + "; nothing was written: keep the start weights, or add labelled images"
        )
    return min(kept, key=_rank)


def _rank(candidate: ScoredBlend) -> tuple[float, float]:
    """Sorts the best blend first; of equal ones that with the smaller share."""
    return -candidate.f1, candidate.share


def _forgets(start: ScoredBlend, candidate: ScoredBlend, max_loss: float) -> bool:
    if candidate.memory_f1 is None or start.memory_f1 is None:
        return False
    return candidate.memory_f1 < start.memory_f1 - max_loss


def describe_blend(candidate: ScoredBlend) -> str:
    """One line: share and scores."""
    name = f"share {candidate.share:g}" if candidate.share else "start"
    told = f"{name}: F1 {candidate.f1:.4f} on the held-out images"
    if candidate.memory_f1 is not None:
        told += f", {candidate.memory_f1:.4f} on the memory's"
    return told


def _find_images(folder: Path, run_path: Path, options: TuneOptions) -> list[TrainingImage]:
    index = index_folders(
        [folder],
        (),
        IndexOptions(
            role="target",
            hold_out=options.hold_out,
            accept_predictions=options.accept_predictions,
        ),
    )
    _report(index, run_path)
    records = index.records
    if len(records) < 2:
        raise UsageError(
            f"{folder}: found {len(records)} usable labelled images, expected at least two, one of"
            f" them to hold out; see {run_path / 'problems.csv'}"
        )
    if not select_records(records, ("target",), "val"):
        # Too few for the share: the image with a middling number of cells judges.
        ordered = sorted(records, key=lambda record: (record.n_cells, record.image_id))
        judge = ordered[len(ordered) // 2].image_id
        records = [
            replace(record, split="val") if record.image_id == judge else record
            for record in records
        ]
    held_out = [record.image_id for record in select_records(records, ("target",), "val")]
    logger.info(
        "%s: %d images to train on, held out: %s",
        *(folder, len(records) - len(held_out), ", ".join(held_out)),
    )
    return records


def _check_room(run_path: Path, folder: StageFolder) -> None:
    """Refuse to lose a tuning that was stopped; one whose blends were judged makes room."""
    if folder.is_started and not (run_path / _CANDIDATES_NAME).exists():
        raise UsageError(
            f"{folder.path}: found a tuning that was stopped, expected none; go on with --resume,"
            " or remove that folder to begin anew"
        )


def _remove_earlier(run_path: Path, folder: StageFolder) -> None:
    for name in (_CANDIDATES_NAME, _CHOSEN_NAME):
        (run_path / name).unlink(missing_ok=True)
    if folder.path.exists():
        shutil.rmtree(folder.path)


def _write_images(records: list[TrainingImage], path: Path, options: TuneOptions) -> None:
    is_resumed = options.execution.resume and path.is_file()
    earlier = read_table(path) if is_resumed else records
    if list(map(_identify, earlier)) != list(map(_identify, records)):
        raise UsageError(
            f"{path}: found other images or another hold-out than there are now, expected the same"
            " ones to go on with; give the same folder, --memory and --hold-out, or begin anew:"
            f" remove {path.parent}"
        )
    write_table(records, path)


def _identify(record: TrainingImage) -> tuple[object, ...]:
    return record.image_id, record.role, record.split, record.digest, record.n_cells


def _report(index: Index, run_path: Path) -> None:
    log_problems(index.problems)
    write_problems(index.problems, run_path / "problems.csv")


def _find_memory(options: TuneOptions) -> list[TrainingImage]:
    """Labelled images of the memory, as role public, under names of their own."""
    path = options.memory
    if path is None:
        return []
    if path.is_file():
        found = [record for record in read_table(path) if record.role in LABELLED_ROLES]
    else:
        index = index_folders(
            [path],
            (),
            IndexOptions(
                role="public",
                hold_out=options.hold_out,
                accept_predictions=options.accept_predictions,
            ),
        )
        log_problems(index.problems)
        found = index.records
    records = [
        replace(record, image_id=f"memory:{record.image_id}", role="public") for record in found
    ]
    if not select_records(records, ("public",), "train"):
        expected = (
            "of split train" if path.is_file() else "with NAME_label.tiff beside each; see above"
        )
        raise UsageError(
            f"{path}: found no labelled image to replay, expected some {expected}, or leave"
            " --memory out"
        )
    return records


def _choose_start(
    given: Sequence[Path], records: Sequence[TrainingImage], device: torch.device
) -> Checkpoint:
    """Take the better model of a pair on images that it has not been trained on."""
    checkpoints = [load_checkpoint(path) for path in find_weights(given)]
    if len(checkpoints) == 1:
        return checkpoints[0]
    scores = []
    for checkpoint in checkpoints:
        model = build_model(checkpoint).to(device)
        scores.append(compute_mean_f1(score_weights(model, records)))
        logger.info(
            "%s: F1 %.4f on the images to train on, before", checkpoint.path.name, scores[-1]
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


class _Judge:
    """Scores blends of start and tuned weights, rounded as they will be written."""

    def __init__(
        self,
        start: Checkpoint,
        tuned: Mapping[str, Tensor],
        device: torch.device,
        records: Sequence[TrainingImage],
        memory: Sequence[TrainingImage],
    ) -> None:
        self._model = MediarFormer(start.architecture).to(device)
        self._start, self._tuned = start.state_dict, tuned
        self._records = select_records(records, ("target",), "val")
        held_out = select_records(memory, ("public",), "val")
        stride = -(-len(held_out) // _MAX_SCORED_MEMORY) or 1
        self._memory = held_out[::stride]

    def score(self, share: float) -> float:
        """F1 on the user's held-out images with ``share`` of the tuned weights."""
        return self._score(share, self._records)

    def score_memory(self, share: float) -> float | None:
        """The same on the memory's held-out images; None if there are none."""
        return self._score(share, self._memory) if self._memory else None

    def _score(self, share: float, records: Sequence[TrainingImage]) -> float:
        blend = blend_weights(self._start, self._tuned, share)
        rounded = {
            name: value.half().float() if value.is_floating_point() else value
            for name, value in blend.items()
        }
        self._model.load_state_dict(rounded)
        return compute_mean_f1(score_weights(self._model, records))
