"""Scores of a folder of predicted labels against a folder of true ones, and their files."""

import csv
import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mediar_infer.errors import DataError, MediarError, UsageError
from mediar_infer.images.listing import list_entries
from mediar_infer.labels.metrics import THRESHOLDS, Scores, evaluate_labels, sum_scores
from mediar_infer.labels.naming import LABEL_FOLDER, group_label_files
from mediar_infer.labels.plausibility import find_label_fault, read_true_labels
from mediar_infer.labels.reading import read_labels
from mediar_infer.output_files import write_bytes

logger = logging.getLogger(__name__)

SCORES_NAME: Final = "scores.csv"
SUMMARY_NAME: Final = "summary.csv"
PLOT_NAME: Final = "scores.png"
ALL_IMAGES: Final = "all"
"""Name of the group that holds every scored image."""

_LISTED = 3
_COUNTS = ("n_true", "n_pred", "tp", "fp", "fn")
_RATIOS = ("precision", "recall", "f1")


@dataclass(frozen=True, slots=True)
class ImageScores:
    """Scores of one image."""

    image: str
    """Stem that the two label files share, without ``_label``."""
    scores: tuple[Scores, ...]
    """One record per threshold."""


@dataclass(frozen=True, slots=True)
class GroupScores:
    """Scores of a group of images at one threshold."""

    group: str
    """Value of the manifest's column, or ``all``."""
    n_images: int
    """Scored images of the group."""
    mean: Mapping[str, float]
    """Means over images of precision, recall and F1."""
    median_f1: float
    """Median over images of F1."""
    pooled: Scores
    """Counts summed over the images."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that ``evaluate_folders`` found."""

    images: tuple[ImageScores, ...]
    """Scored images, by name."""
    groups: tuple[GroupScores, ...]
    """``all`` first, then the groups by name; one record per threshold each."""
    errors: Mapping[str, str]
    """Image → why it has no scores."""


def evaluate_folders(
    predicted_dir: Path,
    true_dir: Path,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    groups: Mapping[str, str] | None = None,
    images: Iterable[str] | None = None,
) -> Evaluation:
    """Score every ``NAME_label.tiff`` of one folder against its namesake in the other.

    Args:
        predicted_dir: folder of predicted label files, see :func:`list_label_files`.
        true_dir: folder of true label files; ``a_label.png`` and ``a_label.tiff`` are namesakes.
        thresholds: IoU thresholds in (0, 1].
        groups: stem → group, for means per group; images without one count only in ``all``.
        images: stems to score; others are ignored. ``None`` takes all.

    Returns:
        Scores, and an error for every image that is on one side only, cannot be read or differs in
        size; the others are scored all the same.

    Raises:
        UsageError: if a folder does not exist or cannot be listed, or a threshold is out of range.
    """
    bad = [threshold for threshold in thresholds if not 0 < threshold <= 1]
    if bad or not thresholds:
        raise UsageError(f"thresholds {list(thresholds)}; expected IoU values above 0 and up to 1")
    predicted, true = list_label_files(predicted_dir), list_label_files(true_dir)
    stems = sorted(predicted.keys() | true.keys() if images is None else set(images))
    scored: list[ImageScores] = []
    errors: dict[str, str] = {}
    for stem in stems:
        try:
            true_path = _only_file(true, stem, true_dir)
            predicted_path = _only_file(predicted, stem, predicted_dir)
            scores = evaluate_labels(
                read_true_labels(true_path), _read_predicted(predicted_path), thresholds
            )
        except MediarError as error:
            errors[stem] = str(error)
            logger.error("%s: %s", stem, error)
            continue
        scored.append(ImageScores(stem, tuple(scores)))
        logger.info("%s: F1 %.4f at IoU %g", stem, scores[0].f1, scores[0].threshold)
    return Evaluation(tuple(scored), tuple(_group_scores(scored, groups or {})), errors)


def write_evaluation(output_dir: Path, evaluation: Evaluation) -> list[Path]:
    """Write ``scores.csv``, ``summary.csv`` and, if an image was scored, ``scores.png``.

    The plot needs matplotlib; without it only the tables are written, and a log line says so.

    Returns:
        The files written.

    Raises:
        OutputError: if the folder cannot be written.
    """
    paths = [output_dir / SCORES_NAME, output_dir / SUMMARY_NAME]
    write_bytes(paths[0], _scores_csv(evaluation))
    write_bytes(paths[1], _summary_csv(evaluation))
    if not evaluation.images:
        return paths
    try:
        plot = _plot_png(evaluation)
    except ModuleNotFoundError as error:
        logger.warning(
            "%s: not drawn, as %s is not installed; the tables are complete", PLOT_NAME, error.name
        )
        return paths
    paths.append(output_dir / PLOT_NAME)
    write_bytes(paths[-1], plot)
    return paths


def list_label_files(folder: Path) -> dict[str, list[Path]]:
    """Map stem → its label files; more than one is an error of that image.

    Args:
        folder: label files ``NAME_label.tiff``, or as other programs name them, see
            :func:`group_label_files`.

    Raises:
        UsageError: if the folder does not exist or cannot be listed.
    """
    return group_label_files(list_entries(folder, LABEL_FOLDER))


def _only_file(files: Mapping[str, list[Path]], stem: str, folder: Path) -> Path:
    found = files.get(stem, [])
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or _describe_similar(folder, stem)
        raise DataError(f"{folder}: found {names}; expected one file {stem}_label.tiff")
    return found[0]


def _describe_similar(folder: Path, stem: str) -> str:
    """Name the files that were perhaps meant, as nothing is there under the expected name."""
    found = list_entries(folder, LABEL_FOLDER)
    similar = [path.name for path in found if path.name.startswith(stem)]
    if not similar:
        return "nothing"
    return f"only {', '.join(similar[:_LISTED])}, which cannot be read as labels by that name"


def _read_predicted(path: Path) -> npt.NDArray[np.integer[Any]]:
    """Read a prediction; a fault lowers its score, and a warning says so."""
    labels = read_labels(path)
    fault = find_label_fault(labels)
    if fault is not None and fault.is_certain:
        logger.warning("%s: found %s; expected %s", path.name, fault.found, fault.expected)
    return labels


def _group_scores(
    images: Sequence[ImageScores], group_of: Mapping[str, str]
) -> Iterable[GroupScores]:
    members: dict[str, list[ImageScores]] = {}
    for image in images:
        if image.image in group_of:
            members.setdefault(group_of[image.image], []).append(image)
    for group, group_images in [(ALL_IMAGES, list(images)), *sorted(members.items())]:
        for scores in zip(*(image.scores for image in group_images), strict=True):
            yield GroupScores(
                group=group,
                n_images=len(scores),
                mean={name: fmean(getattr(each, name) for each in scores) for name in _RATIOS},
                median_f1=median(each.f1 for each in scores),
                pooled=sum_scores(scores),
            )


def _scores_csv(evaluation: Evaluation) -> bytes:
    header = ("image", "threshold", *_COUNTS, *_RATIOS)
    rows = [
        (image.image, *(getattr(scores, name) for name in header[1:]))
        for image in evaluation.images
        for scores in image.scores
    ]
    return _to_csv(header, rows)


def _summary_csv(evaluation: Evaluation) -> bytes:
    means = [f"mean_{name}" for name in _RATIOS]
    pooled = [f"pooled_{name}" for name in _RATIOS]
    header = ("group", "n_images", "threshold", *means, "median_f1", *_COUNTS, *pooled)
    rows = [
        (
            row.group,
            row.n_images,
            row.pooled.threshold,
            *row.mean.values(),
            row.median_f1,
            *(getattr(row.pooled, name) for name in (*_COUNTS, *_RATIOS)),
        )
        for row in evaluation.groups
    ]
    return _to_csv(header, rows)


def _to_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _plot_png(evaluation: Evaluation) -> bytes:
    """Draw F1 against the threshold: a faint line per image, a strong one for the mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for image in evaluation.images:
        thresholds = [scores.threshold for scores in image.scores]
        f1 = [scores.f1 for scores in image.scores]
        axes.plot(thresholds, f1, color="tab:blue", alpha=0.2, linewidth=0.8)
    overall = evaluation.groups[: len(evaluation.images[0].scores)]
    axes.plot(
        [row.pooled.threshold for row in overall],
        [row.mean["f1"] for row in overall],
        color="black",
        marker="o",
        linewidth=2,
        label=f"mean of {overall[0].n_images} images",
    )
    axes.set(xlabel="IoU threshold", ylabel="F1", ylim=(-0.02, 1.02))
    axes.legend()
    axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
