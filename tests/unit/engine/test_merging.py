"""Channels are merged after each has been normalised by itself, exactly as a grey image is."""

import numpy as np
import pytest
import tifffile

from mediar_infer.engine.merging import merge_channels
from mediar_infer.engine.preprocess import compute_scaling
from mediar_infer.errors import ImageReadError
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.open import open_image
from mediar_infer.images.sources import ArraySource

SHAPE = (30, 40)


@pytest.fixture(params=["u1", "u2", "i2", "f4", "f8"])
def channels(request, rng):
    """A bright, a dim and an empty channel."""
    bright = rng.integers(100, 120, SHAPE)
    dim = rng.integers(0, 9, SHAPE)
    return np.stack([bright, dim, np.zeros(SHAPE)], axis=2).astype(request.param)


def normalised(channel):
    """Levels of a channel that is an image of its own."""
    return compute_scaling(ArraySource(channel)).apply(channel)


def merged(image, *picks):
    with merge_channels(ArraySource(image, channels=picks)) as source:
        return np.concatenate([source.read_rows(0, 13), source.read_rows(13, SHAPE[0])])


def test_merge_is_the_maximum_of_channels_normalised_by_themselves(channels):
    bright, dim = normalised(channels[..., 0]), normalised(channels[..., 1])
    expected = np.maximum(bright, dim)
    assert (expected != bright).any()
    assert (expected != dim).any()
    rows = merged(channels, "0+1", "-", 1)
    assert rows.dtype == np.uint8
    np.testing.assert_array_equal(rows[..., 0], expected)
    np.testing.assert_array_equal(rows[..., 1], 0)
    np.testing.assert_array_equal(rows[..., 2], dim)


def test_type_of_the_file_is_kept_beside_that_of_the_rows(channels):
    with merge_channels(ArraySource(channels, channels=("0+1",))) as source:
        assert (source.dtype, source.stored_dtype) == (np.uint8, channels.dtype)
    with merge_channels(ArraySource(channels, channels=("0", "1"))) as source:
        assert source.dtype == source.stored_dtype == channels.dtype


def test_one_merge_is_a_grey_image_in_any_order(channels):
    rows = merged(channels, "1 + 0")
    np.testing.assert_array_equal(rows, merged(channels, "0+1+1"))
    np.testing.assert_array_equal(rows, rows[..., :1].repeat(3, axis=2))


def test_empty_channel_adds_nothing_and_is_named(channels):
    np.testing.assert_array_equal(merged(channels, "0+2")[..., 0], normalised(channels[..., 0]))
    with merge_channels(ArraySource(channels, channels=("0+2",))) as source:
        assert any(text.startswith("channel 2: all pixels are 0") for text in source.warnings)


def test_channels_can_be_measured_as_they_are_stored(channels):
    with merge_channels(ArraySource(channels, channels=("0+1",))) as source:
        np.testing.assert_array_equal(source.read_channels(3, 7), channels[3:7])


def test_image_without_a_merge_stays_as_it_is(channels):
    source = ArraySource(channels, channels=(1, "-", 0))
    assert merge_channels(source) is source


def test_merged_image_is_not_merged_again(channels):
    with merge_channels(ArraySource(channels, channels=("0+1", "-", 1))) as source:
        assert merge_channels(source) is source


def test_channel_without_a_finite_pixel_is_an_error(rng):
    image = rng.random((*SHAPE, 2))
    image[..., 1] = np.nan
    with pytest.raises(ImageReadError, match="array: found no finite pixel"):
        merge_channels(ArraySource(image, channels=("0+1",)))


NAMES = ["CD4+", "CD8+", "CD4", "CD4++CD8+"]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("CD4+", (0,)),
        ("cd4+", (0,)),
        ("CD4++CD8+", (3,)),
        ("CD4+CD4+", (2, 0)),
        ("CD4+ + CD8+", (0, 1)),
        ("CD4+2", (2,)),
        ("0+1+3", (0, 1, 3)),
    ],
)
def test_names_with_a_plus_stay_choosable(tmp_path, rng, wanted, expected):
    planes = rng.integers(1, 60_000, (4, *SHAPE), np.uint16)
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, planes, ome=True, metadata={"axes": "CYX", "Channel": {"Name": NAMES}})
    with merge_channels(open_image(path, ReadOptions(channels=(wanted,)))) as source:
        rows = source.read_rows(0, SHAPE[0])[..., 0]
    levels = [planes[k] if len(expected) == 1 else normalised(planes[k]) for k in expected]
    np.testing.assert_array_equal(rows, np.max(levels, axis=0))


@pytest.mark.parametrize("wanted", ["CD4+CD45", "0+", "+", "0+9", "0+-"])
def test_merge_with_an_unknown_channel_lists_those_there_are(rng, wanted):
    with pytest.raises(ImageReadError, match=r"found no channel .*, expected one of: 0, 1"):
        ArraySource(rng.random((9, 9, 2)), channels=(wanted,))
