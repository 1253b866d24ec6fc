"""Several windows of a narrow image side by side in one: a sheet, which the network sees at once.

Where an image is narrower than a window, most of each window is padding. With ``Plan.packed`` the
padding of one window has room for others. What the network computes for a pixel depends on all of
its window, so the maps differ a little from those of separate windows; how much is measured by
``benchmarks/bench_thin.py``.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np

from mediar_infer.arrays import AnyArray
from mediar_infer.config import Plan

GAP: Final = 8
"""Least number of black pixels between neighbours in a sheet."""
_PITCH: Final = 32
"""Places are this far apart or a multiple of it, so that all of them lie alike among the pixels
of the network's coarsest map."""


def _axis_places(part: int, roi_size: int) -> list[int]:
    """First pixels of the places for parts of a length along one axis."""
    pitch = -(-(part + GAP) // _PITCH) * _PITCH
    n_places = roi_size // pitch
    if n_places < 2:
        return [(roi_size - part) // 2]
    return [i * pitch + (pitch - part) // 2 for i in range(n_places)]


@lru_cache(maxsize=4)
def list_places(part_shape: tuple[int, int], roi_size: int) -> tuple[tuple[int, int], ...]:
    """Say where in a sheet windows go.

    Args:
        part_shape: rows and columns of a window without its margins.
        roi_size: side of a sheet.

    Returns:
        First row and column of each place; the only one is (0, 0) for windows without margins.
    """
    height, width = part_shape
    return tuple(
        (top, left)
        for top in _axis_places(height, roi_size)
        for left in _axis_places(width, roi_size)
    )


def window_margins(height: int, width: int, plan: Plan, roi_size: int) -> tuple[int, int]:
    """Choose what all windows of an image leave out: see ``WindowGrid.margins``.

    Args:
        height: rows of the image.
        width: columns of the image.
        plan: whether windows are packed.
        roi_size: side of the windows.

    Returns:
        Rows and columns; zeros unless two windows or more fit in a sheet.
    """
    if count_places(height, width, plan, roi_size) == 1:
        return 0, 0
    return _outside(height, roi_size), _outside(width, roi_size)


def count_places(height: int, width: int, plan: Plan, roi_size: int) -> int:
    """Count the windows of an image that a plan puts in one sheet; 1 unless they are packed."""
    return _count_fitting(height, width, roi_size) if plan.packed else 1


def can_pack(height: int, width: int, roi_size: int) -> bool:
    """Whether an image is so narrow that two windows of it or more fit in a sheet."""
    return _count_fitting(height, width, roi_size) > 1


def _outside(length: int, roi_size: int) -> int:
    """Pixels on each side of a window that lie outside an image of this length, if all do."""
    return max(0, (roi_size - length) // 2)


def _count_fitting(height: int, width: int, roi_size: int) -> int:
    """Count the windows of an image, without what lies outside it, that fit in a sheet."""
    rows, columns = (roi_size - 2 * _outside(length, roi_size) for length in (height, width))
    return len(list_places((rows, columns), roi_size))


def fill_sheet(
    parts: Sequence[AnyArray], places: Sequence[tuple[int, int]], roi_size: int
) -> AnyArray:
    """Put parts in their places.

    Args:
        parts: ``(3, h, w)`` of one shape and type, at most as many as there are places.
        places: first row and column of each.
        roi_size: side of the sheet.

    Returns:
        ``(3, roi_size, roi_size)``, zero between the parts.
    """
    height, width = parts[0].shape[1:]
    sheet = np.zeros((3, roi_size, roi_size), parts[0].dtype)
    for part, (top, left) in zip(parts, places, strict=False):
        sheet[:, top : top + height, left : left + width] = part
    return sheet
