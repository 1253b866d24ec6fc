"""Holes of cells, filled in bands of labels from top to bottom.

A *hole* is a region of background beside one cell and nothing else: it touches neither the border
of the image nor a second cell. Regions are 4-connected, and so is what lies beside them; a cell
therefore also encloses a hole with pixels that touch at corners only. A pixel that is labelled is
never changed, so a gap around a cell that lies inside another one stays, and so does background
that is open to the outside by a single pixel.

Pixels without vertical flow are not tracked (as released), so the cells of the released system
have dotted lines of background in them.
"""

import ctypes
from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from mediar_infer.arrays import LabelArray
from mediar_infer.image_trace import Trace
from mediar_infer.labels.kernels.compiled import load_library, pointer, to_int64


def fill_holes(bands: Iterable[LabelArray], height: int, trace: Trace) -> Iterator[LabelArray]:
    """Fill the holes of cells in the labels of an image.

    While a region may still be a hole, the one cell beside it has pixels in each of its rows.
    Rows therefore wait for as long as the highest cell is, and are looked at again until then.

    Args:
        bands: ``(rows, W)`` int32 from top to bottom; may be modified.
        height: rows of the image.
        trace: gains the stage ``labels``.

    Yields:
        ``(rows, W)`` int32 from top to bottom; the result does not depend on the bands.
    """
    # The last row that was yielded, and those below it that wait.
    held: LabelArray | None = None
    n_rows = 0
    for band in bands:
        with trace.stage("labels"):
            n_rows += len(band)
            n_yielded = 0 if held is None else 1
            rows = band if held is None else np.concatenate([held, band])
            n_decided = fill_rows(rows, is_bottom=n_rows == height)
            held = rows[n_decided - 1 :].copy()
        if n_decided > n_yielded:
            yield rows[n_yielded:n_decided]


def fill_rows(labels: LabelArray, *, is_bottom: bool) -> int:
    """Fill the holes in rows of an image, by the compiled loop if there is one.

    Args:
        labels: ``(rows, W)``, C-contiguous; modified. The first row is the image's first one, or
            decided already: background that touches it is no hole.
        is_bottom: whether the last row is the image's.

    Returns:
        Number of rows, 1 or more, that no later row changes.
    """
    library = load_library()
    if library is None:
        return fill_components(labels, is_bottom=is_bottom)
    n_decided: int = library.mediar_fill_holes(
        pointer(labels, np.int32), to_int64(labels.shape[0]), to_int64(labels.shape[1]),
        ctypes.c_int(is_bottom),
    )  # fmt: skip
    if n_decided < 0:
        raise MemoryError(f"regions of background in {labels.shape[0]} rows of labels")
    return n_decided


def fill_components(labels: LabelArray, *, is_bottom: bool) -> int:
    """Do what ``mediar_fill_holes`` does, without the compiled library."""
    n, regions, stats, _ = cv2.connectedComponentsWithStats(
        (labels == 0).view(np.uint8), connectivity=4, ltype=cv2.CV_32S
    )
    lowest, highest = np.full(n, np.iinfo(np.int32).max), np.zeros(n, np.int32)
    for inner, outer in (
        (np.s_[1:], np.s_[:-1]),
        (np.s_[:-1], np.s_[1:]),
        (np.s_[:, 1:], np.s_[:, :-1]),
        (np.s_[:, :-1], np.s_[:, 1:]),
    ):
        region, beside = regions[inner], labels[outer]
        touches = (region > 0) & (beside > 0)
        np.minimum.at(lowest, region[touches], beside[touches])
        np.maximum.at(highest, region[touches], beside[touches])
    is_open = lowest != highest
    for edge in (regions[0], regions[:, 0], regions[:, -1]):
        is_open[edge] = True
    below = np.unique(regions[-1])
    waiting = below[:0] if is_bottom else below[~is_open[below]]
    is_open[below] = is_open[0] = True
    labels += np.where(is_open, 0, highest)[regions]
    return int(stats[waiting, cv2.CC_STAT_TOP].min(initial=len(labels)))
