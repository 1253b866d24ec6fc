"""Where windows lie and how much they weigh."""

import numpy as np
import pytest

from mediar_infer.config import ALL_FLIPS
from mediar_infer.engine.windows import (
    MIN_IMPORTANCE,
    WindowGrid,
    flipped_starts,
    importance_map,
    normalised_importance,
    window_starts,
)

SIZES = [1, 31, 32, 33, 45, 64, 333]


@pytest.mark.parametrize(
    ("size", "starts"),
    [
        (1, [-255]),
        (2, [-255]),
        (510, [-1]),
        (511, [0]),
        (512, [0]),
        (513, [0, 1]),
        (716, [0, 204]),
        (717, [0, 204, 205]),
        (1000, [0, 204, 408, 488]),
    ],
)
def test_starts_at_the_released_settings(size, starts):
    assert window_starts(size, 512, 0.6) == starts


@pytest.mark.parametrize(
    ("size", "overlap"), [*((size, 0.6) for size in SIZES), (333, 0.0), (333, 0.25), (333, 0.95)]
)
def test_windows_cover_every_pixel_and_leave_the_image_only_if_it_is_smaller(size, overlap):
    starts = window_starts(size, 32, overlap)
    assert starts == sorted(set(starts))
    assert set(range(size)) <= {start + i for start in starts for i in range(32)}
    if size >= 32:
        assert starts[0] == 0
        assert starts[-1] == size - 32
    else:
        assert len(starts) == 1


@pytest.mark.parametrize("size", SIZES)
def test_flipping_starts_twice_gives_them_back(size):
    starts = window_starts(size, 32, 0.6)
    flipped = flipped_starts(starts, size, 32)
    assert flipped == sorted(flipped)
    assert flipped_starts(flipped, size, 32) == starts


def test_flipped_starts_are_the_mirror_image():
    assert window_starts(70, 32, 0.5) == [0, 16, 32, 38]
    assert flipped_starts([0, 16, 32, 38], 70, 32) == [0, 6, 22, 38]


@pytest.mark.parametrize("roi_size", [32, 512])
def test_importance_is_symmetric_positive_and_largest_in_the_middle(roi_size):
    weights = importance_map(roi_size)
    assert weights.dtype == np.float32
    assert weights.shape == (roi_size, roi_size)
    assert weights.min() == np.float32(MIN_IMPORTANCE)
    assert weights.max() == weights[roi_size // 2, roi_size // 2]
    np.testing.assert_array_equal(weights, weights.T)
    np.testing.assert_array_equal(weights, weights[::-1])


def test_weights_that_are_shared_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        importance_map(32)[0, 0] = 1


@pytest.mark.parametrize(
    ("height", "width", "overlap"),
    [(1, 1, 0.6), (31, 70, 0.6), (32, 32, 0.6), (33, 101, 0.6), (100, 45, 0.0), (100, 45, 0.25)],
)
@pytest.mark.parametrize("flip", ALL_FLIPS)
def test_weights_of_all_windows_sum_to_one_at_every_pixel(height, width, overlap, flip):
    grid = WindowGrid.of_image(height, width, 32, overlap, flip)
    total = np.zeros((height + 64, width + 64))
    for top in grid.tops:
        for left in grid.lefts:
            weights = normalised_importance(grid.roi_size, *grid.neighbours(top, left))
            assert weights.min() > 0
            total[top + 32 : top + 64, left + 32 : left + 64] += weights
    inside = total[32 : 32 + height, 32 : 32 + width]
    np.testing.assert_allclose(inside, 1, rtol=0, atol=1e-6)


def test_a_lone_window_weighs_one_everywhere():
    grid = WindowGrid.of_image(20, 32, 32, 0.6)
    neighbours = grid.neighbours(grid.tops[0], grid.lefts[0])
    np.testing.assert_array_equal(normalised_importance(grid.roi_size, *neighbours), 1)
