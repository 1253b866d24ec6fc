"""Checks of single files: readable, labels are instances, image and labels fit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mediar_infer.errors import MediarError
from mediar_infer.images.open import open_image
from mediar_infer.labels.files import read_label_header
from mediar_infer.labels.plausibility import find_label_fault
from mediar_infer.labels.reading import read_labels
from mediar_infer.training.data.digests import digest_file
from mediar_infer.training.data.problems import (
    EMPTY_LABELS,
    EMPTY_LABELS_KEPT,
    MISMATCHED_SHAPES,
    NAN_PIXELS,
    NOT_INSTANCES,
    NUMBERED_BACKGROUND,
    PREDICTED_LABELS,
    PREDICTED_LABELS_KEPT,
    RGB_LABELS,
    UNREADABLE_IMAGE,
    UNREADABLE_LABELS,
    UNUSUAL_BACKGROUND,
    UNUSUAL_IMAGE,
    Problem,
)

_READ_AT_ONCE_BYTES = 2**26
_MAX_ID: Final = int(np.iinfo(np.int32).max)


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What the table says about an image file."""

    height: int
    """Number of rows."""
    width: int
    """Number of columns."""
    dtype: str
    """Data type as numpy names it."""
    digest: str
    """SHA-256 of the file's bytes, in hexadecimal."""


def examine_image(path: Path) -> tuple[ImageFacts | None, list[Problem]]:
    """Read an image from the first to the last pixel.

    Args:
        path: the image file.

    Returns:
        Its facts, ``None`` if it cannot be used; and its problems.
    """
    try:
        with open_image(path) as source:
            n_bad = 0
            n_rows = max(1, _READ_AT_ONCE_BYTES // (3 * source.width * source.dtype.itemsize))
            for top in range(0, source.height, n_rows):
                rows = source.read_rows(top, min(top + n_rows, source.height))
                if source.dtype.kind == "f":
                    n_bad += int((~np.isfinite(rows).all(axis=2)).sum())
            facts = ImageFacts(source.height, source.width, source.dtype.name, digest_file(path))
            told = "; ".join(source.warnings)
    except (MediarError, OSError) as error:
        return None, [Problem(UNREADABLE_IMAGE, path, str(error))]
    n_pixels = facts.height * facts.width
    if n_bad == n_pixels:
        return None, [Problem(UNREADABLE_IMAGE, path, f"all {n_pixels} pixels NaN or infinite")]
    problems = [Problem(UNUSUAL_IMAGE, path, told)] if told else []
    if n_bad:
        found = f"{n_bad} of {n_pixels} pixels NaN or infinite"
        problems.append(Problem(NAN_PIXELS, path, found))
    return facts, problems


def examine_labels(
    path: Path, facts: ImageFacts, *, keeps_empty: bool, accepts_predictions: bool = False
) -> tuple[int | None, list[Problem]]:
    """Read a label file and see whether it numbers the cells of its image.

    Args:
        path: the label file.
        facts: facts of the image.
        keeps_empty: labels without any cell are used.
        accepts_predictions: labels that this package predicted are used.

    Returns:
        The number of cells, None if the labels cannot be used; and the problems.
    """
    try:
        labels = read_labels(path)
    except (MediarError, OSError) as error:
        return None, [_why_no_labels(path, error)]
    found = _find_misfit(labels, facts)
    if found:
        return None, [Problem(MISMATCHED_SHAPES, path, found)]
    weights = find_origin(path)
    if weights and not accepts_predictions:
        return None, [Problem(PREDICTED_LABELS, path, weights)]
    problems = [Problem(PREDICTED_LABELS_KEPT, path, weights)] if weights else []
    ids = np.unique(labels)
    if ids[0] < 0 or ids[-1] > _MAX_ID:
        found = f"numbers from {ids[0]} to {ids[-1]} (0 to {_MAX_ID} are possible)"
        return None, [Problem(NOT_INSTANCES, path, found)]
    n_cells = int(np.count_nonzero(ids))
    if n_cells == 0:
        kind = EMPTY_LABELS_KEPT if keeps_empty else EMPTY_LABELS
        return (0 if keeps_empty else None), [*problems, Problem(kind, path, "zeros only")]
    fault = find_label_fault(labels)
    if fault is None:
        return n_cells, problems
    if not fault.is_background:
        return None, [Problem(NOT_INSTANCES, path, fault.found)]
    if fault.is_certain:
        return None, [Problem(NUMBERED_BACKGROUND, path, fault.found)]
    return n_cells, [*problems, Problem(UNUSUAL_BACKGROUND, path, fault.found)]


def find_origin(path: Path) -> str:
    """Say what predicted a label file; empty if the file does not say that this package did.

    Labels that another program has saved since, after a person corrected them, do not say so.
    """
    header = read_label_header(path)
    if header is None or "mediar_infer" not in header.facts:
        return ""
    weights = header.facts.get("weights") or ["unnamed weights"]
    names = ", ".join(map(str, weights)) if isinstance(weights, list | dict) else str(weights)
    return f"labels that mediar-infer {header.facts['mediar_infer']} predicted with {names}"


def _find_misfit(labels: npt.NDArray[np.integer[Any]], facts: ImageFacts) -> str:
    """Say how labels and image differ in size; empty if they do not."""
    expected = (facts.height, facts.width)
    if labels.shape == expected:
        return ""
    turned = " (height and width exchanged)" if labels.shape[::-1] == expected else ""
    return f"labels of {labels.shape}{turned} for an image of {expected}"


def _why_no_labels(path: Path, error: Exception) -> Problem:
    """Distinguish an image or a map of fractions, saved as labels, from a damaged file."""
    found = str(error).removeprefix(f"{path.name}: found ").partition(", expected")[0]
    try:
        with open_image(path) as source:
            is_fractional = source.dtype.kind == "f"
    except (MediarError, OSError):
        return Problem(UNREADABLE_LABELS, path, found)
    return Problem(NOT_INSTANCES if is_fractional else RGB_LABELS, path, found)
