"""The paper's Tables 5 to 8 as runs: the rows of a table with one recipe and several seeds.

Stages that rows start from are trained once per seed. Everything is kept in folders: an interrupted
table continues where it stopped::

    RUN/seed_S/shared/STAGE/    stages that rows start from
    RUN/seed_S/ROW/STAGE/       stages of a row
    RUN/seed_S/ROW/scores.json  its score on the held-out images

Networks are scored in windows of the size of their training crops: attention and averages over the
whole input then have their usual range. The paper's crops and windows are both 512.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import numpy as np
from safetensors.torch import load_file
from torch import nn

from mediar_infer.devices import select_device
from mediar_infer.errors import UsageError
from mediar_infer.network.weight_files import compute_digest
from mediar_infer.training.comparisons.ablation_table import SHARED_NAME, Row, Table
from mediar_infer.training.comparisons.unlabelled import build_extra_loss
from mediar_infer.training.data.digests import digest_file
from mediar_infer.training.data.table import TrainingImage, select_records
from mediar_infer.training.networks.build import bind_windows, build_network
from mediar_infer.training.stages.execution import Execution
from mediar_infer.training.stages.recipe import Recipe
from mediar_infer.training.stages.recipe_files import merge_values, parse_recipe
from mediar_infer.training.stages.relabelling import (
    find_label_paths,
    relabel,
    replace_labels,
)
from mediar_infer.training.stages.run_folder import StageFolder, read_log, save_state, write_json
from mediar_infer.training.stages.runner import run_recipe
from mediar_infer.training.stages.scoring import (
    ImageScore,
    build_segmenter,
    compute_mean_f1,
    load_for_scoring,
    score_weights,
    select_scored,
)
from mediar_infer.training.stages.start_weights import load_entries

logger = logging.getLogger(__name__)

_SCORES_NAME: Final = "scores.json"
_ENCODER_NAME: Final = "encoder.safetensors"
_ENCODER_PREFIX: Final = "encoder."
_PREPARED: Final = ("discovery", "relabelled")
_LAST_SHARE: Final = 10
"""The training loss is the mean over the last tenth of the steps."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a table is run with."""

    recipe: Mapping[str, Any]
    """Values of the base recipe."""
    where: str
    """Its file."""
    records: Sequence[TrainingImage]
    """The data table."""
    run_path: Path
    """Folder of all runs."""
    scale: float = 1.0
    """Factor of all lengths."""
    execution: Execution = field(default_factory=lambda: Execution(resume=True))
    """Where and how."""


@dataclass(frozen=True, slots=True)
class RowResult:
    """Result of a row with one seed."""

    key: str
    """The row."""
    seed: int
    """Seed of the recipe."""
    f1: float
    """Mean F1 at IoU 0.5 over the held-out images."""
    f1_of_modality: Mapping[str, float]
    """The same per modality and role."""
    n_images: int
    """Held-out images."""
    loss: float
    """Mean training loss over the last tenth of the steps."""
    n_steps: int
    """Steps of the last stage."""
    n_parameters: int
    """Trained numbers of the network."""
    digest: str
    """SHA-256 of the weights."""


def run_table(
    table: Table, setting: Setting, n_seeds: int, row_keys: Sequence[str] = ()
) -> list[RowResult]:
    """Train and score the rows of a table with several seeds.

    Args:
        table: what to compare.
        setting: with what.
        n_seeds: seeds: the recipe's own and those after it.
        row_keys: only these rows, and those that they need.

    Returns:
        A result per seed and row.

    Raises:
        UsageError: if recipe, table and images do not fit together; before anything is trained.
        MediarError: anything that training and scoring raise.
    """
    if n_seeds < 1:
        raise UsageError(f"found {n_seeds} seeds, expected 1 or more")
    rows = table.choose(row_keys)
    first = int(setting.recipe.get("seed", 0))
    runs = [_SeedRun(table, setting, seed, rows) for seed in range(first, first + n_seeds)]
    runs[0].check()
    return [result for run in runs for result in run.run()]


@dataclass(frozen=True, slots=True)
class _SeedRun:
    """A table with one seed."""

    table: Table
    setting: Setting
    seed: int
    rows: Sequence[Row]

    @property
    def path(self) -> Path:
        return self.setting.run_path / f"seed_{self.seed}"

    @property
    def shared_path(self) -> Path:
        return self.path / SHARED_NAME

    def recipe(self, row: Row | None = None) -> Recipe:
        """The recipe of a row, or of the shared stages."""
        values = dict(self.setting.recipe)
        name = str(values.get("name"))
        for changes in (self.table.changes, self.table.recipes.get(name, {})):
            values = merge_values(values, changes)
        where = f"{self.setting.where} for table {self.table.number}"
        if row is not None:
            if self.takes_stage_encoder:
                path = self.shared_path / _ENCODER_NAME
                values = merge_values(values, {"model": {"encoder_weights": str(path.absolute())}})
            values = merge_values(values, row.changes)
            where = f"{where}, row {row.key}"
        recipe = parse_recipe({**values, "seed": self.seed}, where)
        if row is not None:
            recipe = _divide_decoder(recipe, row.decoder_divisor)
        return recipe.scaled(self.setting.scale)

    @property
    def takes_stage_encoder(self) -> bool:
        named = self.setting.recipe.get("model", {}).get("encoder_weights", "")
        return bool(self.table.encoder_from) and not named

    @property
    def shared_stages(self) -> list[str]:
        """In the recipe's order."""
        return [stage.name for stage in self.recipe().stages if stage.name in self._shared_names]

    @property
    def _shared_names(self) -> set[str]:
        names = {*self.table.shared, *(name for row in self.rows for name in row.shared)}
        starts_encoded = any(
            self.recipe(row).stage(name).start == "encoder"
            for row in self.rows
            for name in row.stages
        )
        if self.takes_stage_encoder and starts_encoded:
            names.add(self.table.encoder_from)
        return names

    def check(self) -> None:
        """Raise UsageError unless all stages exist, find images and have a network."""
        base = self.recipe()
        for name in self._shared_names:
            base.stage(name)
        stages = [(base.stage(name), "shared stages") for name in self.shared_stages]
        for row in self.rows:
            recipe = self.recipe(row)
            stages += [(recipe.stage(name), f"row {row.key}") for name in row.stages]
            if not recipe.model.network.startswith("mediar_former"):  # a package may be missing
                size = recipe.stage(row.stages[-1]).crop_size
                build_network(recipe.model.network, recipe.model.architecture, crop_size=size)
            if row.pseudo_labels_from:
                self._need_images(("unlabelled",), "train", f"row {row.key}")
        for stage, place in stages:
            where = f"{place}, stage {stage.name}"
            self._need_images(stage.roles, "train", where, stage.exclude_sources)
            if stage.memory_roles:
                self._need_images(stage.memory_roles, "train", where, stage.exclude_sources)
        self._need_images(self.table.roles, "val", "the scores")

    def _need_images(
        self, roles: Sequence[str], split: str, place: str, excluded: Sequence[str] = ()
    ) -> None:
        found = select_records(self.setting.records, roles, split)
        if all(record.source in excluded for record in found):
            raise UsageError(
                f"table {self.table.number}, {place}: found no image of split {split} with one of"
                f" the roles {', '.join(roles)}, expected at least one in the data table"
            )

    def run(self) -> list[RowResult]:
        execution = replace(self.setting.execution, resume=True)
        if names := self.shared_stages:
            run_recipe(
                self.recipe(), self.setting.records, self.shared_path,
                stage_names=names, execution=execution,
            )  # fmt: skip
            if self.table.encoder_from in names:
                self._write_encoder()
        return [self._run_row(row, execution) for row in self.rows]

    def _write_encoder(self) -> None:
        """Keep the encoder of a stage as the file that rows start from."""
        path = StageFolder(self.shared_path / self.table.encoder_from).weights_path
        entries = load_file(path)
        encoder = {k: v for k, v in entries.items() if k.startswith(_ENCODER_PREFIX)}
        save_state(encoder, self.shared_path / _ENCODER_NAME)

    def _run_row(self, row: Row, execution: Execution) -> RowResult:
        logger.info("table %d, seed %d: %s", self.table.number, self.seed, row.label)
        path, recipe = self.path / row.key, self.recipe(row)
        self._link_shared(path)
        term = build_extra_loss(row.unlabelled) if row.unlabelled else None
        made = run_recipe(
            recipe,
            self._records_of(row, execution.device),
            path,
            stage_names=row.stages,
            execution=execution,
            extra_losses={row.stages[-1]: term} if term is not None else None,
        )
        return self._score(row, recipe, made[row.stages[-1]], execution.device)

    def _link_shared(self, path: Path) -> None:
        """Make shared stages, clusters and new labels look like those of the row's own run."""
        path.mkdir(parents=True, exist_ok=True)
        for name in (*self.shared_stages, *_PREPARED):
            link = path / name
            if not link.is_symlink() and not link.exists():
                (self.shared_path / name).mkdir(parents=True, exist_ok=True)
                link.symlink_to(Path("..") / SHARED_NAME / name, target_is_directory=True)

    def _records_of(self, row: Row, device: str) -> Sequence[TrainingImage]:
        """The data table; unlabelled images labelled by an earlier row where the row says so."""
        records = self.setting.records
        if not row.pseudo_labels_from:
            return records
        teacher = next(each for each in self.rows if each.key == row.pseudo_labels_from)
        weights = StageFolder(self.path / teacher.key / teacher.stages[-1]).weights_path
        folder = self.path / row.key / "pseudo_labels"
        images = select_records(records, ("unlabelled",), "train")
        crop_size = self.recipe(teacher).stage(teacher.stages[-1]).crop_size
        predictor = load_for_scoring([weights], device, plan="fast", roi_size=crop_size)
        min_f1 = self.recipe(teacher).relabelling.min_f1
        decisions = relabel(predictor, images, folder, min_f1=min_f1)
        return replace_labels(records, find_label_paths(folder, decisions))

    def _score(self, row: Row, recipe: Recipe, weights: Path, device: str) -> RowResult:
        path, digest = self.path / row.key / _SCORES_NAME, compute_digest(weights)
        records = select_records(self.setting.records, self.table.roles, "val")
        images = {record.image_id: record.digest for record in records}
        labels = {
            record.image_id: digest_file(record.label_path)
            for record in records
            if record.label_path
        }
        roi_size = recipe.stage(row.stages[-1]).crop_size
        scored = {"images": images, "labels": labels, "roi_size": roi_size}
        earlier = _read_result(path, scored, digest)
        if earlier is not None:
            return earlier
        network = _load_network(recipe, row.stages[-1], weights)
        # With the engine's overlap, scoring small windows would take longer than training.
        segmenter = build_segmenter(network, select_device(device).to_torch(), plan="fast")
        scores = select_scored(score_weights(segmenter, records))
        result = RowResult(
            key=row.key,
            seed=self.seed,
            f1=compute_mean_f1(scores),
            f1_of_modality=_average_by_modality(scores),
            n_images=len(scores),
            **_read_losses(StageFolder(weights.parent)),
            n_parameters=sum(p.numel() for p in network.parameters()),
            digest=digest,
        )
        write_json(
            path,
            {
                "result": asdict(result),
                **scored,
                "f1_of_image": {score.record.image_id: score.f1 for score in scores},
            },
        )
        logger.info(
            "table %d, seed %d, %s: F1 %.4f", self.table.number, self.seed, row.label, result.f1
        )
        return result


def _read_result(path: Path, scored: Mapping[str, Any], digest: str) -> RowResult | None:
    """An earlier result of a row; None without one, or if it is of other images or weights."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    is_same = all(found.get(key) == value for key, value in scored.items())
    return RowResult(**found["result"]) if is_same and found["result"]["digest"] == digest else None


def _average_by_modality(scores: Sequence[ImageScore]) -> dict[str, float]:
    """Role and modality → mean F1 of their images."""
    f1s: dict[str, list[float]] = {}
    for score in scores:
        kind = f"{score.record.role}: {score.record.modality or 'unknown'}"
        f1s.setdefault(kind, []).append(score.f1)
    return {kind: fmean(f1s[kind]) for kind in sorted(f1s)}


def _divide_decoder(recipe: Recipe, divisor: int) -> Recipe:
    model = recipe.model
    widths = tuple(max(2, width // divisor) for width in model.decoder_channels)
    pab_channels = max(1, model.pab_channels // divisor)
    return replace(recipe, model=replace(model, decoder_channels=widths, pab_channels=pab_channels))


def _load_network(recipe: Recipe, stage_name: str, weights: Path) -> nn.Module:
    """A row's network, which is scored in windows of the size of its training crops."""
    size = recipe.stage(stage_name).crop_size
    network = build_network(recipe.model.network, recipe.model.architecture, crop_size=size)
    load_entries(network, load_file(weights), weights)
    bind_windows(network, size)
    return network.eval().requires_grad_(False)


def _read_losses(folder: StageFolder) -> dict[str, Any]:
    """Mean loss of the last steps, and their number."""
    losses = [float(row["loss"]) for row in read_log(folder.log_path)]
    last = losses[-max(1, len(losses) // _LAST_SHARE) :]
    return {"loss": float(np.mean(last)), "n_steps": len(losses)}


def hide_labels(records: Sequence[TrainingImage], share: float, seed: int) -> list[TrainingImage]:
    """Turn a fraction of the target training images into unlabelled ones, evenly per modality.

    For trials of Table 8 where there are no unlabelled images.

    Args:
        records: the data table. Not modified.
        share: fraction of the images of each modality and source, in [0, 1).
        seed: seed of the choice.

    Raises:
        UsageError: if the fraction is out of range.
    """
    if not 0 <= share < 1:
        raise UsageError(f"found --hide-labels {share}, expected at least 0 and less than 1")
    rng = np.random.default_rng(seed)
    kinds: dict[tuple[str, str], list[str]] = {}
    for record in select_records(records, ("target",), "train"):
        kinds.setdefault((record.modality, record.source), []).append(record.image_id)
    hidden = {
        name
        for _, names in sorted(kinds.items())
        for name in rng.permutation(names)[: int(share * len(names))].tolist()
    }
    return [
        replace(record, role="unlabelled", label_path=None, n_cells=0)
        if record.image_id in hidden
        else record
        for record in records
    ]
