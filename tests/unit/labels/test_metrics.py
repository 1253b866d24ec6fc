import time

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from skimage.segmentation import relabel_sequential

from mediar_infer.errors import ShapeError
from mediar_infer.labels.metrics import (
    THRESHOLDS,
    Scores,
    compute_inner_labels,
    evaluate_labels,
    sum_scores,
)


def framed(rows, margin=2):
    """Put hand-drawn labels out of reach of the scorer's frame."""
    return np.pad(np.array(rows, np.int32), margin)


def count_matches_densely(true, predicted, threshold):
    """The challenge's own way: Hungarian matching on the full cost matrix."""
    n, m = int(true.max()), int(predicted.max())
    if n == 0 or m == 0:
        return 0
    overlap = np.zeros((n + 1, m + 1))
    np.add.at(overlap, (true.ravel(), predicted.ravel()), 1)
    union = overlap.sum(1, keepdims=True) + overlap.sum(0, keepdims=True) - overlap
    iou = (overlap / union)[1:, 1:]
    cost = -(iou >= threshold).astype(float) - iou / (2 * min(n, m))
    return int((iou[linear_sum_assignment(cost)] >= threshold).sum())


def test_perfect_prediction_scores_one():
    labels = framed([[1, 1, 0, 2], [1, 1, 0, 2]])
    for scores in evaluate_labels(labels, labels):
        assert (scores.n_true, scores.n_pred, scores.tp, scores.fp, scores.fn) == (2, 2, 2, 0, 0)
        assert scores.precision == scores.recall == scores.f1 == 1.0


def test_relabelling_leaves_scores_unchanged(rng):
    true = rng.integers(0, 6, (40, 50))
    predicted = rng.integers(0, 6, (40, 50))
    renamed = np.array([0, 90, 7, 4_000_000_000, 12, 3], np.uint32)[predicted]
    thresholds = (0.05, 0.1, 0.5)
    assert evaluate_labels(true, renamed, thresholds) == evaluate_labels(
        true, predicted, thresholds
    )


def test_iou_equal_to_the_threshold_is_a_match():
    true = framed([[1, 1, 1, 1]])
    predicted = framed([[1, 1, 0, 0]])
    scores = evaluate_labels(true, predicted, thresholds=(0.5, 0.51))
    assert [each.tp for each in scores] == [1, 0]


def test_ties_at_one_half_match_as_many_cells_as_possible():
    # Both halves of true 1 reach ½ with it; the right one also is ½ of true 2.
    true = framed([[1, 1, 2, 2]])
    predicted = framed([[1, 2, 2, 0]])
    assert evaluate_labels(true, predicted, (0.3,))[0].tp == 2
    split = framed([[1, 1, 2, 2]])
    assert evaluate_labels(framed([[1, 1, 1, 1]]), split, (0.5,))[0].tp == 1


@pytest.mark.parametrize("threshold", [0.1, 0.25, *THRESHOLDS])
def test_matches_equal_the_dense_assignment_on_random_labels(rng, threshold):
    for size in (8, 20, 60):
        for n_cells in (1, 4, 30):
            blocks = rng.integers(0, n_cells + 1, (2, size // 2, size // 2))
            true, predicted = blocks.repeat(2, axis=1).repeat(2, axis=2)
            predicted = np.where(rng.random(true.shape) < rng.random(), true, predicted)
            inner = [compute_inner_labels(labels) for labels in (true, predicted)]
            expected = count_matches_densely(*inner, threshold)
            assert evaluate_labels(true, predicted, (threshold,))[0].tp == expected


def test_matches_equal_the_dense_assignment_on_cells_split_in_halves(rng):
    """Many exact ties at ½: every true cell is two equal parts, joined at random to a neighbour."""
    for _ in range(20):
        true = framed(np.arange(1, 41).repeat(2)[None].repeat(2, axis=0))
        halves = np.cumsum(rng.random(80) < 0.6)
        predicted = framed((halves * (rng.random(81) < 0.9)[halves])[None].repeat(2, axis=0))
        inner = [compute_inner_labels(labels) for labels in (true, predicted)]
        for threshold in (0.5, 1 / 3):
            expected = count_matches_densely(*inner, threshold)
            assert evaluate_labels(true, predicted, (threshold,))[0].tp == expected


def test_cells_touching_the_two_pixel_frame_are_left_out():
    labels = np.zeros((12, 12), np.int32)
    labels[1, 5] = 1  # inside the frame
    labels[5:7, 1:4] = 2  # reaches into it
    labels[10, 10] = 3  # the frame's far corner
    labels[2:4, 2:4] = 4  # just inside
    labels[8:10, 8:10] = 9  # just inside, far corner
    expected = np.zeros((12, 12), np.int64)
    expected[2:4, 2:4], expected[8:10, 8:10] = 1, 2
    np.testing.assert_array_equal(compute_inner_labels(labels), expected)


def test_inner_labels_keep_the_order_of_ids_as_skimage_does(rng):
    labels = np.pad(rng.integers(0, 50, (30, 30)) * 7, 2)
    np.testing.assert_array_equal(compute_inner_labels(labels), relabel_sequential(labels)[0])


def test_huge_ids_need_no_huge_table():
    labels = framed([[2, 0, 1]]).astype(np.int64)
    labels[labels > 0] += 4_000_000_000
    np.testing.assert_array_equal(compute_inner_labels(labels)[2, 2:-2], [2, 0, 1])
    everywhere = np.full((6, 6), 4_000_000_000, np.uint32)
    assert compute_inner_labels(everywhere).max() == 0


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (3, 40), (4, 4)])
def test_image_within_the_frame_has_no_cells(shape):
    labels = np.ones(shape, np.int32)
    assert [(each.n_true, each.n_pred, each.f1) for each in evaluate_labels(labels, labels)] == [
        (0, 0, 0.0)
    ] * len(THRESHOLDS)


@pytest.mark.parametrize(("n_true", "n_pred"), [(0, 0), (1, 0), (0, 1)])
def test_nothing_matched_scores_zero_and_keeps_the_counts(n_true, n_pred):
    true, predicted = framed([[n_true, 0]]), framed([[0, n_pred]])
    scores = evaluate_labels(true, predicted, (0.5,))[0]
    assert (scores.fn, scores.fp) == (n_true, n_pred)
    assert (scores.precision, scores.recall, scores.f1) == (0.0, 0.0, 0.0)


def test_large_image_is_scored_per_block_with_counts_summed():
    true = np.zeros((5000, 5000), np.uint8)
    true[100:110, 100:110] = 1
    true[1995:2005, 100:110] = 2  # cut by the block line: touches both frames
    true[4990:5000, 4990:5000] = 3  # the padding keeps it away from the last block's frame
    scores = evaluate_labels(true, true, (0.5,))[0]
    assert (scores.n_true, scores.n_pred, scores.tp) == (2, 2, 2)


def test_seventy_thousand_cells_are_scored_in_seconds(rng):
    true = np.zeros((2400, 2400), np.int32)
    true[:, :] = np.arange(270 * 270).reshape(270, 270).repeat(9, 0).repeat(9, 1)[:2400, :2400]
    predicted = np.roll(true, 1, axis=0)
    begin = time.perf_counter()
    scores = evaluate_labels(true, predicted)
    assert time.perf_counter() - begin < 20
    assert scores[0].n_true > 70_000
    assert scores[0].tp > 70_000
    assert scores[-1].tp == 0


def test_inputs_are_not_modified(rng):
    true, predicted = rng.integers(0, 9, (2, 30, 30))
    copies = true.copy(), predicted.copy()
    evaluate_labels(true, predicted)
    np.testing.assert_array_equal(true, copies[0])
    np.testing.assert_array_equal(predicted, copies[1])


@pytest.mark.parametrize(
    ("true", "predicted", "message"),
    [
        (np.zeros((4, 5), int), np.zeros((5, 4), int), "predicted labels are 5×4 .* true ones 4×5"),
        (np.zeros((4, 5), float), np.zeros((4, 5), int), "true labels are float64"),
        (np.zeros((4, 5), int), np.zeros((4, 5, 3), int), r"predicted .* shape \(4, 5, 3\)"),
        (np.full((4, 5), -1), np.zeros((4, 5), int), "negative id -1"),
    ],
)
def test_labels_that_cannot_be_scored_are_named(true, predicted, message):
    with pytest.raises(ShapeError, match=message):
        evaluate_labels(true, predicted)


def test_pooled_scores_sum_the_counts():
    pooled = sum_scores([Scores(0.5, 3, 4, 2), Scores(0.5, 7, 6, 5)])
    assert pooled == Scores(0.5, 10, 10, 7)
    assert pooled.f1 == pytest.approx(0.7)
