"""Tracking, pseudo-diffusion and flow error on fields whose answer is known."""

import numpy as np
import pytest
import torch
from fakes import draw_cells, draw_ellipses

from mediar_infer.flows import (
    N_STEPS,
    Frame,
    compute_flow_errors,
    compute_unit_flow,
    diffuse_cells,
    gather_cells,
    track_flow,
)
from mediar_infer.types import FLOW_SCALE


def whole(height, width):
    return Frame(0, 0, height, width)


def constant_flow(height, width, dy, dx):
    return torch.tensor([dy, dx], dtype=torch.float32)[:, None, None].repeat(1, height, width)


def disk(size=31, radius=12):
    return draw_ellipses(size, size, [(size // 2, size // 2, radius, radius)])


def as_tensor(labels):
    return torch.from_numpy(labels.astype(np.int64))


def test_points_follow_a_constant_flow():
    points = torch.tensor([[5, 5], [20, 30]])
    end = track_flow(constant_flow(60, 60, 0.1, 0.05), points, whole(60, 60), n_steps=100)
    # Ten pixels down, five to the right; the half-pixel quirk matters at the border only.
    assert torch.all((end - points - torch.tensor([10, 5])).abs() <= 1)


@pytest.mark.parametrize(
    ("dy", "dx", "corner"), [(1, 1, (39, 29)), (-1, -1, (0, 0)), (1, -1, (39, 0)), (0, 1, (7, 29))]
)
def test_points_stay_in_the_image(dy, dx, corner):
    points = torch.tensor([[7, 9]])
    end = track_flow(constant_flow(40, 30, dy, dx), points, whole(40, 30))
    # Beyond the border the field is zero, so half a pixel may be missing.
    assert (end[0] - torch.tensor(corner)).abs().max() <= 1
    assert 0 <= end[0, 0] < 40
    assert 0 <= end[0, 1] < 30


def test_zero_steps_leave_points_where_they_are():
    points = torch.cartesian_prod(torch.arange(6), torch.arange(70))
    end = track_flow(constant_flow(6, 70, 1, 1), points, whole(6, 70), n_steps=0)
    # A whole coordinate that is scaled and scaled back may come out a rounding error below itself,
    # and truncation then takes the pixel before it; only pixels with a flow are ever tracked.
    assert (points - end).min() >= 0
    assert (points - end).max() <= 1


@pytest.mark.parametrize("shape", [(1, 50), (50, 1), (1, 1)])
def test_one_pixel_wide_images_are_tracked_without_nan(shape):
    points = torch.ones(shape).nonzero()
    end = track_flow(constant_flow(*shape, 0.3, 0.3), points, whole(*shape))
    assert end.dtype == torch.int64
    assert (end >= 0).all()
    assert (end < torch.tensor(shape)).all()


@pytest.mark.parametrize("n_points", [0, 1, 2, 3, 17])
def test_any_number_of_points_comes_back_in_order(n_points):
    points = torch.arange(n_points)[:, None].repeat(1, 2)
    end = track_flow(torch.zeros(2, 20, 20), points, whole(20, 20), n_steps=1)
    assert end.shape == (n_points, 2)
    assert (end.diff(dim=0) >= 0).all()


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_tracks_do_not_depend_on_the_number_of_threads(rng, n_threads):
    before = torch.get_num_threads()
    flow = torch.from_numpy(rng.normal(size=(2, 50, 41)).astype(np.float32))
    points = torch.ones(50, 41).nonzero()
    try:
        torch.set_num_threads(1)
        expected = track_flow(flow, points, whole(50, 41))
        torch.set_num_threads(n_threads)
        found = track_flow(flow, points, whole(50, 41))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, expected)


def test_tracks_in_a_crop_are_those_in_the_whole_image(rng):
    labels = draw_cells(rng, 90, 120, spacing=30, radii=(7, 11))
    flow = torch.from_numpy(compute_unit_flow(labels))
    points = torch.from_numpy(np.argwhere(labels == 6))
    expected = track_flow(flow, points, whole(90, 120))
    top, left = points.amin(0) - 5
    crop = flow[:, top : top + 40, left : left + 40]
    found = track_flow(crop, points - torch.stack([top, left]), Frame(int(top), int(left), 90, 120))
    assert (found + torch.stack([top, left]) - expected).abs().max() <= 1


def test_field_and_points_are_not_modified():
    flow, points = constant_flow(9, 9, 1, 0), torch.tensor([[1, 1]])
    track_flow(flow, points, whole(9, 9))
    assert torch.equal(flow, constant_flow(9, 9, 1, 0))
    assert points.tolist() == [[1, 1]]


def test_unit_flow_has_length_one_inside_cells_and_zero_outside(rng):
    labels = draw_cells(rng, 100, 80)
    flow = compute_unit_flow(labels)
    assert flow.dtype == np.float32
    assert flow.shape == (2, 100, 80)
    length = np.hypot(*flow)
    assert (length[labels == 0] == 0).all()
    assert np.mean(np.abs(length[labels > 0] - 1) < 1e-5) > 0.99


def test_unit_flow_of_a_disk_points_to_its_centre():
    labels = disk()
    flow = compute_unit_flow(labels)
    y, x = np.nonzero(labels)
    towards = np.stack([15 - y, 15 - x]).astype(float)
    far = np.hypot(*towards) > 2
    towards /= np.maximum(np.hypot(*towards), 1e-9)
    assert ((flow[:, y, x] * towards).sum(0)[far] > 0.97).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_unit_flow_takes_any_integers_and_does_not_modify_them(dtype):
    labels = disk().astype(dtype)
    labels.flags.writeable = False
    np.testing.assert_array_equal(compute_unit_flow(labels), compute_unit_flow(disk()))


def test_unit_flow_of_no_cells_is_zero():
    assert not compute_unit_flow(np.zeros((5, 8), np.int32)).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
def test_unit_flow_of_a_full_image_is_finite(shape):
    assert np.isfinite(compute_unit_flow(np.ones(shape, np.int32))).all()


def test_unit_flow_does_not_depend_on_the_ids(rng):
    labels = draw_cells(rng, 90, 70)
    renumbered = rng.permutation(np.arange(1000, 1000 + labels.max() + 1))[labels]
    renumbered[labels == 0] = 0
    np.testing.assert_array_equal(compute_unit_flow(renumbered), compute_unit_flow(labels))


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_unit_flow_of_flipped_labels_is_flipped(rng, axes):
    # Odd extents have one middle pixel; with even ones the source lies beside the middle.
    labels = draw_ellipses(71, 65, [(20, 20, 12.5, 9.5), (50, 40, 8.5, 14.5)])
    expected = np.flip(compute_unit_flow(labels), [axis + 1 for axis in axes]).copy()
    for axis in axes:
        expected[axis] *= -1
    found = compute_unit_flow(np.flip(labels, axes))
    y, x = np.nonzero(np.flip(labels, axes))
    np.testing.assert_allclose(np.median((found - expected)[:, y, x]), 0, atol=1e-5)


def test_touching_cells_see_each_other():
    apart = np.zeros((20, 40), np.int32)
    apart[5:15, 5:15] = 1
    touching = apart.copy()
    touching[5:15, 15:25] = 2
    alone, beside = compute_unit_flow(apart), compute_unit_flow(touching)
    assert np.abs(alone - beside)[:, 5:15, 14].max() > 0.01


def test_cells_diffuse_together_as_they_do_alone(rng):
    # They lie in strips with others of about their width, each with its own number of iterations.
    labels = draw_cells(rng, 200, 160, spacing=25, radii=(2, 11))
    labels[190:, :] = labels.max() + 1
    cells = gather_cells(as_tensor(labels))
    iterations = 2 * (cells.height + cells.width + 2)
    warmth = diffuse_cells(cells, iterations)
    for each in rng.choice(len(iterations), 12, replace=False):
        lone = gather_cells(as_tensor(labels == each + 1))
        expected = diffuse_cells(lone, iterations[each : each + 1])
        torch.testing.assert_close(warmth[cells.cell == each], expected, rtol=0, atol=0)


def test_diffusion_that_has_settled_stops_early_with_the_same_result():
    cells = gather_cells(as_tensor(disk(11, 3)))
    settled = diffuse_cells(cells, torch.tensor([5000]))
    torch.testing.assert_close(diffuse_cells(cells, torch.tensor([100_000])), settled)


def test_cells_are_gathered_with_their_boxes_and_centres():
    labels = np.zeros((6, 7), np.int32)
    labels[1:4, 2:5] = 4  # median pixel (2, 3)
    labels[5, 0:2] = 9  # two pixels as near to the median: the first counts
    cells = gather_cells(as_tensor(labels))
    assert cells.counts.tolist() == [9, 2]
    assert cells.top.tolist() == [1, 5]
    assert cells.left.tolist() == [2, 0]
    assert cells.height.tolist() == [3, 1]
    assert cells.width.tolist() == [3, 2]
    centre = cells.centre
    assert list(zip(cells.y[centre].tolist(), cells.x[centre].tolist(), strict=True)) == [
        (2, 3),
        (5, 0),
    ]


def test_flow_error_of_the_ideal_flow_is_zero_and_of_the_reverse_four(rng):
    labels = draw_cells(rng, 90, 70)
    flow = torch.from_numpy(FLOW_SCALE * compute_unit_flow(labels))
    assert compute_flow_errors(as_tensor(labels), flow).max() < 1e-6
    reverse = compute_flow_errors(as_tensor(labels), -flow)
    torch.testing.assert_close(reverse, torch.full_like(reverse, 4.0), rtol=0.02, atol=0)


def test_flow_error_is_the_mean_over_each_cell():
    labels = np.zeros((20, 50), np.int32)
    labels[5:15, 5:15], labels[5:15, 30:40] = 1, 2
    flow = FLOW_SCALE * compute_unit_flow(labels)
    flow[0, 5:15, 30:40] += 0.5 * FLOW_SCALE
    errors = compute_flow_errors(as_tensor(labels), torch.from_numpy(flow))
    assert errors.tolist() == pytest.approx([0, 0.25], abs=1e-6)


def test_no_cells_have_no_flow_errors():
    errors = compute_flow_errors(torch.zeros(4, 4, dtype=torch.int64), torch.zeros(2, 4, 4))
    assert errors.shape == (0,)
    assert errors.dtype == torch.float64


def test_labels_to_flow_and_back_brings_every_pixel_to_its_own_cell(rng):
    labels = draw_cells(rng, 110, 130)
    flow = torch.from_numpy(compute_unit_flow(labels))
    points = torch.from_numpy(np.argwhere(labels > 0))
    end = track_flow(flow, points, whole(*labels.shape), n_steps=N_STEPS).numpy()
    start = points.numpy()
    same = labels[end[:, 0], end[:, 1]] == labels[start[:, 0], start[:, 1]]
    assert same.mean() > 0.99
