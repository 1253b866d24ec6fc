"""Unit flow and flow error of labels whose answer is known."""

import numpy as np
import pytest
from fakes import draw_cells, draw_ellipses

from mediar_infer.arrays import FLOW_SCALE
from mediar_infer.labels.flows import compute_flow_errors, compute_unit_flow, renumber_labels


def disk(size=31, radius=12):
    return draw_ellipses(size, size, [(size // 2, size // 2, radius, radius)])


def test_unit_flow_has_length_one_inside_cells_and_zero_outside(kernels, rng):
    labels = draw_cells(rng, 100, 80)
    flow = compute_unit_flow(labels, kernels)
    assert flow.dtype == np.float32
    assert flow.shape == (2, 100, 80)
    length = np.hypot(*flow)
    assert (length[labels == 0] == 0).all()
    assert np.mean(np.abs(length[labels > 0] - 1) < 1e-5) > 0.99


def test_unit_flow_of_a_disk_points_to_its_centre(kernels):
    labels = disk()
    flow = compute_unit_flow(labels, kernels)
    y, x = np.nonzero(labels)
    towards = np.stack([15 - y, 15 - x]).astype(float)
    far = np.hypot(*towards) > 2
    towards /= np.maximum(np.hypot(*towards), 1e-9)
    assert ((flow[:, y, x] * towards).sum(0)[far] > 0.97).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_unit_flow_takes_any_integers_and_does_not_modify_them(kernels, dtype):
    labels = disk().astype(dtype)
    labels.flags.writeable = False
    np.testing.assert_array_equal(
        compute_unit_flow(labels, kernels), compute_unit_flow(disk(), kernels)
    )


def test_unit_flow_of_no_cells_is_zero(kernels):
    assert not compute_unit_flow(np.zeros((5, 8), np.int32)).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
def test_unit_flow_of_a_full_image_is_finite(kernels, shape):
    assert np.isfinite(compute_unit_flow(np.ones(shape, np.int32), kernels)).all()


def test_unit_flow_does_not_depend_on_the_ids(kernels, rng):
    labels = draw_cells(rng, 90, 70)
    renumbered = rng.permutation(np.arange(1000, 1000 + labels.max() + 1))[labels]
    renumbered[labels == 0] = 0
    np.testing.assert_array_equal(
        compute_unit_flow(renumbered, kernels), compute_unit_flow(labels, kernels)
    )


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_unit_flow_of_flipped_labels_is_flipped(kernels, rng, axes):
    # Odd extents have one middle pixel; with even ones the source lies beside the middle.
    labels = draw_ellipses(71, 65, [(20, 20, 12.5, 9.5), (50, 40, 8.5, 14.5)])
    expected = np.flip(compute_unit_flow(labels, kernels), [axis + 1 for axis in axes]).copy()
    for axis in axes:
        expected[axis] *= -1
    found = compute_unit_flow(np.flip(labels, axes), kernels)
    y, x = np.nonzero(np.flip(labels, axes))
    np.testing.assert_allclose(np.median((found - expected)[:, y, x]), 0, atol=1e-5)


def test_touching_cells_see_each_other(kernels):
    apart = np.zeros((20, 40), np.int32)
    apart[5:15, 5:15] = 1
    touching = apart.copy()
    touching[5:15, 15:25] = 2
    alone, beside = compute_unit_flow(apart, kernels), compute_unit_flow(touching, kernels)
    assert np.abs(alone - beside)[:, 5:15, 14].max() > 0.01


def test_flow_error_of_the_ideal_flow_is_zero_and_of_the_reverse_four(kernels, rng):
    labels = draw_cells(rng, 90, 70)
    flow = FLOW_SCALE * compute_unit_flow(labels, kernels)
    assert compute_flow_errors(labels, flow, kernels).max() < 1e-6
    reverse = compute_flow_errors(labels, -flow, kernels)
    np.testing.assert_allclose(reverse, 4.0, rtol=0.02)


def test_flow_error_is_the_mean_over_each_cell(kernels):
    labels = np.zeros((20, 50), np.int32)
    labels[5:15, 5:15], labels[5:15, 30:40] = 1, 2
    flow = FLOW_SCALE * compute_unit_flow(labels, kernels)
    flow[0, 5:15, 30:40] += 0.5 * FLOW_SCALE
    errors = compute_flow_errors(labels, flow, kernels)
    assert errors.tolist() == pytest.approx([0, 0.25], abs=1e-6)


def test_no_cells_have_no_flow_errors(kernels):
    errors = compute_flow_errors(
        np.zeros((4, 4), np.int32), np.zeros((2, 4, 4), np.float32), kernels
    )
    assert errors.shape == (0,)
    assert errors.dtype == np.float64


@pytest.mark.parametrize("scale", [1, 3, 50, 10_000_000])
def test_renumbered_labels_are_consecutive_in_the_order_of_their_ids(rng, scale):
    labels = rng.permutation(np.arange(60)).reshape(6, 10).astype(np.int32)
    renumbered, n_labels = renumber_labels(labels * scale)
    assert n_labels == 59
    assert renumbered.dtype == np.int32
    np.testing.assert_array_equal(renumbered, labels)


@pytest.mark.parametrize("background", [True, False])
def test_background_stays_zero_and_cells_start_at_one(background):
    labels = np.array([[0 if background else 9, 7, 9]], np.uint16)
    expected = [[0, 1, 2]] if background else [[2, 1, 2]]
    for large in (labels, labels.astype(np.int64) * 10_000_000):
        assert renumber_labels(large)[0].tolist() == expected


def test_no_pixels_have_no_labels():
    renumbered, n_labels = renumber_labels(np.zeros((0, 4), np.int32))
    assert (renumbered.shape, n_labels) == ((0, 4), 0)
