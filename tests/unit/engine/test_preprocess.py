"""Normalisation in bands against the same rule written down for a whole image."""

import numpy as np
import pytest
from fakes import normalise_image

from mediar_infer.engine import preprocess
from mediar_infer.engine.preprocess import compute_scaling
from mediar_infer.errors import ImageReadError
from mediar_infer.images.sources import ArraySource

DTYPES = [
    np.uint8, np.uint16, np.uint32, np.uint64, np.int8, np.int16, np.int32, np.int64,
    np.float16, np.float32, np.float64,
]  # fmt: skip


def plain_normalisation(image):
    """Percentiles of the non-zero values, clip, stretch, truncate; grey is repeated."""
    values = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    low, high = np.percentile(values[values != 0], [0, 99.5])
    if high <= low:
        return np.zeros(values.shape, dtype=np.uint8)
    clipped = values.astype(np.float64).clip(low, high)
    return ((clipped - low) / (high - low) * 255).astype(np.uint8)


def random_image(rng, dtype, shape=(23, 31, 3)):
    if np.issubdtype(dtype, np.floating):
        image = (rng.normal(size=shape) * 300).astype(dtype)
    else:
        info = np.iinfo(dtype)
        image = rng.integers(info.min // 3, info.max // 2, shape, dtype=dtype)
    image[rng.random(shape) < 0.2] = 0
    return image


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(23, 31, 3), (40, 21)])
def test_every_dtype_is_normalised_by_the_rule(rng, dtype, shape):
    image = random_image(rng, dtype, shape)
    found = normalise_image(image)
    assert found.dtype == np.uint8
    expected = plain_normalisation(image)
    # 64-bit integers lose bits in float64, which may move a value across a step of 1/255.
    assert np.abs(found.astype(int) - expected).max() <= (np.dtype(dtype).itemsize == 8)
    assert np.mean(found != expected) < 1e-3


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.float32, np.float64])
def test_constants_do_not_depend_on_the_bands(rng, monkeypatch, dtype):
    image = random_image(rng, dtype, (50, 33, 3))
    whole = compute_scaling(ArraySource(image))
    monkeypatch.setattr(preprocess, "_COUNTED_AT_ONCE", 7 * 3 * 33 * 2)
    banded = compute_scaling(ArraySource(image))
    assert (banded.low, banded.high) == (whole.low, whole.high)


@pytest.mark.parametrize("n_values", [1, 2, 3, 5, 200, 201, 401])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_percentiles_of_few_values_are_those_of_numpy(rng, dtype, n_values):
    image = np.zeros((21, 25, 3), dtype=dtype)
    image.flat[:n_values] = rng.permutation(np.arange(1, n_values + 1) % 250 + 1)
    scaling = compute_scaling(ArraySource(image))
    nonzero = image[image != 0]
    assert scaling.low == nonzero.min()
    assert scaling.high == pytest.approx(np.percentile(nonzero, 99.5), rel=1e-12)


def test_extremes_of_the_dtype_are_kept_apart():
    for dtype in (np.int16, np.int32, np.int64):
        info = np.iinfo(dtype)
        image = np.array([[info.min, -1, 0, 1, info.max]] * 3, dtype=dtype)
        scaling = compute_scaling(ArraySource(image))
        assert (scaling.low, scaling.high) == (float(info.min), float(info.max))
        assert normalise_image(image)[0, :, 0].tolist() == [0, 127, 127, 127, 255]


def test_outliers_are_clipped():
    image = np.full((100, 100), 100, np.uint16)
    image[0, :40] = 50
    image[50, 50] = 60_000
    found = normalise_image(image)
    assert set(np.unique(found)) == {0, 255}
    assert found[50, 50, 0] == found[1, 1, 0] == 255


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_black_image_maps_to_zeros_with_a_warning(dtype):
    source = ArraySource(np.zeros((5, 7), dtype=dtype))
    scaling = compute_scaling(source)
    assert not scaling.apply(source.read_rows(0, 5)).any()
    assert scaling.warnings == ("all pixels are 0: there is nothing to see",)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_constant_image_maps_to_zeros(dtype):
    assert not normalise_image(np.full((5, 7), 9, dtype=dtype)).any()


def test_one_value_beside_zero_maps_to_zeros_as_released():
    image = np.zeros((9, 9), np.uint8)
    image[2:5, 3:6] = 200
    assert not normalise_image(image).any()


def test_single_pixel_image_maps_to_zero():
    assert normalise_image(np.array([[7]], np.uint8)).tolist() == [[[0, 0, 0]]]


def test_colours_share_one_scale():
    image = np.zeros((10, 10, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = 10, 60, 110
    assert normalise_image(image)[0, 0].tolist() == [0, 127, 255]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_left_out_read_as_lowest_and_reported(rng, dtype, bad):
    clean = rng.uniform(1, 100, (20, 20)).astype(dtype)
    clean[3, 4] = clean[7, 7] = 0
    image = clean.copy()
    image[3, 4] = image[7, 7] = bad
    source = ArraySource(image)
    scaling = compute_scaling(source)
    expected = compute_scaling(ArraySource(clean))
    assert (scaling.low, scaling.high) == (expected.low, expected.high)
    assert len(scaling.warnings) == 1
    assert "2 of 400 pixels are NaN or infinite; read as the lowest" in scaling.warnings[0]
    found = scaling.apply(source.read_rows(0, 20))
    np.testing.assert_array_equal(found, normalise_image(clean))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_image_without_a_finite_value_is_an_error_naming_it(dtype, bad):
    with pytest.raises(ImageReadError, match=r"blank\.tif: found no finite pixel.*check"):
        normalise_image(np.full((4, 6), bad, dtype=dtype), "blank.tif")


def test_negative_floats_are_ordered_below_positive_ones():
    image = np.linspace(-50, 50, 101, dtype=np.float32)[None]
    scaling = compute_scaling(ArraySource(image))
    assert scaling.low == -50
    nonzero = np.repeat(image[image != 0], 3)  # grey counts three times, as released
    assert scaling.high == pytest.approx(np.percentile(nonzero, 99.5), rel=1e-6)
    found = normalise_image(image)[0, :, 0].astype(int)
    assert (np.diff(found) >= 0).all()
    assert (found[0], found[-1]) == (0, 255)


def test_bool_image_is_read_as_zero_and_one():
    image = np.eye(5, dtype=bool)
    scaling = compute_scaling(ArraySource(image))
    assert (scaling.low, scaling.high) == (1, 1)


@pytest.mark.parametrize("dtype", [np.uint16, np.float64])
def test_byte_order_of_the_array_does_not_matter(rng, dtype):
    image = random_image(rng, dtype, (11, 13))
    swapped = image.astype(np.dtype(dtype).newbyteorder(">"))
    np.testing.assert_array_equal(normalise_image(swapped), normalise_image(image))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_image_and_rows_are_not_modified(rng, dtype):
    image = random_image(rng, dtype, (12, 9, 3))
    image.flags.writeable = False
    normalise_image(image)
    scaling = compute_scaling(ArraySource(image))
    scaling.apply(image[:4])
    scaling.apply(image[4:4])


def test_negative_zero_is_zero():
    image = np.array([[-0.0, 1.0, 2.0, 4.0]], np.float32)
    assert compute_scaling(ArraySource(image)).low == 1


def test_values_that_are_not_finite_are_read_as_the_lowest_of_negative_ones_too():
    image = np.array([[-8.0, np.nan, -4.0, 0.0, 8.0]])
    assert normalise_image(image)[0, :, 0].tolist() == [0, 0, 63, 127, 255]


def test_pixels_are_counted_once_however_many_of_their_channels_are_not_finite():
    image = np.ones((4, 5, 3), np.float32)
    image[0, 0], image[1, 1, 2] = np.nan, np.inf
    scaling = compute_scaling(ArraySource(image))
    assert scaling.warnings[0].startswith("2 of 20 pixels are NaN or infinite")


@pytest.mark.parametrize(
    ("value", "is_told"), [(65535, True), (900, False), (1, False), (0, False)]
)
def test_channel_of_the_brightest_level_alone_is_told(rng, value, is_told):
    image = rng.integers(100, 1000, (60, 70, 3)).astype(np.uint16)
    image[:, :, 1] = value
    found = [each for each in compute_scaling(ArraySource(image)).warnings if "everywhere" in each]
    assert [each.startswith("green is 65535 everywhere") for each in found] == [True] * is_told


def test_one_blank_channel_does_not_make_an_image_blank():
    image = np.arange(60, dtype=np.float32).reshape(4, 5, 3)
    image[..., 1] = np.nan
    assert normalise_image(image)[..., 2].max() == 255


def test_range_beyond_that_of_float64_keeps_its_contrast():
    image = np.array([[-1.6e308, -0.8e308, 0, 0.8e308, 1.6e308]])
    assert normalise_image(image)[0, :, 0].tolist() == [0, 63, 127, 191, 255]


def test_percentile_between_values_beyond_the_range_of_float64_is_finite():
    image = np.array([[[-1.6e308, -1.6e308, 1.6e308]]])
    assert compute_scaling(ArraySource(image)).high == pytest.approx(1.568e308)
