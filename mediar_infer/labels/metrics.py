"""The challenge's scorer: matched cells, precision, recall and F1 at IoU thresholds.

References:
    NeurIPS 2022 Cell Segmentation Challenge, ``baseline/compute_metric.py``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mediar_infer.config import LARGE_IMAGE_BLOCK, LARGE_IMAGE_PIXELS
from mediar_infer.errors import ShapeError

THRESHOLDS: Final = (0.5, 0.6, 0.7, 0.8, 0.9)
"""IoU thresholds that the challenge reports; the ranking uses the first."""

_FRAME = 2

_Labels = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Scores:
    """Counts of one image, or the sum over several, at one IoU threshold."""

    threshold: float
    """Smallest IoU of a match, in (0, 1]."""
    n_true: int
    """True cells that count: those that do not touch the frame."""
    n_pred: int
    """Predicted cells that count."""
    tp: int
    """Matched pairs of cells."""

    @property
    def fp(self) -> int:
        """Predicted cells without a match."""
        return self.n_pred - self.tp

    @property
    def fn(self) -> int:
        """True cells without a match."""
        return self.n_true - self.tp

    @property
    def precision(self) -> float:
        """Matched share of the predicted cells; 0 when nothing is matched."""
        return self.tp / self.n_pred if self.tp else 0.0

    @property
    def recall(self) -> float:
        """Matched share of the true cells; 0 when nothing is matched."""
        return self.tp / self.n_true if self.tp else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 when nothing is matched."""
        return 2 * self.tp / (self.n_true + self.n_pred) if self.tp else 0.0


def evaluate_labels(
    true: _Labels, predicted: _Labels, thresholds: Sequence[float] = THRESHOLDS
) -> list[Scores]:
    """Score a label image as the challenge does.

    Args:
        true: ``(H, W)`` integer instance labels, 0 = background. Not modified.
        predicted: ``(H, W)`` integer instance labels; ids need not be consecutive.
        thresholds: IoU thresholds, each in (0, 1].

    Returns:
        One record per threshold, in the given order.

    Raises:
        ShapeError: if the arrays are not 2-D integer images of one size without negative ids.

    Notes:
        Cells that touch the 2-pixel frame are omitted on both sides. From 25 megapixels on, each
        2000 × 2000 block from the origin, zero-padded, is scored as a separate image and the counts
        are summed. An image without a match scores 0, even if both sides are empty.
    """
    check_labels(true, predicted)
    n_true = n_pred = 0
    n_matched = [0] * len(thresholds)
    for block in _scored_blocks(true.shape):
        true_block = compute_inner_labels(_padded(true, block))
        pred_block = compute_inner_labels(_padded(predicted, block))
        n_true += int(true_block.max(initial=0))
        n_pred += int(pred_block.max(initial=0))
        ious = compute_ious(true_block, pred_block)
        for index, threshold in enumerate(thresholds):
            n_matched[index] += _count_matches(*ious, threshold)
    return [
        Scores(float(threshold), n_true, n_pred, tp)
        for threshold, tp in zip(thresholds, n_matched, strict=True)
    ]


def sum_scores(scores: Sequence[Scores]) -> Scores:
    """Pool counts of several images at one threshold; at least one record."""
    return Scores(
        threshold=scores[0].threshold,
        n_true=sum(each.n_true for each in scores),
        n_pred=sum(each.n_pred for each in scores),
        tp=sum(each.tp for each in scores),
    )


def check_labels(true: _Labels, predicted: _Labels) -> None:
    """Raise ShapeError unless both are 2-D integer images of one size without negative ids."""
    for role, labels in (("true", true), ("predicted", predicted)):
        if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
            raise ShapeError(
                f"{role} labels are {labels.dtype} of shape {labels.shape}; expected a 2-D integer "
                "image with one id per cell"
            )
        if labels.min(initial=0) < 0:
            raise ShapeError(f"{role} labels hold the negative id {labels.min()}; expected 0, 1, …")
    if true.shape != predicted.shape:
        raise ShapeError(
            f"predicted labels are {predicted.shape[0]}×{predicted.shape[1]} pixels but the true "
            f"ones {true.shape[0]}×{true.shape[1]}; expected the same height and width"
        )


def compute_inner_labels(labels: _Labels) -> npt.NDArray[np.int64]:
    """Remove cells that touch the 2-pixel frame and renumber the rest.

    Args:
        labels: ``(H, W)`` integer, no negative ids. Not modified.

    Returns:
        ``(H, W)`` int64 with ids 1…n in the order of the given ids.
    """
    largest = int(labels.max(initial=0))
    if largest > labels.size:
        # A table indexed by id would be larger than the image itself.
        ids, compact = np.unique(labels, return_inverse=True)
        labels = compact.reshape(labels.shape) + int(ids[0] != 0)
        largest = int(labels.max())
    kept = np.bincount(labels.ravel(), minlength=largest + 1) > 0
    kept[0] = False
    for edge in (labels[:_FRAME], labels[-_FRAME:], labels[:, :_FRAME], labels[:, -_FRAME:]):
        kept[edge] = False
    renumbered: npt.NDArray[np.int64] = np.where(kept, np.cumsum(kept), 0)[labels]
    return renumbered


def _scored_blocks(shape: tuple[int, ...]) -> Iterator[tuple[int, int, int, int]]:
    """Yield (top, left, height, width) of the parts that are scored on their own."""
    height, width = shape
    if height * width < LARGE_IMAGE_PIXELS:
        yield 0, 0, height, width
        return
    for top in range(0, height, LARGE_IMAGE_BLOCK):
        for left in range(0, width, LARGE_IMAGE_BLOCK):
            yield top, left, LARGE_IMAGE_BLOCK, LARGE_IMAGE_BLOCK


def _padded(labels: _Labels, block: tuple[int, int, int, int]) -> _Labels:
    top, left, height, width = block
    part = labels[top : top + height, left : left + width]
    if part.shape == (height, width):
        return part
    return np.pad(part, ((0, height - part.shape[0]), (0, width - part.shape[1])))


def compute_ious(
    true: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Compute the IoU of every overlapping pair of cells, never the dense matrix.

    Returns:
        True ids, predicted ids and IoUs, each ``(n_pairs,)``.
    """
    n_columns = int(predicted.max(initial=0)) + 1
    pair_ids = (true * n_columns + predicted).ravel()
    # Neighbours in a row mostly show the same pair: sorting runs is far cheaper than pixels.
    starts = np.flatnonzero(np.diff(pair_ids, prepend=-1))
    lengths = np.diff(starts, append=pair_ids.size)
    pairs, inverse = np.unique(pair_ids[starts], return_inverse=True)
    overlaps = np.bincount(inverse, weights=lengths, minlength=pairs.size)
    true_ids, pred_ids = np.divmod(pairs, n_columns)
    areas = np.bincount(true.ravel())[true_ids] + np.bincount(predicted.ravel())[pred_ids]
    both = (true_ids > 0) & (pred_ids > 0)
    ious = overlaps[both] / (areas[both] - overlaps[both])
    return true_ids[both], pred_ids[both], ious


def _count_matches(
    true_ids: npt.NDArray[np.int64],
    pred_ids: npt.NDArray[np.int64],
    ious: npt.NDArray[np.float64],
    threshold: float,
) -> int:
    """Count the pairs of the challenge's Hungarian matching that reach the threshold.

    The challenge minimises −[IoU ≥ t] − IoU / (2·min(n, m)). All second terms together are at most
    ½, less than one pair, so the number of pairs is that of a maximum matching between cells of IoU
    ≥ t; which of several such matchings the second term prefers does not change the count.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    close = ious >= threshold
    if not close.any():
        return 0
    graph = csr_array((np.ones(int(close.sum()), np.int8), (true_ids[close], pred_ids[close])))
    return int((maximum_bipartite_matching(graph) >= 0).sum())
