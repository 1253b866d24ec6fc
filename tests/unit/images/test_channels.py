"""Channels are found by name or number, and what is not chosen is not read."""

import numpy as np
import pytest
import tifffile

from mediar_infer.errors import ImageReadError, UsageError
from mediar_infer.hosts.patches import PatchSegmenter
from mediar_infer.images.channels import find_channels
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.open import open_image
from mediar_infer.images.sources import ArraySource

NAMES = ["CD3", "CD8", "panCK", "DAPI"]


@pytest.fixture
def planes(rng):
    return rng.integers(1, 60_000, (4, 30, 40), np.uint16)


def write_ome(path, planes, **options):
    metadata = {"axes": "CYX", "Channel": {"Name": NAMES}}
    tifffile.imwrite(path, planes, metadata=metadata, ome=True, **options)
    return path


def write_imagej(path, planes):
    metadata = {"axes": "CYX", "Labels": NAMES}
    tifffile.imwrite(path, planes, imagej=True, metadata=metadata)
    return path


@pytest.fixture(params=["ome", "ome tiled", "imagej"])
def image(request, tmp_path, planes):
    """The same four named channels, as files of different writers."""
    if request.param == "imagej":
        return write_imagej(tmp_path / "a.tif", planes)
    tiles = {"tile": (16, 16), "compression": "zlib"} if "tiled" in request.param else {}
    return write_ome(tmp_path / "a.ome.tif", planes, **tiles)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (("DAPI",), (3, 3, 3)),
        (("dapi",), (3, 3, 3)),
        (("3", "0"), (3, 0, None)),
        ((3, 1, 0), (3, 1, 0)),
        (("panCK", "-", "DAPI"), (2, None, 3)),
        (("DAPI", "DAPI", "CD3"), (3, 3, 0)),
    ],
)
def test_chosen_channels_are_read_in_their_order(image, planes, wanted, expected):
    with open_image(image, ReadOptions(channels=wanted)) as source:
        rows = source.read_rows(5, 25)
        assert not [text for text in source.warnings if "channels found" in text]
    for k, number in enumerate(expected):
        channel = 0 if number is None else planes[number, 5:25]
        np.testing.assert_array_equal(rows[:, :, k], np.broadcast_to(channel, (20, 40)))


def test_by_default_the_first_three_are_read_and_the_rest_is_named(image, planes):
    with open_image(image) as source:
        np.testing.assert_array_equal(np.moveaxis(source.read_rows(0, 30), 2, 0), planes[:3])
        assert "4 channels found: the first 3 are used" in source.warnings


def test_all_channels_can_be_read_beside_the_three(image, planes):
    with open_image(image, ReadOptions(all_channels=True)) as source:
        assert source.channel_names == tuple(NAMES)
        np.testing.assert_array_equal(np.moveaxis(source.read_channels(2, 9), 2, 0), planes[:, 2:9])
        np.testing.assert_array_equal(np.moveaxis(source.read_rows(2, 9), 2, 0), planes[:3, 2:9])


@pytest.mark.parametrize("wanted", ["CD45", "4", "-1", ""])
def test_unknown_channel_lists_those_there_are(image, wanted):
    with pytest.raises(ImageReadError, match=r"0 CD3, 1 CD8, 2 panCK, 3 DAPI"):
        open_image(image, ReadOptions(channels=("DAPI", wanted)))


def test_name_of_two_channels_is_refused(tmp_path, planes):
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "DAPI", "a", "b"]}}
    tifffile.imwrite(tmp_path / "a.ome.tif", planes, metadata=metadata)
    with pytest.raises(ImageReadError, match="found 2 channels 'DAPI', expected one of"):
        open_image(tmp_path / "a.ome.tif", ReadOptions(channels=("DAPI",)))
    with open_image(tmp_path / "a.ome.tif", ReadOptions(channels=("1",))) as source:
        np.testing.assert_array_equal(source.read_rows(0, 30)[:, :, 0], planes[1])


@pytest.mark.parametrize("wanted", [("a", "b", "c", "d"), ("-",), ("-", "-", "")])
def test_choices_that_no_image_can_satisfy_are_wrong_use(tmp_path, wanted):
    with pytest.raises(UsageError, match="found --channels"):
        open_image(tmp_path / "absent.tif", ReadOptions(channels=wanted))


@pytest.mark.parametrize("wanted", ["12", "DAPI", 2])
def test_a_single_name_is_not_taken_for_a_list_of_letters(wanted):
    for choose in (lambda: ReadOptions(channels=wanted), lambda: PatchSegmenter(channels=wanted)):
        with pytest.raises(UsageError, match=f"channels {wanted!r}, expected a list of names"):
            choose()


def test_channels_of_arrays_are_chosen_by_number(rng):
    image = rng.random((8, 9, 5))
    rows = ArraySource(image, channels=(4, "-", 0)).read_rows(0, 8)
    np.testing.assert_array_equal(rows[:, :, 0], image[:, :, 4])
    assert not rows[:, :, 1].any()
    np.testing.assert_array_equal(rows[:, :, 2], image[:, :, 0])
    with pytest.raises(ImageReadError, match="array: found no channel '5', expected one of: 0, 1"):
        ArraySource(image, channels=(5,))


@pytest.mark.parametrize("wanted", [("0", ""), ("", "0"), ("0+",), ("CD4+",)])
def test_a_choice_without_a_name_is_no_channel_without_a_name(wanted):
    with pytest.raises(ImageReadError, match=r"found no channel '.*', expected one of: 0;"):
        ArraySource(np.ones((4, 5), np.uint8), channels=wanted)
    with pytest.raises(ImageReadError, match=r"found no channel '.*', expected one of: 0 CD4, 1;"):
        find_channels("a.tif", wanted, ("CD4", ""))


def test_green_of_a_colour_image_is_read_as_grey(tmp_path, rng):
    import cv2

    pixels = rng.integers(0, 256, (8, 9, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), pixels[:, :, ::-1])
    with open_image(tmp_path / "a.png", ReadOptions(channels=("1",))) as source:
        np.testing.assert_array_equal(source.read_rows(0, 8)[:, :, 2], pixels[:, :, 1])
