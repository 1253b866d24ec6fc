"""Moving bands of labels: nothing is cut, and nothing depends on how many rows come at a time.

Rows are decided some 800 rows behind those that are tracked, so images here are tall and narrow.
"""

import cv2
import numpy as np
import pytest
from fakes import agreement, draw_cells, draw_ellipses, intersection_over_union, maps_of_labels

from mediar_infer.arrays import CELLPROB, FLOW_X, FLOW_Y
from mediar_infer.config import MaskConfig
from mediar_infer.labels import stitching
from mediar_infer.labels.flows import FlowCheck
from mediar_infer.labels.masks import compute_labels
from mediar_infer.labels.stitching import MAX_SPEED, REACH, StitchedLabels

BLOCK_SIZES = (64, 200, 512, 1000, 2000)


def stitch(maps, block_size=0, rows_at_a_time=204, **settings):
    """Labels of a whole image, its rows given and taken in bands."""
    _, height, width = maps.shape
    config = MaskConfig(blocks="stitched", block_size=block_size, **settings)
    stitched = StitchedLabels(height, width, config)
    bands = [
        labels
        for top in range(0, height, rows_at_a_time)
        for labels in stitched.add(maps[:, top : top + rows_at_a_time])
    ]
    labels = np.concatenate(bands)
    assert labels.shape == (height, width)
    assert labels.dtype == np.int32
    assert stitched.n_cells == labels.max()
    ids = np.unique(labels)
    assert ids[ids > 0].tolist() == list(range(1, stitched.n_cells + 1))
    return labels


def assert_same_for_all_block_sizes(maps, block_sizes=BLOCK_SIZES, **settings):
    reference = stitch(maps, block_sizes[0], **settings)
    for block_size in block_sizes[1:]:
        np.testing.assert_array_equal(stitch(maps, block_size, **settings), reference)
    return reference


def assert_like_whole(labels, maps, *, allowed=0.0, **settings):
    """Equal to the labels of the whole image up to renumbering, but for a fraction of pixels.

    Positions are rounded relative to another corner, so that an end point may fall into the
    neighbouring bin.
    """
    whole, n_cells = compute_labels(maps, MaskConfig(**settings))
    assert labels.max() == pytest.approx(n_cells, rel=allowed, abs=0)
    assert agreement(labels, whole) >= 1 - allowed


def test_labels_are_the_same_for_all_block_sizes_and_those_of_the_whole_image(rng):
    drawn = draw_cells(rng, 1700, 190)
    maps = maps_of_labels(drawn)
    labels = assert_same_for_all_block_sizes(maps)
    assert_like_whole(labels, maps, allowed=1e-5)
    assert labels.max() == drawn.max()
    assert intersection_over_union(drawn[700:1100], labels[700:1100]).min() > 0.9


def test_small_objects_and_holes_on_the_lines_between_bands_are_judged_whole(rng):
    foreground = np.zeros((700, 300), bool)
    for column in range(2, 150, 3):
        for row in range(rng.integers(0, 20), 670, 30):
            foreground[row : row + rng.integers(12, 20), column] = True
    foreground[:, 160:] = True
    for column in range(163, 300, 3):
        for row in range(rng.integers(0, 20), 670, 30):
            foreground[row : row + rng.integers(12, 20), column] = False
    maps = maps_of_labels(np.zeros(foreground.shape, np.int32))
    maps[CELLPROB] = np.where(foreground, 4, -4)
    maps[FLOW_Y] += 4 * np.sin((np.arange(700)[:, None] + np.arange(300) * 7) / 6)
    labels = assert_same_for_all_block_sizes(maps, (64, 200, 1000), flow_threshold=None)
    assert_like_whole(labels, maps, allowed=2e-3, flow_threshold=None)
    bars = labels[:, :150] > 0
    assert 0 < bars.sum() < foreground[:, :150].sum()


def test_seeds_and_basins_on_the_lines_between_tiles_are_whole():
    # Slow flow: hits are spread, so that basins are as large as they can be.
    rng = np.random.default_rng(3)
    maps = np.stack([cv2.GaussianBlur(rng.normal(size=(1100, 250)), None, 3) for _ in range(3)])
    maps = (0.6 * maps / maps.std(axis=(1, 2), keepdims=True)).astype(np.float32)
    maps[CELLPROB] = 4
    labels = assert_same_for_all_block_sizes(maps, (64, 1000), flow_threshold=None)
    assert labels.max() > 300
    assert_like_whole(labels, maps, allowed=3e-4, flow_threshold=None)


def test_tall_cells_are_diffused_whole():
    drawn = draw_ellipses(
        1700,
        120,
        [(65 + 125 * i + 9 * j, 15 + 22 * j, 60, 10) for i in range(13) for j in range(5)],
    )
    maps = maps_of_labels(drawn)
    labels = assert_same_for_all_block_sizes(maps, (64, 2000), flow_threshold=0.2)
    assert labels.max() == drawn.max()


def test_flow_errors_of_touching_cells_do_not_depend_on_the_block_size(monkeypatch):
    # Where a band of rows ends, a cell's neighbour below must have been diffused too.
    drawn = np.kron(np.arange(1, 561).reshape(140, 4), np.ones((12, 14))).astype(np.int32)
    maps = maps_of_labels(drawn, noise=0.5)
    forget, errors = stitching._Cells.forget, {}

    def watched(cells, n_first):
        errors[block_size] = [*errors.get(block_size, []), *cells.error[:n_first]]
        forget(cells, n_first)

    monkeypatch.setattr(stitching._Cells, "forget", watched)
    for block_size in (64, 2000):
        stitch(maps, block_size)
    assert len(errors[64]) >= 560
    np.testing.assert_array_equal(errors[64], errors[2000])


def test_cells_that_hang_far_below_their_seed_are_whole(rng):
    # Tall cells whose pixels all flow to a point near the top, up to 110 rows away.
    maps = rng.normal(0, 0.2, (3, 1700, 120)).astype(np.float32)
    maps[CELLPROB] = -4
    for i, top in enumerate(range(10, 1560, 37)):
        left = 3 + 29 * (i % 4)
        cell = np.s_[top : top + 120, left : left + 18]
        y, x = np.mgrid[cell]
        towards = np.stack([top + 10.3 - y, left + 8.6 - x])
        maps[:CELLPROB][:, *cell] += 5 * towards / np.hypot(*towards)
        maps[CELLPROB][cell] = 4
    for flow_threshold in (None, 2.5):
        labels = assert_same_for_all_block_sizes(
            maps, (64, 300, 2000), flow_threshold=flow_threshold
        )
        assert labels.max() > 30
        assert_like_whole(labels, maps, flow_threshold=flow_threshold)


def test_pixels_worked_on_at_once_do_not_change_the_labels(rng, monkeypatch):
    maps = maps_of_labels(draw_cells(rng, 120, 700), noise=1.5)
    expected = stitch(maps, flow_threshold=0.25)
    monkeypatch.setattr(stitching, "_PIXELS_AT_ONCE", 1)
    np.testing.assert_array_equal(stitch(maps, flow_threshold=0.25), expected)


@pytest.mark.parametrize("rows_at_a_time", [1, 17, 256, 1500])
def test_labels_do_not_depend_on_the_rows_given_at_a_time(rng, rows_at_a_time):
    maps = maps_of_labels(draw_cells(rng, 1500, 60), noise=1.2)
    expected = stitch(maps, 512)
    np.testing.assert_array_equal(stitch(maps, 64, rows_at_a_time), expected)


@pytest.mark.parametrize("size", [REACH - 1, REACH, REACH + 1, 2 * REACH, 2 * REACH + 1])
def test_cells_on_the_lines_between_tiles_are_whole(size):
    centres = [(y, x) for y in (2, REACH, size - 3) for x in (2, REACH, size - 3)]
    drawn = draw_ellipses(size, size, [(y + 0.3, x + 0.4, 12, 9) for y, x in centres])
    maps = maps_of_labels(drawn)
    assert_like_whole(assert_same_for_all_block_sizes(maps, (64, 512)), maps)


@pytest.mark.parametrize(("dy", "dx"), [(-5, 0), (5, 0), (0, -5), (0, 5), (-5, -5), (5, 5)])
def test_flow_that_leaves_the_image_ends_at_its_border(dy, dx):
    # Tiles at the border are padded, and rounding there must not put an end point outside.
    maps = np.zeros((3, 270, 260), np.float32)
    maps[CELLPROB] = -4
    maps[CELLPROB, :12, 100:112] = maps[CELLPROB, 258:, 100:112] = 4
    maps[CELLPROB, 100:112, :12] = maps[CELLPROB, 100:112, 248:] = 4
    maps[FLOW_Y], maps[FLOW_X] = dy, dx
    maps += np.random.default_rng(0).normal(0, 0.05, maps.shape).astype(np.float32)
    labels = assert_same_for_all_block_sizes(maps, (64, 512), flow_threshold=None)
    assert labels.max() > 0
    assert_like_whole(labels, maps, flow_threshold=None)


def test_cell_bigger_than_a_band_is_one_cell():
    drawn = draw_ellipses(400, 170, [(200.3, 85.4, 190, 70)])
    labels = assert_same_for_all_block_sizes(maps_of_labels(drawn), (64, 200, 1000))
    assert labels.max() == 1
    assert intersection_over_union(drawn, labels).min() > 0.95


def test_error_of_a_cell_is_measured_on_all_of_its_rows():
    # Right in its upper half, wrong in the lower one: over the limit only when both are seen.
    drawn = draw_ellipses(1500, 120, [(y, 60.4, 90, 50) for y in (250.3, 757.3, 1300.3)])
    maps = maps_of_labels(drawn)
    assert stitch(maps, 64).max() == 3
    lower = np.isin(np.arange(1500), range(765, 900))[:, None] & (drawn > 0)
    maps[FLOW_X][lower] += 9
    labels = assert_same_for_all_block_sizes(maps, (64, 200, 2000))
    assert labels.max() == 2
    assert_like_whole(labels, maps)


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (3, 5), (520, 300)])
@pytest.mark.parametrize("logit", [-4.0, 4.0])
def test_image_without_flow_is_empty(shape, logit):
    maps = np.zeros((3, *shape), np.float32)
    maps[CELLPROB] = logit
    assert not stitch(maps, 64, rows_at_a_time=50).any()


def test_full_foreground_is_the_same_for_all_block_sizes(rng):
    maps = rng.normal(0, 0.4, (3, 530, 400)).astype(np.float32)
    maps[CELLPROB] = 4
    maps[FLOW_Y] += 3 * np.sin(np.arange(530) / 15)[:, None]
    maps[FLOW_X] += 3 * np.cos(np.arange(400) / 20)
    labels = assert_same_for_all_block_sizes(maps, (64, 200, 512), flow_threshold=None)
    assert labels.max() > 50
    assert_like_whole(labels, maps, allowed=2e-2, flow_threshold=None)


@pytest.mark.parametrize("flow_threshold", [None, 0.4])
def test_noise_is_the_same_for_all_block_sizes(rng, flow_threshold):
    # Most vectors are longer than the cap on the speed, so these are not the whole image's labels.
    maps = rng.normal(0, 5, (3, 1500, 100)).astype(np.float32)
    labels = assert_same_for_all_block_sizes(maps, (64, 200, 1000), flow_threshold=flow_threshold)
    if flow_threshold is None:
        assert labels.max() > 1000


def test_flow_check_counts_the_cells_of_all_bands(rng):
    maps = maps_of_labels(draw_cells(rng, 900, 120))
    n_all, n_kept = (stitch(maps, flow_threshold=limit).max() for limit in (None, 0.05))
    flow_check = FlowCheck()
    config = MaskConfig(flow_threshold=0.05)
    stitched = StitchedLabels(900, 120, config, flow_check=flow_check)
    for top in range(0, 900, 100):
        list(stitched.add(maps[:, top : top + 100]))
    assert 0 < n_kept < n_all
    assert (flow_check.n_checked, flow_check.n_removed) == (n_all, n_all - n_kept)


def test_flow_faster_than_the_cap_is_shortened():
    maps = np.zeros((3, 40, 900), np.float32)
    maps[CELLPROB] = 4
    maps[FLOW_X, :, :890], maps[FLOW_Y] = 50, 0.01
    labels = stitch(maps, flow_threshold=None)
    assert MAX_SPEED * 200 < REACH
    assert not labels[:, : 890 - REACH].any()


@pytest.mark.parametrize("shape", [(1, 640), (640, 1), (2, 300)])
def test_image_a_pixel_or_two_wide_keeps_its_cells(shape):
    drawn = np.zeros(shape, np.int32)
    flat = drawn.reshape(-1) if 1 in shape else drawn[0]
    flat[10:50], flat[100:160], flat[240:280] = 1, 2, 3
    if 1 not in shape:
        drawn[1] = drawn[0]
    maps = maps_of_labels(drawn)
    labels = assert_same_for_all_block_sizes(maps, (64, 512))
    assert_like_whole(labels, maps)
    assert labels.max() == 3


def test_giant_is_judged_by_the_whole_image():
    drawn = np.ones((280, 60), np.int32)
    drawn[:20] = 0
    assert stitch(maps_of_labels(drawn), 64, flow_threshold=None).max() == 0
    drawn[:40] = 0
    assert stitch(maps_of_labels(drawn), 64, flow_threshold=None).max() == 1


@pytest.mark.parametrize("settings", [{"min_size": 200}, {"cellprob_threshold": 0.99}])
def test_settings_have_the_effect_that_they_have_on_a_whole_image(rng, settings):
    maps = maps_of_labels(draw_cells(rng, 330, 140, radii=(5, 14)), noise=0.8)
    labels = assert_same_for_all_block_sizes(maps, (64, 512), **settings)
    assert labels.max() < stitch(maps).max()
    assert_like_whole(labels, maps, **settings)


def test_iterations_are_counted_per_cell_and_so_errors_differ_from_those_of_a_whole_image(rng):
    # On purpose: one giant must not change the verdict on cells far away from it.
    small = draw_cells(rng, 200, 120, radii=(5, 9))
    maps = maps_of_labels(small, noise=1.4)
    alone = stitch(maps, flow_threshold=0.2)
    assert 0 < alone.max() < stitch(maps).max()
    giant = np.zeros((3, 220, 120), np.float32)
    giant[:, 20:] = maps_of_labels(draw_ellipses(200, 120, [(100.3, 60.2, 90, 50)]))
    giant[CELLPROB, :20] = -4
    beside = stitch(np.concatenate([maps, giant], axis=1), flow_threshold=0.2)
    assert agreement(beside[:200], alone) == 1
    assert beside[220:].any()


def test_rows_are_given_before_the_last_ones_are_taken(rng):
    maps = maps_of_labels(draw_cells(rng, 2000, 60))
    n_given, most_waiting = 0, 0
    stitched = StitchedLabels(2000, 60, MaskConfig(block_size=64))
    for top in range(0, 2000, 64):
        n_given += sum(len(labels) for labels in stitched.add(maps[:, top : top + 64]))
        most_waiting = max(most_waiting, min(top + 64, 2000) - n_given)
    assert n_given == 2000
    assert most_waiting < 6 * REACH


def test_the_end_of_the_image_comes_in_low_bands_too(rng):
    maps = maps_of_labels(draw_cells(rng, 900, 60))
    stitched = StitchedLabels(900, 60, MaskConfig())
    bands, most_rows = [], 0
    for labels in stitched.add(maps):
        bands.append(labels)
        most_rows = max(most_rows, stitched._labels.bottom - stitched._labels.top)
    assert max(map(len, bands)) <= 64
    assert most_rows < REACH
    np.testing.assert_array_equal(np.concatenate(bands), stitch(maps))


def test_maps_are_not_modified(rng):
    maps = maps_of_labels(draw_cells(rng, 100, 60))
    before = maps.copy()
    maps.flags.writeable = False  # the compiled loops would not mind
    stitch(maps, 64)
    np.testing.assert_array_equal(maps, before)
