"""Whether a label image numbers cells: masks and numbered backgrounds are found before they count.

A mask of 0 and 255, or a label image whose background has a number of its own, is a valid file of
whole numbers. Taken for cells it silently spoils training and scores.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mediar_infer.errors import DataError, list_some
from mediar_infer.labels.reading import read_labels

logger = logging.getLogger(__name__)

_PIECES_PER_CELL: Final = 4
"""Cells come in one piece, a few in two or three; classes come in as many as there are cells."""
_CRUMB_SHARE: Final = 0.1
"""Pieces smaller than this share of the largest one do not count."""
_MOST: Final = 0.5
"""A label that covers more of the image than this is hardly one cell among others."""
_LARGE: Final = 0.25
_TIMES_MEDIAN: Final = 5
"""Without any 0, a label this much larger than the median, and over ``_LARGE`` of the image, is the
background."""
_LISTED: Final = 8


@dataclass(frozen=True, slots=True)
class LabelFault:
    """Why a label image hardly numbers single cells."""

    found: str
    """What was found in it."""
    expected: str
    """What is expected instead, and what to do."""
    is_certain: bool
    """Whether it cannot be right; otherwise it is unusual."""
    is_background: bool = False
    """Whether it is about the background, not about cells that share a number."""


_INSTANCES: Final = "a number of its own for every cell, 0 = background; number the cells first"
_BACKGROUND: Final = "the background as 0 and every cell with a number of its own; set it to 0"


def find_label_fault(labels: npt.NDArray[np.integer[Any]]) -> LabelFault | None:
    """Look for masks, class maps and numbered backgrounds.

    Args:
        labels: ``(H, W)`` whole numbers, none negative. Not modified.

    Returns:
        The most serious fault; None if the labels may number cells, or if there are none.
    """
    values, counts = np.unique(labels, return_counts=True)
    is_cell = values > 0
    ids, areas = values[is_cell], counts[is_cell]
    if len(ids) == 0:
        return None
    has_background = len(ids) < len(values)
    fault = _find_shared_numbers(labels, ids)
    if fault is None or not fault.is_certain:
        fault = _find_numbered_background(ids, areas, labels.size, has_background) or fault
    return fault


def read_true_labels(path: Path) -> npt.NDArray[np.integer[Any]]:
    """Read labels that predictions are scored against; unusual ones are logged.

    Args:
        path: the label file, see :func:`read_labels`.

    Returns:
        ``(H, W)`` whole numbers.

    Raises:
        ImageReadError: if the file is not one image of whole numbers.
        DataError: if it holds a mask, classes or a numbered background: scores would mean nothing.
    """
    labels = read_labels(path)
    fault = find_label_fault(labels)
    if fault is not None:
        message = f"{path.name}: found {fault.found}; expected {fault.expected}"
        if fault.is_certain:
            raise DataError(message)
        logger.warning("%s", message)
    return labels


def _find_shared_numbers(
    labels: npt.NDArray[np.integer[Any]], ids: npt.NDArray[Any]
) -> LabelFault | None:
    """Find cells that share a number: masks, and maps of classes."""
    n_pieces = _count_pieces(labels)
    if n_pieces <= (1 if len(ids) == 1 else _PIECES_PER_CELL * len(ids)):
        return None
    found = f"{n_pieces} separate regions, but no numbers other than {list_some(ids, _LISTED)}"
    # A single cell may be numbered 1 and lie in two pieces.
    is_certain = n_pieces > 2 or len(ids) > 1 or int(ids[0]) != 1
    return LabelFault(found, _INSTANCES, is_certain)


def _find_numbered_background(
    ids: npt.NDArray[Any], areas: npt.NDArray[Any], n_pixels: int, has_background: bool
) -> LabelFault | None:
    largest = int(areas.argmax())
    share = float(areas[largest]) / n_pixels
    covers = f"label {ids[largest]} covers {share:.0%} of the image"
    if has_background:
        if share <= _MOST:
            return None
        return LabelFault(covers, _BACKGROUND, is_certain=len(ids) > 1, is_background=True)
    is_most = share > _MOST or (
        share > _LARGE and areas[largest] > _TIMES_MEDIAN * float(np.median(areas))
    )
    found = "no pixel that is 0" + (f", and {covers}" if is_most else "")
    return LabelFault(found, _BACKGROUND, is_certain=is_most, is_background=True)


def _count_pieces(labels: npt.NDArray[np.integer[Any]]) -> int:
    """Count regions of equal number, 8-connected, without crumbs beside the largest."""
    from skimage.measure import label as split_regions

    areas = np.bincount(split_regions(labels, connectivity=2).ravel())[1:]
    return int((areas >= _CRUMB_SHARE * areas.max()).sum())
