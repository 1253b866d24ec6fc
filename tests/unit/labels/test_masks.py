"""Maps → labels on cells drawn by hand."""

import itertools

import numpy as np
import pytest
from fakes import draw_cells, draw_ellipses, intersection_over_union, maps_of_labels

from mediar_infer.arrays import CELLPROB, FLOW_X, FLOW_Y
from mediar_infer.config import MaskConfig
from mediar_infer.labels.flows import FlowCheck
from mediar_infer.labels.masks import compute_labels, foreground_of, remove_small


def drawn(*rows):
    return np.array([[character != "." for character in row] for row in rows])


def test_holes_and_objects_of_fewer_pixels_than_the_limit_go():
    foreground = drawn(
        "........",
        ".####.##",
        ".#..#.#.",
        ".####...",
        "........",
        "......##",
    )
    expected = drawn(
        "........",
        ".####...",
        ".####...",
        ".####...",
        "........",
        "........",
    )
    np.testing.assert_array_equal(remove_small(foreground, 4), expected)


def test_the_limit_itself_stays():
    foreground = np.zeros((10, 40), bool)
    foreground[2, 2:17] = True  # 15 pixels
    foreground[5, 2:18] = True  # 16 pixels
    cleaned = remove_small(foreground, 16)
    assert not cleaned[2].any()
    assert cleaned[5].sum() == 16


def test_diagonal_neighbours_are_apart():
    foreground = np.zeros((20, 20), bool)
    foreground[2:5, 2:5] = foreground[5:8, 5:8] = True  # 9 pixels each, touching at a corner
    assert not remove_small(foreground, 16).any()


@pytest.mark.parametrize("value", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (3, 3)])
def test_uniform_foreground_is_filled_or_dropped_by_its_size(shape, value):
    # An image that is all background is one hole, and a small one is filled, then dropped.
    size = shape[0] * shape[1]
    expected = value and size >= 16
    assert (remove_small(np.full(shape, value), 16) == expected).all()


def test_cleaning_does_not_modify_the_foreground():
    foreground = drawn("##..", "....")
    foreground.flags.writeable = False
    remove_small(foreground, 4)


@pytest.mark.parametrize(("threshold", "n_pixels"), [(0.5, 2), (0.1, 4), (0.9, 1)])
def test_foreground_is_probability_above_the_threshold(threshold, n_pixels):
    probability = np.array([[0.05, 0.2, 0.4, 0.5001, 0.95]])
    logits = np.log(probability / (1 - probability)).astype(np.float32)
    assert foreground_of(logits, threshold).sum() == n_pixels


def test_probability_of_exactly_one_half_is_background():
    assert not foreground_of(np.zeros((2, 2), np.float32), 0.5).any()


@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_labels_to_flow_and_back_keeps_each_cell(rng, noise):
    labels = draw_cells(rng, 120, 150)
    found, n_cells = compute_labels(maps_of_labels(labels, noise))
    assert n_cells == labels.max()
    assert intersection_over_union(labels, found).min() > 0.9


def test_touching_cells_are_reported_apart():
    labels = draw_ellipses(50, 70, [(25, 20, 14, 14), (25, 47, 14, 14)])
    found, n_cells = compute_labels(maps_of_labels(labels))
    assert n_cells == 2
    assert intersection_over_union(labels, found).min() > 0.9


def test_labels_are_int32_and_consecutive_in_the_order_of_their_seeds(rng):
    found, n_cells = compute_labels(maps_of_labels(draw_cells(rng, 120, 150)))
    assert found.dtype == np.int32
    assert np.unique(found).tolist() == list(range(n_cells + 1))
    rows = [np.nonzero(found == each)[0].mean() for each in range(1, n_cells + 1)]
    assert all(below > above - 10 for above, below in itertools.pairwise(rows))


@pytest.mark.parametrize("shape", [(1, 1), (1, 60), (60, 1), (40, 50)])
@pytest.mark.parametrize("logit", [-4.0, 0.0, 4.0])
def test_image_without_a_cell_or_without_flow_gives_zeros(shape, logit):
    maps = np.zeros((3, *shape), np.float32)
    maps[CELLPROB] = logit
    found, n_cells = compute_labels(maps)
    assert found.shape == shape
    assert found.dtype == np.int32
    assert n_cells == 0
    assert not found.any()


def test_fewer_than_five_tracked_pixels_give_no_cell():
    maps = np.zeros((3, 20, 20), np.float32)
    maps[CELLPROB] = -4
    maps[CELLPROB, 5:10, 5:10] = 4
    maps[FLOW_Y, 7, 5:9] = 5
    assert compute_labels(maps)[1] == 0


@pytest.mark.parametrize("logit", [-4.0, 4.0])
def test_noise_gives_an_answer(rng, logit):
    maps = rng.normal(0, 5, (3, 64, 48)).astype(np.float32)
    maps[CELLPROB] += logit
    found, n_cells = compute_labels(maps)
    assert n_cells == found.max()


def test_cell_that_fills_more_than_nine_tenths_of_the_image_is_removed():
    full = np.ones((40, 40), np.int32)
    assert compute_labels(maps_of_labels(full))[1] == 0
    assert compute_labels(maps_of_labels(full), MaskConfig(max_fraction=1.0))[1] == 1
    most = full.copy()
    most[:5] = 0  # 87.5 %
    assert compute_labels(maps_of_labels(most))[1] == 1


def test_cells_whose_flow_does_not_fit_are_removed_unless_that_is_off():
    labels = draw_ellipses(60, 120, [(30, 30, 14, 14), (30, 85, 20, 20)])
    maps = maps_of_labels(labels)
    # All of the second cell flows to its left rim.
    maps[FLOW_Y][labels == 2] = 0.01
    maps[FLOW_X][labels == 2] = -5
    flow_check = FlowCheck()
    found, n_cells = compute_labels(maps, flow_check=flow_check)
    assert n_cells == 1
    assert intersection_over_union(labels == 1, found).min() > 0.9
    assert not found[labels == 2].any()
    unchecked = FlowCheck()
    _, n_all = compute_labels(maps, MaskConfig(flow_threshold=None), flow_check=unchecked)
    assert n_all > 1
    assert (flow_check.n_checked, flow_check.n_removed) == (n_all, n_all - 1)
    assert (unchecked.n_checked, unchecked.n_removed) == (0, 0)


def test_flow_check_adds_up_over_the_blocks_of_an_image():
    labels = draw_ellipses(60, 120, [(30, 30, 14, 14), (30, 85, 20, 20)])
    flow_check = FlowCheck()
    for _ in range(2):
        compute_labels(maps_of_labels(labels), flow_check=flow_check)
    assert (flow_check.n_checked, flow_check.n_removed) == (4, 0)


def test_minimum_size_decides_which_cells_stay():
    labels = draw_ellipses(40, 80, [(20, 20, 6, 6), (20, 55, 12, 12)])
    assert compute_labels(maps_of_labels(labels))[1] == 2
    found, n_cells = compute_labels(maps_of_labels(labels), MaskConfig(min_size=200))
    assert n_cells == 1
    assert not found[:, :40].any()


def test_single_row_image_keeps_wide_cells():
    labels = np.zeros((1, 120), np.int32)
    labels[0, 10:50], labels[0, 60:110] = 1, 2
    # A row has no vertical flow, and pixels without it are not tracked (as released).
    assert compute_labels(maps_of_labels(labels, noise=0.0))[1] == 0
    found, n_cells = compute_labels(maps_of_labels(labels))
    assert found.shape == (1, 120)
    assert n_cells == 2


def test_maps_are_not_modified(rng):
    maps = maps_of_labels(draw_cells(rng, 60, 60))
    before = maps.copy()
    maps.flags.writeable = False  # the compiled loops would not mind
    compute_labels(maps)
    np.testing.assert_array_equal(maps, before)
