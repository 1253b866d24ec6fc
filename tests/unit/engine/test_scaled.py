from contextlib import closing

import cv2
import numpy as np
import pytest
from fakes import FunctionBackend

from mediar_infer.config import EngineConfig, Plan
from mediar_infer.engine.bands import predict_bands
from mediar_infer.engine.preprocess import compute_scaling
from mediar_infer.engine.resampling import resize_whole, scaled_length
from mediar_infer.engine.scaled import NORMALISED, ScaledSource, predict_scaled_bands
from mediar_infer.errors import ImageReadError
from mediar_infer.image_trace import Trace
from mediar_infer.images.sources import ArraySource

CONFIG = EngineConfig(roi_size=64, plan=Plan(flips=("identity", "vertical"), overlap=0.3))


class CountingSource(ArraySource):
    n_rows = 0

    def _read_channels(self, top, bottom):
        self.n_rows += bottom - top
        return super()._read_channels(top, bottom)


class FailingSource(ArraySource):
    def _read_channels(self, top, bottom):
        if bottom > 40:
            raise ValueError("bits fell out")
        return super()._read_channels(top, bottom)


def scaled(array, scale, source_type=ArraySource):
    source = source_type(array, "cells.tif")
    return ScaledSource(source, compute_scaling(source), scale)


def whole_image(array, scale):
    source = ArraySource(array)
    rows = compute_scaling(source).apply(source.read_rows(0, source.height))
    shape = (scaled_length(length, scale) for length in array.shape[:2])
    resized = resize_whole(rows.transpose(2, 0, 1).astype(np.float32), *shape, is_cubic=True)
    return resized.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


@pytest.mark.parametrize("scale", [0.1, 0.37, 0.5, 1.4, 2, 8])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("step", [1, 16, 1000])
def test_rows_are_those_of_the_resized_normalised_image(rng, scale, dtype, step):
    array = (rng.random((61, 45, 3)) * 200).astype(dtype)
    with scaled(array, scale) as source:
        assert (source.height, source.width) == tuple(scaled_length(n, scale) for n in (61, 45))
        tops = range(0, source.height, step)
        rows = [source.read_rows(top, min(top + step, source.height)) for top in tops]
        assert source.dtype == np.uint8
    np.testing.assert_array_equal(np.concatenate(rows), whole_image(array, scale))


def test_pixels_are_within_rounding_of_opencv(rng):
    array = rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)
    array[0, 0], array[1, :30] = 0, 255
    array[0, 1] = 1
    for scale, method in ((0.5, cv2.INTER_AREA), (3, cv2.INTER_CUBIC)):
        rows = whole_image(array, 1).astype(np.float32)
        expected = cv2.resize(rows, None, fx=scale, fy=scale, interpolation=method)
        with scaled(array, scale) as source:
            found = source.read_rows(0, source.height)
        assert np.abs(found - expected.clip(0, 255)).max() <= 0.51


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (3, 5)])
@pytest.mark.parametrize("scale", [0.1, 0.5, 8])
def test_tiny_images_keep_at_least_a_pixel(shape, scale):
    with scaled(np.full(shape, 7, np.uint8), scale) as source:
        rows = source.read_rows(0, source.height)
    assert rows.shape == (*(scaled_length(n, scale) for n in shape), 3)


def test_rows_can_be_read_in_any_order(rng):
    array = rng.integers(0, 256, (61, 45), dtype=np.uint8)
    whole = whole_image(np.repeat(array[..., None], 3, 2), 2)
    with scaled(array, 2) as source:
        for top, bottom in ((50, 60), (0, 3), (3, 9), (100, 122), (7, 7), (99, 122), (0, 122)):
            np.testing.assert_array_equal(source.read_rows(top, bottom), whole[top:bottom])


def test_each_row_of_the_image_is_read_once():
    array = np.zeros((5000, 8), np.uint8)
    source = scaled(array, 0.3, CountingSource)
    before = source._source.n_rows
    for top in range(0, source.height, 16):
        source.read_rows(top, min(top + 16, source.height))
    assert source._source.n_rows - before == 5000


def test_hot_pixels_do_not_bleed():
    array = np.full((100, 100), 1000, np.uint16)
    array[::2] = 1200
    array[50, 50] = 65535
    with scaled(array, 0.5) as source:
        assert source.read_rows(0, 50).max() == source.read_rows(0, 1).max()


def test_a_damaged_row_names_the_file():
    array = np.ones((60, 20), np.uint8)
    source = FailingSource(array, "cells.tif")
    scaling = compute_scaling(ArraySource(array))
    with (
        ScaledSource(source, scaling, 2) as seen,
        pytest.raises(ImageReadError, match=r"cells\.tif: .*bits fell out"),
    ):
        seen.read_rows(0, 120)


def predict(array, scale, rows=None):
    members = [FunctionBackend(lambda inputs: inputs * 3 - 1)]
    source = ArraySource(array)
    bands = predict_scaled_bands(
        source, compute_scaling(source), scale, members, CONFIG, Trace(), rows=rows
    )
    with closing(bands):
        return np.concatenate(list(bands), axis=1)


@pytest.mark.parametrize("scale", [0.5, 1, 1.7])
def test_maps_are_those_of_the_resized_image(rng, scale):
    array = rng.integers(0, 256, (150, 90, 3), dtype=np.uint8)
    members = [FunctionBackend(lambda inputs: inputs * 3 - 1)]
    seen = ArraySource(whole_image(array, scale))
    expected = predict_bands(seen, NORMALISED, members, CONFIG, Trace())
    np.testing.assert_array_equal(predict(array, scale), np.concatenate(list(expected), axis=1))


@pytest.mark.parametrize("scale", [0.5, 2])
def test_a_range_of_rows_has_the_same_bits(rng, scale):
    array = rng.integers(0, 256, (190, 70), dtype=np.uint8)
    whole = predict(array, scale)
    for first, last in ((0, 10), (33, 90), (whole.shape[1] - 1, whole.shape[1])):
        np.testing.assert_array_equal(predict(array, scale, (first, last)), whole[:, first:last])
