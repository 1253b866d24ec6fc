"""Labelling consistency and pseudo-labels: a model's prediction as labels, written beside the data.

The paper relabels target images whose labels do not fit the prediction (section 4.2), and gives
predictions to unlabelled images (section 6.6). Original label files are never touched.
"""

import json
import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np

from mediar_infer._version import __version__
from mediar_infer.arrays import LabelArray
from mediar_infer.config import RELEASED_FLOW_THRESHOLD
from mediar_infer.errors import DataError, UsageError
from mediar_infer.image_trace import Trace
from mediar_infer.images.open import open_image
from mediar_infer.labels.files import write_labels
from mediar_infer.labels.metrics import Scores, evaluate_labels
from mediar_infer.labels.overlay import draw_overlay, write_png
from mediar_infer.labels.reading import read_labels
from mediar_infer.segmenter import Segmenter
from mediar_infer.training.augmentation.contact_sheet import join_tiles
from mediar_infer.training.data.csv_files import read_rows, write_rows
from mediar_infer.training.data.digests import digest_file
from mediar_infer.training.data.table import TrainingImage
from mediar_infer.training.stages.recipe import Recipe
from mediar_infer.training.stages.run_folder import write_json
from mediar_infer.training.stages.scoring import load_for_scoring

logger = logging.getLogger(__name__)

LOG_NAME: Final = "relabelling.csv"
LABELS_NAME: Final = "labels"

_DESCRIPTION_NAME: Final = "relabelling.json"
_OVERLAYS_NAME: Final = "overlays"
_MAX_OVERLAY_SIDE: Final = 1024
_UNSAFE: Final = re.compile(r"[^\w.-]")

Action = Literal["agrees", "not scored", "prediction empty", "relabelled", "pseudo-labelled"]


@dataclass(frozen=True, slots=True)
class Decision:
    """Decision about one image."""

    image_id: str
    """The image."""
    n_true: int
    """Labelled cells that are scored: those that do not touch the border."""
    n_predicted: int
    """Predicted cells that are scored."""
    n_matched: int
    """Pairs of them with an IoU of 0.5 or more."""
    f1: float
    """F1 of labels and prediction; NaN if neither side has a scored cell."""
    action: Action
    """``agrees``, ``not scored`` (no scored cell) and ``prediction empty`` (no scored cell in it):
    the labels are kept."""
    label_name: str = ""
    """New label file in the folder ``labels``; empty where the labels are kept."""


_COLUMNS: Final = tuple(each.name for each in fields(Decision))
"""Of the log."""


def predict_labels(segmenter: Segmenter, record: TrainingImage) -> LabelArray:
    """Segment an image from its file: ``(H, W)`` int32.

    Raises:
        ImageReadError: if it cannot be read.
    """
    with open_image(record.image_path) as source, segmenter.begin(source, Trace()) as work:
        return np.concatenate(list(work.labels()))


def decide(image_id: str, labels: LabelArray, predicted: LabelArray, min_f1: float) -> Decision:
    """Compare labels and prediction.

    Where no cell counts on either side (all touch the border) there is nothing to compare, and a
    prediction without a cell that counts would only teach that there is nothing: the labels are
    kept in both cases.

    Args:
        image_id: id of the image.
        labels: ``(H, W)`` instance labels. Not modified.
        predicted: the prediction, likewise.
        min_f1: smallest F1 at IoU 0.5 of labels that agree.
    """
    (scores,) = evaluate_labels(labels, predicted, (0.5,))
    f1 = scores.f1 if scores.n_true + scores.n_pred else math.nan
    if math.isnan(f1):
        action: Action = "not scored"
    elif f1 >= min_f1:
        action = "agrees"
    elif scores.n_pred == 0:
        action = "prediction empty"
    else:
        action = "relabelled"
    return _to_decision(image_id, scores, f1, action)


def _decide_unlabelled(image_id: str, predicted: LabelArray) -> Decision:
    """Take the prediction as the labels of an image that has none, if it has a cell."""
    (scores,) = evaluate_labels(np.zeros_like(predicted), predicted, (0.5,))
    action: Action = "pseudo-labelled" if predicted.any() else "prediction empty"
    return _to_decision(image_id, scores, math.nan, action)


def _to_decision(image_id: str, scores: Scores, f1: float, action: Action) -> Decision:
    is_new = action in ("relabelled", "pseudo-labelled")
    name = _label_name(image_id) if is_new else ""
    return Decision(image_id, scores.n_true, scores.n_pred, scores.tp, round(f1, 6), action, name)


def _label_name(image_id: str) -> str:
    return f"{_UNSAFE.sub('_', image_id)}_label.tiff"


def relabel(
    segmenter: Segmenter,
    records: Sequence[TrainingImage],
    folder: Path,
    *,
    min_f1: float,
    with_overlays: bool = False,
) -> list[Decision]:
    """Replace labels that disagree with the prediction, or that are missing, by the prediction.

    Writes ``labels/ID_label.tiff`` for these images, ``relabelling.csv`` with a line for every
    image, and finally ``relabelling.json``, which describes the inputs; if it exists for the same
    model, images and threshold, nothing is computed again.

    Args:
        segmenter: makes the predictions.
        records: images with or without labels.
        folder: created if absent; must not contain files of the data set.
        min_f1: smallest F1 at IoU 0.5 of labels that agree.
        with_overlays: also write ``overlays/ID.png``, old labels beside new ones.

    Returns:
        One decision per image, in order.

    Raises:
        UsageError: if a new label file would replace a file of the data, or there is no image.
        ImageReadError: if an image or its labels cannot be read.
        OutputError: if a file cannot be written.
    """
    _check_paths(records, folder)
    description = _describe(segmenter, records, min_f1)
    finished = _read_finished(folder, description)
    if finished is not None:
        logger.info("%s: already relabelled", folder)
        return finished
    decisions = []
    # 'index' tells predictions from what a person has drawn.
    facts = {"mediar_infer": __version__, "weights": dict(segmenter.digests)}
    for record in records:
        predicted = predict_labels(segmenter, record)
        labels = _read(record, predicted)
        if record.label_path is None:
            decision = _decide_unlabelled(record.image_id, predicted)
        else:
            decision = decide(record.image_id, labels, predicted, min_f1)
        if decision.label_name:
            height, width = predicted.shape
            path = folder / LABELS_NAME / decision.label_name
            write_labels(path, [predicted], height=height, width=width, facts=facts)
            if with_overlays:
                _write_overlays(folder, record, labels, predicted)
        agreement = "" if math.isnan(decision.f1) else f"F1 {decision.f1:.3f}, "
        logger.info("%s: %s%s", record.image_id, agreement, decision.action)
        decisions.append(decision)
    write_rows(folder / LOG_NAME, _COLUMNS, [list(asdict(each).values()) for each in decisions])
    write_json(folder / _DESCRIPTION_NAME, description)
    return decisions


def _read(record: TrainingImage, predicted: LabelArray) -> LabelArray:
    if record.label_path is None:
        return np.zeros_like(predicted)
    return read_labels(record.label_path).astype(np.int32)


def _check_paths(records: Sequence[TrainingImage], folder: Path) -> None:
    if not records:
        raise UsageError("found no image to relabel, expected at least one; check role and split")
    owned = {path.resolve() for record in records for path in _files(record)}
    owners: dict[str, str] = {}
    for record in records:
        name = _label_name(record.image_id)
        if name in owners:
            raise UsageError(
                f"{name}: found {owners[name]} and {record.image_id}, whose labels would both get"
                " this name, expected different names; rename one of the images in the table"
            )
        owners[name] = record.image_id
        path = folder / LABELS_NAME / name
        if path.resolve() in owned:
            raise UsageError(
                f"{path}: found a file of the data set in place of the new labels, expected"
                " another folder; original labels are never replaced"
            )


def _files(record: TrainingImage) -> Iterable[Path]:
    return [record.image_path, *([record.label_path] if record.label_path else [])]


def _describe(
    segmenter: Segmenter, records: Sequence[TrainingImage], min_f1: float
) -> dict[str, Any]:
    """What the result depends on, without the names of the weight files."""
    threshold = segmenter.config.masks.max_flow_error
    return {
        "weights": sorted(segmenter.digests.values()),
        # Unless it is another one, as runs that were finished before weights stated any lack it.
        **({} if threshold == RELEASED_FLOW_THRESHOLD else {"flow_threshold": threshold}),
        "plan": segmenter.config.plan.name,
        "roi_size": segmenter.config.roi_size,
        "min_f1": min_f1,
        "images": {
            record.image_id: [
                record.digest,
                digest_file(record.label_path) if record.label_path else "",
            ]
            for record in records
        },
    }


def _read_finished(folder: Path, description: Mapping[str, Any]) -> list[Decision] | None:
    try:
        found = json.loads((folder / _DESCRIPTION_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if found != description:
        return None
    decisions = read_decisions(folder)
    names = [decision.label_name for decision in decisions if decision.label_name]
    if all((folder / LABELS_NAME / name).is_file() for name in names):
        return decisions
    return None


def read_decisions(folder: Path) -> list[Decision]:
    """Read the log of a relabelling.

    Raises:
        UsageError: if it does not exist.
        DataError: if a line is malformed.
    """
    expected = f"the columns {', '.join(_COLUMNS)}, as 'relabel' writes them"
    return [
        _from_row(row, place) for place, row in read_rows(folder / LOG_NAME, _COLUMNS, expected)
    ]


def _from_row(row: Mapping[str, str], place: str) -> Decision:
    try:
        return Decision(
            image_id=row["image_id"],
            n_true=int(row["n_true"]),
            n_predicted=int(row["n_predicted"]),
            n_matched=int(row["n_matched"]),
            f1=float(row["f1"]),
            action=cast(Action, row["action"]),
            label_name=row["label_name"],
        )
    except ValueError as error:
        raise DataError(f"{place}: {error}, expected a number; create it with 'relabel'") from error


def find_label_paths(folder: Path, decisions: Iterable[Decision]) -> dict[str, Path]:
    """Image → new label file, for the images that have one."""
    return {
        decision.image_id: folder / LABELS_NAME / decision.label_name
        for decision in decisions
        if decision.label_name
    }


def replace_labels(
    records: Iterable[TrainingImage], label_paths: Mapping[str, Path]
) -> list[TrainingImage]:
    """Point records to new label files; images that had none become target images.

    Args:
        records: the data table. Not modified.
        label_paths: image → new label file.

    Raises:
        ImageReadError: if a label file cannot be read.
    """
    replaced = []
    for record in records:
        path = label_paths.get(record.image_id)
        if path is not None:
            role = record.role if record.label_path else "target"
            n_cells = int(np.count_nonzero(np.unique(read_labels(path))))
            record = replace(record, label_path=path.absolute(), role=role, n_cells=n_cells)
        replaced.append(record)
    return replaced


def _write_overlays(
    folder: Path, record: TrainingImage, labels: LabelArray, predicted: LabelArray
) -> None:
    """Old labels on the left, new ones on the right."""
    with open_image(record.image_path) as source:
        image = source.read_rows(0, source.height)
    tiles = [draw_overlay(image, each, max_side=_MAX_OVERLAY_SIDE) for each in (labels, predicted)]
    name = _label_name(record.image_id).removesuffix("_label.tiff")
    write_png(folder / _OVERLAYS_NAME / f"{name}.png", join_tiles([tiles]))


def relabel_for_stage(
    weights: Path,
    records: Sequence[TrainingImage],
    recipe: Recipe,
    folder: Path,
    device: str,
) -> dict[str, Path]:
    """Relabel the images of a stage of a recipe, see :func:`relabel`: image → new label file."""
    logger.info(
        "comparing the labels of %d images with the prediction of %s", len(records), weights
    )
    crop_size = recipe.stage(recipe.relabelling.from_stage).crop_size
    # Overlap is worth a thousandth of F1 (benchmarks/NOTES.md), and several times the time.
    segmenter = load_for_scoring([weights], device, plan="fast", roi_size=crop_size)
    decisions = relabel(segmenter, records, folder, min_f1=recipe.relabelling.min_f1)
    return find_label_paths(folder, decisions)
