"""Ranges of rows into which a large image is divided for several workers."""

import math
from collections.abc import Sequence
from itertools import pairwise


def split_rows(
    window_rows: Sequence[int], height: int, roi_size: int, n_workers: int, max_rows: int
) -> list[tuple[int, int]]:
    """Divide the rows of an image into ranges for workers of equal speed.

    Windows that reach over a border are predicted on both sides of it. There are therefore only as
    many ranges as keep all workers busy to the end and their maps small, and each begins with a
    window.

    Args:
        window_rows: rows at which windows begin, increasing from 0.
        height: rows of the image.
        roi_size: side of the windows; shorter ranges would mostly repeat the work of others.
        n_workers: number of workers.
        max_rows: about the most rows of a range.

    Returns:
        Ranges (first row, row after the last one) from top to bottom without gaps.
    """
    n_ranges = n_workers * math.ceil(height / (n_workers * max_rows))
    n_ranges = min(n_ranges, max(height // roi_size, 1))
    inner = {
        min(window_rows, key=lambda r: abs(r - height * i / n_ranges)) for i in range(n_ranges)
    }
    borders = [*sorted(inner), height]
    return list(pairwise(borders))
