"""Checks of single files: can they be read, are the labels instances, do image and labels fit."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from skimage.measure import label as split_regions

from mediar_infer.errors import MediarError
from mediar_infer.images.open import open_image
from mediar_infer.labels.reading import read_labels
from mediar_infer.training.data.problems import (
    EMPTY_LABELS,
    EMPTY_LABELS_KEPT,
    MISMATCHED_SHAPES,
    NAN_PIXELS,
    NOT_INSTANCES,
    RGB_LABELS,
    UNREADABLE_IMAGE,
    UNREADABLE_LABELS,
    Problem,
)

_READ_AT_ONCE_BYTES = 2**26
_MAX_CLASSES = 8
_PIECES_PER_CELL = 4
_CRUMB_SHARE = 0.1
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


def check_image_file(path: Path) -> tuple[ImageFacts | None, list[Problem]]:
    """Read an image from the first to the last pixel.

    Args:
        path: the image file.

    Returns:
        Its facts, None if it cannot be used; and its problems.
    """
    try:
        with open_image(path) as source:
            n_bad = 0
            n_rows = max(1, _READ_AT_ONCE_BYTES // (3 * source.width * source.dtype.itemsize))
            for top in range(0, source.height, n_rows):
                rows = source.read_rows(top, min(top + n_rows, source.height))
                if source.dtype.kind == "f":
                    n_bad += int((~np.isfinite(rows).all(axis=2)).sum())
            facts = ImageFacts(source.height, source.width, source.dtype.name, _digest(path))
    except (MediarError, OSError) as error:
        return None, [Problem(UNREADABLE_IMAGE, path, str(error))]
    n_pixels = facts.height * facts.width
    if n_bad == n_pixels:
        return None, [Problem(UNREADABLE_IMAGE, path, f"all {n_pixels} pixels NaN or infinite")]
    found = f"{n_bad} of {n_pixels} pixels NaN or infinite"
    return facts, [Problem(NAN_PIXELS, path, found)] if n_bad else []


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_label_file(
    path: Path, facts: ImageFacts, *, keeps_empty: bool
) -> tuple[int | None, list[Problem]]:
    """Read a label file and see whether it numbers the cells of its image.

    Args:
        path: the label file.
        facts: of the image.
        keeps_empty: labels without any cell are used.

    Returns:
        The number of cells, None if the labels cannot be used; and the problems.
    """
    try:
        labels = read_labels(path)
    except (MediarError, OSError) as error:
        return None, [_why_no_labels(path, error)]
    if labels.shape != (facts.height, facts.width):
        turned = (
            " (height and width exchanged)" if labels.shape == (facts.width, facts.height) else ""
        )
        found = f"labels of {labels.shape}{turned} for an image of {(facts.height, facts.width)}"
        return None, [Problem(MISMATCHED_SHAPES, path, found)]
    ids = np.unique(labels)
    if ids[0] < 0 or ids[-1] > _MAX_ID:
        found = f"numbers from {ids[0]} to {ids[-1]} (0 to {_MAX_ID} are possible)"
        return None, [Problem(NOT_INSTANCES, path, found)]
    ids = ids[ids > 0]
    if len(ids) == 0:
        kind = EMPTY_LABELS_KEPT if keeps_empty else EMPTY_LABELS
        return (0 if keeps_empty else None), [Problem(kind, path, "zeros only")]
    n_pieces = _count_pieces(labels) if len(ids) <= _MAX_CLASSES else 0
    if n_pieces > (1 if len(ids) == 1 else _PIECES_PER_CELL * len(ids)):
        found = f"{n_pieces} separate regions, but no numbers other than {_listed(ids)}"
        return None, [Problem(NOT_INSTANCES, path, found)]
    return len(ids), []


def _why_no_labels(path: Path, error: Exception) -> Problem:
    """Tell a picture or a map of fractions, saved as labels, from a damaged file."""
    found = str(error).removeprefix(f"{path.name}: found ").partition(", expected")[0]
    try:
        with open_image(path) as source:
            is_fractional = source.dtype.kind == "f"
    except (MediarError, OSError):
        return Problem(UNREADABLE_LABELS, path, found)
    return Problem(NOT_INSTANCES if is_fractional else RGB_LABELS, path, found)


def _count_pieces(labels: npt.NDArray[np.integer[Any]]) -> int:
    """Count regions of equal number, 8-connected, without crumbs beside the largest."""
    areas = np.bincount(split_regions(labels, connectivity=2).ravel())[1:]
    return int((areas >= _CRUMB_SHARE * areas.max()).sum())


def _listed(ids: npt.NDArray[np.integer[Any]]) -> str:
    return ", ".join(str(i) for i in ids)
