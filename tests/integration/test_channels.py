"""--channels: labels of chosen channels are those of an image of these channels alone."""

import numpy as np
import pytest
import tifffile
from folder_helpers import latest_records, slide

from mediar_infer.labels.reading import read_labels

NAMES = ["blue", "CD8", "red", "green"]


@pytest.fixture
def stack(tmp_path):
    """Four channels, three of which are the colours of a slide, and the slide alone."""
    red, green, blue = np.moveaxis(slide()[0], 2, 0)
    noise = np.random.default_rng(0).integers(0, 255, red.shape, np.uint8)
    (tmp_path / "all").mkdir()
    (tmp_path / "alone").mkdir()
    tifffile.imwrite(
        tmp_path / "all" / "a.ome.tif", np.array([blue, noise, red, green]),
        metadata={"axes": "CYX", "Channel": {"Name": NAMES}},
    )  # fmt: skip
    tifffile.imwrite(tmp_path / "alone" / "a.ome.tif", slide()[0], photometric="rgb")
    return tmp_path


@pytest.mark.usefixtures("perfect_network")
def test_named_channels_give_the_labels_of_those_channels_alone(predict, stack):
    assert predict(stack / "all", stack / "out", "--channels", "red,green,blue") == 0
    assert predict(stack / "alone", stack / "expected") == 0
    found = read_labels(stack / "out" / "a_label.tiff")
    np.testing.assert_array_equal(found, read_labels(stack / "expected" / "a_label.tiff"))
    assert found.max() == slide()[1].max()
    plan = latest_records(stack / "out")["a.ome.tif"]["plan"]
    assert plan["channels"] == ["red", "green", "blue"]


@pytest.mark.usefixtures("perfect_network")
def test_resume_notices_another_choice(predict, stack):
    for channels, status in (("red", "done"), ("red", "resumed"), ("3,0", "done")):
        assert predict(stack / "all", stack / "out", "--resume", "--channels", channels) == 0
        assert latest_records(stack / "out")["a.ome.tif"]["status"] == status


@pytest.mark.usefixtures("perfect_network")
def test_wrong_name_fails_the_image_and_lists_the_channels(predict, stack, capsys):
    assert predict(stack / "all", stack / "out", "--channels", "CD45") == 1
    expected = "a.ome.tif: found no channel 'CD45', expected one of: 0 blue, 1 CD8, 2 red, 3 green"
    assert expected in capsys.readouterr().err


def test_too_many_channels_are_wrong_use(predict, stack):
    assert predict(stack / "all", stack / "out", "--channels", "0,1,2,3") == 2
