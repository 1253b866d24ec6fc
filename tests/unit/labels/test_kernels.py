"""The label stage's loops, in C and in torch, on fields and labels whose answer is known."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import draw_cells, draw_ellipses, maps_of_labels

from mediar_infer.arrays import FLOW_SCALE, FLOW_X, FLOW_Y
from mediar_infer.devices import CPU, Device
from mediar_infer.errors import ShapeError
from mediar_infer.labels import kernels as kernels_package
from mediar_infer.labels.flows import compute_unit_flow
from mediar_infer.labels.kernels import Frame, Region, choice
from mediar_infer.labels.kernels.compiled import CompiledKernels, load_library
from mediar_infer.labels.kernels.diffusion import diffuse_cells, gather_cells
from mediar_infer.labels.kernels.field import describe_axes
from mediar_infer.labels.kernels.tensors import TorchKernels
from mediar_infer.labels.kernels.tracking import track_points, track_points_by_sampling
from mediar_infer.labels.masks import compute_labels


def constant_flow(height, width, dy, dx):
    flow = np.empty((2, height, width), np.float32)
    flow[FLOW_Y], flow[FLOW_X] = FLOW_SCALE * dy, FLOW_SCALE * dx
    return flow


def everywhere(flow):
    return np.ones(flow.shape[1:], np.bool_)


def track(kernels, flow, n_steps=200, frame=None, region=None):
    """End points (2, h, w) and the number of pixels that were followed."""
    frame = frame or Frame(0, 0, *flow.shape[1:])
    ends, n = kernels.track(flow, everywhere(flow), frame, region, n_steps)
    assert ends.dtype == np.int32
    return np.stack(np.divmod(ends, flow.shape[2])), n


def test_points_follow_a_constant_flow(kernels):
    ends, n = track(kernels, constant_flow(60, 60, 0.1, 0.05), n_steps=100)
    assert n == 3600
    # Ten pixels down, five to the right; the half-pixel quirk matters at the border only.
    for y, x in ((5, 5), (20, 30)):
        assert np.abs(ends[:, y, x] - (y + 10, x + 5)).max() <= 1


@pytest.mark.parametrize(
    ("dy", "dx", "corner"), [(1, 1, (39, 29)), (-1, -1, (0, 0)), (1, -1, (39, 0)), (1, 0, (39, 9))]
)
def test_points_stay_in_the_image(kernels, dy, dx, corner):
    ends, _ = track(kernels, constant_flow(40, 30, dy, dx))
    # Beyond the border the field is zero, so half a pixel may be missing.
    assert np.abs(ends[:, 7, 9] - corner).max() <= 1
    assert ends.min() >= 0
    assert (ends.reshape(2, -1).max(axis=1) < (40, 30)).all()


@pytest.fixture
def compiled():
    library = load_library()
    if library is None:
        pytest.skip("the package was installed without a C compiler")
    return CompiledKernels(library, 2)


@pytest.fixture
def tensors():
    return TorchKernels(torch.device("cpu"))


@pytest.mark.parametrize("n_steps", [1, 2, 3, 7, 8, 9, 200])
@pytest.mark.parametrize("scale", [1, 3, 20])
def test_both_implementations_track_alike(rng, compiled, tensors, n_steps, scale):
    flow = rng.normal(scale=scale, size=(2, 40, 50)).astype(np.float32)
    foreground = rng.random((40, 50)) < 0.9
    flow[:, rng.random((40, 50)) < 0.01] = np.nan
    frame = Frame(3, -2, 60, 45)  # padded at the left and at the right
    ours, n = compiled.track(flow, foreground, frame, None, n_steps)
    theirs, n_too = tensors.track(flow, foreground, frame, None, n_steps)
    assert n == n_too
    np.testing.assert_array_equal(ours, theirs)


def test_sampled_tracks_end_within_a_pixel_of_the_exact_ones(rng):
    field = torch.from_numpy(rng.normal(scale=0.1, size=(2, 40, 50)).astype(np.float32))
    points, frame = torch.ones(40, 50).nonzero(), Frame(0, 0, 40, 50)
    exact = track_points(field, points, frame, n_steps=200)
    sampled = track_points_by_sampling(field, points, frame, n_steps=200)
    # Near a saddle a rounding error grows.
    assert ((exact - sampled).abs() <= 1).all(dim=1).float().mean() > 0.98


@pytest.mark.parametrize("noise", [0.0, 0.25, 2.0])
def test_both_implementations_give_the_same_labels(rng, compiled, tensors, noise):
    # Cells wide enough that some are extrapolated to their balance.
    maps = maps_of_labels(draw_cells(rng, 200, 220, spacing=60, radii=(4, 27)), noise)
    ours, theirs = (compute_labels(maps, kernels=kernels)[0] for kernels in (compiled, tensors))
    assert ours.any()
    np.testing.assert_array_equal(ours, theirs)


def test_pixels_without_vertical_flow_stay_where_they_are(kernels):
    flow = np.zeros((2, 9, 30), np.float32)
    flow[FLOW_X] = FLOW_SCALE
    flow[FLOW_Y, 4, :3] = (0.0049, 0.0051, -0.0051)
    ends, n = track(kernels, flow)
    assert n == 2
    assert ends[:, 4, 0].tolist() == [4, 0]
    assert ends[1, 4, 1] > 20


def test_background_stays_and_does_not_move_others(kernels):
    flow = constant_flow(20, 20, 1, 0)
    foreground = np.zeros((20, 20), np.bool_)
    foreground[5:8] = True
    ends, n = kernels.track(flow, foreground, Frame(0, 0, 20, 20))
    rows = ends // 20
    assert n == 60
    assert (rows[:5] == np.arange(5)[:, None]).all()
    assert (rows[5:8] >= 7).all()
    assert (rows[5:8] <= 8).all()


@pytest.mark.parametrize("shape", [(1, 50), (50, 1), (1, 1)])
def test_one_pixel_wide_images_are_tracked_without_nan(kernels, shape):
    ends, _ = track(kernels, constant_flow(*shape, 0.3, 0.3))
    assert (ends >= 0).all()
    assert (ends.reshape(2, -1).max(axis=1) < shape).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_wild_flow_leads_nowhere_outside_the_image(kernels, value):
    flow = constant_flow(20, 30, 1, 0)
    flow[:, 5:9, 5:9] = value
    ends, _ = track(kernels, flow)
    assert ends.min() >= 0
    assert (ends.reshape(2, -1).max(axis=1) < (20, 30)).all()


def test_pixels_that_swing_end_where_the_last_step_takes_them(kernels):
    # Two rows that point at each other for ever, faster than they are apart.
    flow = np.zeros((2, 12, 5), np.float32)
    flow[FLOW_Y, :6], flow[FLOW_Y, 6:] = FLOW_SCALE * 0.7, -FLOW_SCALE * 0.7
    even, _ = track(kernels, flow, 200)
    odd, _ = track(kernels, flow, 201)
    assert set(np.unique(even[0, 3:9])) <= {4, 5, 6, 7}
    assert np.abs(even - odd).max() <= 1


def test_tracks_do_not_depend_on_the_number_of_threads(rng, compiled):
    flow = rng.normal(scale=3, size=(2, 150, 41)).astype(np.float32)
    expected, _ = track(CompiledKernels(load_library(), 1), flow)
    found, _ = track(compiled, flow)
    np.testing.assert_array_equal(found, expected)


def test_torch_tracks_do_not_depend_on_the_number_of_threads(rng):
    before = torch.get_num_threads()
    field = torch.from_numpy(rng.normal(size=(2, 50, 41)).astype(np.float32))
    points, frame = torch.ones(50, 41).nonzero(), Frame(0, 0, 50, 41)
    try:
        torch.set_num_threads(1)
        expected = track_points(field, points, frame, n_steps=200)
        torch.set_num_threads(3)
        found = track_points(field, points, frame, n_steps=200)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, expected)


def test_tracks_in_a_crop_are_those_in_the_whole_image(kernels, rng):
    labels = draw_cells(rng, 90, 120, spacing=30, radii=(7, 11))
    flow = FLOW_SCALE * compute_unit_flow(labels, kernels)
    y, x = np.nonzero(labels == 6)
    expected, _ = track(kernels, flow)
    top, left = y.min() - 5, x.min() - 5
    crop = np.ascontiguousarray(flow[:, top : top + 40, left : left + 40])
    found, _ = track(kernels, crop, frame=Frame(int(top), int(left), 90, 120))
    here = found[:, y - top, x - left] + np.array([[top], [left]])
    assert np.abs(here - expected[:, y, x]).max() <= 1


def test_a_region_is_tracked_as_in_the_whole_array(kernels, rng):
    flow = rng.normal(scale=3, size=(2, 50, 60)).astype(np.float32)
    whole, _ = track(kernels, flow)
    part, n = track(kernels, flow, region=Region(10, 20, 35, 45))
    assert part.shape == (2, 25, 25)
    assert n <= 625
    np.testing.assert_array_equal(part, whole[:, 10:35, 20:45])


def test_inputs_are_not_modified(kernels):
    flow = constant_flow(9, 9, 1, 0)
    foreground = everywhere(flow)
    kernels.track(flow, foreground, Frame(0, 0, 9, 9))
    np.testing.assert_array_equal(flow, constant_flow(9, 9, 1, 0))
    assert foreground.all()


def test_labels_to_flow_and_back_brings_every_pixel_to_its_own_cell(kernels, rng):
    labels = draw_cells(rng, 110, 130)
    ends, _ = kernels.track(
        FLOW_SCALE * compute_unit_flow(labels, kernels), labels > 0, Frame(0, 0, 110, 130)
    )
    inside = labels > 0
    assert (labels.ravel()[ends] == labels)[inside].mean() > 0.99


def test_hits_are_added_to_those_before(kernels):
    hits = np.ones((2, 3), np.int32)
    kernels.add_hits(np.array([[5, 5], [0, 5]], np.int32), hits)
    assert hits.tolist() == [[2, 1, 1], [1, 1, 4]]


def test_seeds_are_maxima_of_more_than_ten_hits_in_row_major_order(kernels):
    hits = np.ones((12, 30), np.int32)
    hits[2, 20] = 11
    hits[6, 3] = 40
    hits[6, 5] = 30  # within two pixels of a higher one
    hits[6, 9] = 10  # not more than ten
    hits[10, 15] = hits[10, 16] = 12  # equal neighbours are both maxima
    assert kernels.find_basins(hits, 0, 12, 1)[0].tolist() == [[2, 20], [6, 3], [10, 15], [10, 16]]
    assert kernels.find_basins(hits, 3, 10, 1)[0].tolist() == [[6, 3]]


def test_basins_reach_five_pixels_over_bins_with_more_than_two_hits(kernels):
    hits = np.zeros((3, 30), np.int32)
    hits[1, 5:25] = 3
    hits[1, 17] = 2
    hits[1, 12] = 20
    _, basins = kernels.find_basins(hits, 0, 3, 7)
    assert np.argwhere(basins == 7)[:, 1].tolist() == list(range(7, 17))
    assert set(np.unique(basins)) == {0, 7}


def test_later_seed_wins_where_basins_overlap(kernels):
    hits = np.full((1, 20), 5, np.int32)
    hits[0, 6], hits[0, 12] = 30, 30
    _, basins = kernels.find_basins(hits, 0, 1, 1)
    assert basins.tolist() == [[0] + [1] * 6 + [2] * 11 + [0] * 2]


def test_basins_are_clipped_at_the_border(kernels):
    hits = np.full((4, 4), 50, np.int32)
    hits[0, 0] = 60
    hits[3, 3] = 3
    seeds, basins = kernels.find_basins(hits, 0, 1, 1)
    assert seeds.tolist() == [[0, 0], [0, 3]]
    assert (basins == 2).all()


def test_without_seeds_there_are_no_basins(kernels):
    seeds, basins = kernels.find_basins(np.ones((3, 3), np.int32), 0, 3, 1)
    assert seeds.shape == (0, 2)
    assert not basins.any()


def test_cells_are_measured_with_their_boxes_and_sizes(kernels):
    labels = np.zeros((6, 7), np.int32)
    labels[1:4, 2:5] = 3
    labels[5, 0:2] = labels[0, 6] = 1
    cells = kernels.measure_cells(labels, 4)
    assert cells["size"].tolist() == [3, 0, 9, 0]
    assert cells[2].tolist() == (1, 2, 4, 5, 9)
    assert cells[0].tolist() == (0, 0, 6, 7, 3)


@pytest.mark.parametrize("same_iterations", [True, False])
@pytest.mark.parametrize(("spacing", "largest"), [(25, 11), (70, 32)])
def test_both_implementations_diffuse_alike_to_the_last_bit(
    rng, compiled, tensors, same_iterations, spacing, largest
):
    labels = draw_cells(rng, 200, 160, spacing=spacing, radii=(2, largest))
    labels[labels == 5] = 0
    n = int(labels.max())
    ours, theirs = (
        kernels.diffuse(labels, n, same_iterations=same_iterations)
        for kernels in (compiled, tensors)
    )
    np.testing.assert_array_equal(ours, theirs)


def test_cells_diffuse_together_as_they_do_alone(kernels, rng):
    labels = draw_cells(rng, 200, 160, spacing=25, radii=(2, 11))
    labels[190:, :] = labels.max() + 1
    n = int(labels.max())
    together = kernels.diffuse(labels, n, same_iterations=False)[1:-1, 1:-1]
    for each in rng.choice(n, 12, replace=False) + 1:
        alone = kernels.diffuse(np.where(labels == each, labels, 0), n, same_iterations=False)
        inside = labels == each
        np.testing.assert_array_equal(together[inside], alone[1:-1, 1:-1][inside])


def test_small_cells_beside_a_giant_one_come_to_the_same_balance(kernels):
    labels = draw_ellipses(330, 330, [(12, 12, 8, 9), (14, 300, 6, 11), (180, 165, 140, 150)])
    found = kernels.diffuse(labels, 3, same_iterations=True)[1:-1, 1:-1]
    cells = gather_cells(torch.from_numpy(labels))
    n_iterations = int(2 * (cells.height + cells.width + 2).max())
    small = gather_cells(torch.from_numpy(np.where(labels < 3, labels, 0)))
    expected = diffuse_cells(small, torch.full((2,), n_iterations))
    np.testing.assert_allclose(found[small.y.numpy(), small.x.numpy()], expected, rtol=1e-10)


def test_balance_is_kept_however_long_it_is_waited_for():
    cells = gather_cells(torch.from_numpy(draw_ellipses(11, 11, [(5, 5, 3, 3)])))
    settled = diffuse_cells(cells, torch.tensor([5000]))
    np.testing.assert_allclose(diffuse_cells(cells, torch.tensor([100_000])), settled, rtol=1e-10)


def test_sources_are_the_pixels_nearest_to_the_median():
    labels = np.zeros((6, 7), np.int32)
    labels[1:4, 2:5] = 4  # median pixel (2, 3)
    labels[5, 0:2] = 9  # two pixels as near to the median: the first counts
    cells = gather_cells(torch.from_numpy(labels))
    centre = cells.centre
    assert list(zip(cells.y[centre].tolist(), cells.x[centre].tolist(), strict=True)) == [
        (2, 3),
        (5, 0),
    ]


def test_without_the_library_torch_runs_and_says_so(monkeypatch, caplog):
    monkeypatch.setattr(choice, "load_library", lambda: None)
    choice.select_kernels.cache_clear()
    try:
        assert isinstance(choice.select_kernels(), TorchKernels)
    finally:
        choice.select_kernels.cache_clear()
    assert "C compiler" in caplog.text


@pytest.mark.usefixtures("fake_cuda")
def test_the_compiled_loops_run_beside_a_gpu_and_leave_a_core_to_it(monkeypatch):
    monkeypatch.setattr(choice, "usable_cores", lambda: 16)
    choice.select_kernels.cache_clear()
    try:
        kernels = [choice.select_kernels(device) for device in (CPU, Device("cuda", 0))]
        if choice.load_library() is not None:
            assert [each._n_threads for each in kernels] == [16, 15]
        monkeypatch.setattr(choice, "load_library", lambda: None)
        choice.select_kernels.cache_clear()
        assert isinstance(choice.select_kernels(Device("cuda", 0)), TorchKernels)
    finally:
        choice.select_kernels.cache_clear()


def test_both_loops_grow_basins_equally_often():
    source = Path(kernels_package.__file__).with_name("label_kernels.c").read_text()
    assert re.findall(r"enum \{ STEPS = (\d+)", source) == [str(kernels_package.BASIN_STEPS)]


def test_more_pixels_than_a_place_can_count_are_refused():
    with pytest.raises(ShapeError, match=r"46,341 × 46,341 pixels to be labelled at once"):
        describe_axes(Frame(0, 0, 46_341, 46_341), 46_341, 46_341)
