import cv2
import numpy as np
import pytest
import torch

from mediar_infer.engine.resampling import AxisTable, RowResampler, resize_whole, scaled_length

SHAPES = [
    (60, 70, 0.5), (61, 75, 0.5), (61, 75, 0.37), (97, 33, 0.1), (40, 30, 2), (41, 33, 3),
    (37, 52, 1.7), (12, 9, 8), (1, 1, 8), (1, 40, 0.1), (5, 3, 0.1), (200, 7, 0.9), (30, 30, 1),
]  # fmt: skip


def tables(height, width, scale, *, is_cubic=False):
    return (
        AxisTable.of_axis(height, scaled_length(height, scale), is_cubic=is_cubic),
        AxisTable.of_axis(width, scaled_length(width, scale), is_cubic=is_cubic),
    )


def resized(image, scale, **options):
    return resize_whole(image, *(scaled_length(n, scale) for n in image.shape[1:]), **options)


def resize_streaming(image, scale, n_added, n_taken, top=0):
    rows, columns = tables(*image.shape[1:], scale)
    resampler = RowResampler(len(image), rows, columns, top)
    pieces = []
    for first in range(resampler.bottom, image.shape[1], n_added):
        resampler.add(image[:, first : first + n_added])
        while (taken := resampler.take(n_taken)).shape[1]:
            pieces.append(taken)
    assert resampler.top == len(rows.positions)
    return np.concatenate(pieces, axis=1)


def area_oracle(n_in, n_out):
    """Share of each input pixel in each output pixel, from overlaps of intervals."""
    edges_in, edges_out = np.arange(n_in + 1.0), np.linspace(0, n_in, n_out + 1)
    low = np.maximum(edges_out[:-1, None], edges_in[None, :-1])
    high = np.minimum(edges_out[1:, None], edges_in[None, 1:])
    return np.maximum(high - low, 0) * n_out / n_in


@pytest.fixture
def image(request):
    height, width, scale = request.param
    values = np.random.default_rng(height).normal(0, 3, (3, height, width)).astype(np.float32)
    return values, scale


@pytest.mark.parametrize("image", [s for s in SHAPES if s[2] < 1], indirect=True)
def test_shrinking_takes_the_mean_of_areas(image):
    values, scale = image
    found = resized(values, scale)
    rows, columns = (area_oracle(n, scaled_length(n, scale)) for n in values.shape[1:])
    np.testing.assert_allclose(found, rows @ values @ columns.T, atol=1e-5)


@pytest.mark.parametrize("image", [s for s in SHAPES if s[2] >= 1], indirect=True)
@pytest.mark.parametrize("is_cubic", [False, True])
def test_enlarging_equals_torch(image, is_cubic):
    values, scale = image
    found = resized(values, scale, is_cubic=is_cubic)
    size = tuple(scaled_length(n, scale) for n in values.shape[1:])
    mode = "bicubic" if is_cubic else "bilinear"
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None].double(), size, mode=mode
    )
    np.testing.assert_allclose(found, expected[0].numpy(), atol=1e-5)


def test_whole_factors_equal_opencv():
    values = np.random.default_rng(0).normal(0, 3, (60, 90)).astype(np.float32)
    shrunk = cv2.resize(values, (30, 20), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(resized(values[None], 1 / 3)[0], shrunk, atol=1e-5)


@pytest.mark.parametrize("image", SHAPES, indirect=True)
@pytest.mark.parametrize(("n_added", "n_taken"), [(1, 1), (7, 3), (64, 64), (1000, 5)])
def test_any_number_of_rows_gives_the_same_bits(image, n_added, n_taken):
    values, scale = image
    streamed = resize_streaming(values, scale, n_added, n_taken)
    np.testing.assert_array_equal(streamed, resized(values, scale))


@pytest.mark.parametrize("scale", [0.3, 2.5])
def test_starts_at_any_row(scale):
    values = np.random.default_rng(0).normal(0, 3, (2, 50, 20)).astype(np.float32)
    whole = resized(values, scale)
    for top in range(whole.shape[1]):
        streamed = resize_streaming(values, scale, 4, 6, top)
        np.testing.assert_array_equal(streamed, whole[:, top:])


def test_same_size_changes_nothing():
    values = np.random.default_rng(0).normal(0, 3, (2, 50, 20)).astype(np.float32)
    np.testing.assert_array_equal(resized(values, 1), values)


def test_positions_are_exact_on_wide_images():
    table = AxisTable.of_axis(40_000, 80_000)
    centre = (table.positions * table.weights.astype(np.float64)).sum(axis=1)
    expected = ((np.arange(80_000) + 0.5) / 2 - 0.5).clip(0, 39_999)
    np.testing.assert_allclose(centre, expected, atol=1e-3)


def test_few_rows_are_held_at_a_time():
    rows, columns = tables(5000, 8, 2)
    resampler = RowResampler(1, rows, columns)
    for _ in range(0, 5000, 10):
        resampler.add(np.zeros((1, 10, 8), np.float32))
        while resampler.take(64).shape[1]:
            pass
        assert resampler._held.bottom - resampler._held.top <= 13
