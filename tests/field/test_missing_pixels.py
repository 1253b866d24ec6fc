"""One dead pixel, or a value that stands for missing data, far from all others."""

import numpy as np
import pytest
import tifffile

from mediar_infer.engine.preprocess import compute_scaling
from mediar_infer.images.open import open_image
from mediar_infer.images.sources import ArraySource

SCENE = np.random.default_rng(0).gamma(3.0, 40.0, (120, 150)).clip(1, 900)
LITTLE = "there is little contrast; remove dead pixels or the value of missing data"


def normalise(source):
    scaling = compute_scaling(source)
    rows = scaling.apply(source.read_rows(0, source.height))
    return rows, [*source.warnings, *scaling.warnings]


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("i2", -32_768), ("f4", -1e4), ("f4", -3.4e38), ("f8", -1e300), ("f2", -6e4),
        ("i4", -(2**31)), ("i8", -(2**62)),
    ],
)  # fmt: skip
def test_one_pixel_far_below_all_others_is_a_warning(dtype, value):
    image = SCENE.astype(dtype)
    assert normalise(ArraySource(image))[1] == []
    image[3, 4] = value
    _, (warning,) = normalise(ArraySource(image))
    assert LITTLE in warning


def test_pixel_that_costs_half_of_the_levels_is_a_warning():
    image = SCENE.astype(np.float32)
    image[3, 4] = -600
    _, (warning,) = normalise(ArraySource(image))
    assert warning.startswith("few pixels (from -600 on) lie far below all others, which share")


def test_area_of_missing_data_is_a_warning():
    image = SCENE.astype(np.int16)
    image[:40] = -9999
    _, (warning,) = normalise(ArraySource(image))
    assert LITTLE in warning


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (np.zeros((20, 30), np.uint8), "all pixels are 0"),
        (np.full((20, 30), 7, np.uint16), "all pixels that are not 0 have one grey level (7)"),
        (np.eye(30, dtype=bool), "all pixels that are not 0 have one grey level (1)"),
        (np.full((20, 30), -0.5), "all pixels that are not 0 have one grey level (-0.5)"),
    ],
)
def test_image_of_one_grey_level_is_a_warning(image, text):
    _, (warning,) = normalise(ArraySource(image))
    assert warning.startswith(text)


def test_huge_bright_spot_is_a_warning():
    image = SCENE.clip(1, 200).astype(np.uint16)
    image[:2, :60] = 60_000  # 0.7 % of the pixels
    _, (warning,) = normalise(ArraySource(image))
    assert "share one grey level" in warning


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f4"])
def test_ordinary_images_are_none(dtype):
    for image in (SCENE / 4, 220 - SCENE / 6, np.where(SCENE > 400, SCENE / 4, 0)):
        assert normalise(ArraySource(image.clip(0, 255).astype(dtype)))[1] == []


@pytest.mark.parametrize(
    ("dtype", "text", "value"),
    [
        ("i2", "-32768", -32_768), ("u2", "65535", 65_535), ("u1", "255", 255),
        ("f4", "-9999", -9999), ("f4", "-3.4028234663852886e+38", np.finfo("f4").min),
        ("f8", "1e30", 1e30), ("i4", "-2147483648", -(2**31)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_value_that_gdal_names_is_missing(tmp_path, dtype, text, value, compression):
    image = (SCENE / 4).astype(dtype)
    missing = np.zeros(image.shape, bool)
    missing[10:40, 20:50] = True
    expected = normalise(ArraySource(np.where(missing, 0, image).astype(dtype)))[0]
    image[missing] = value
    path = tmp_path / "a.tif"
    tag = [(42_113, "s", 0, text, True)]
    tifffile.imwrite(path, image, compression=compression, extratags=tag, metadata=None)
    with open_image(path) as source:
        rows, warnings = normalise(source)
    np.testing.assert_array_equal(rows, expected)
    assert warnings[0] == f"no-data value {float(value):g}: such pixels are read as missing"


@pytest.mark.parametrize("text", ["nan", "x", "0", "-1", "300", "1.5", "1e400", "inf"])
def test_value_that_cannot_occur_changes_nothing(tmp_path, text):
    image = (SCENE / 4).astype(np.uint8)
    tag = [(42_113, "s", 0, text, True)]
    tifffile.imwrite(tmp_path / "a.tif", image, extratags=tag, metadata=None)
    with open_image(tmp_path / "a.tif") as source:
        np.testing.assert_array_equal(source.read_rows(0, 120)[..., 0], image)
        assert list(source.warnings) == []


@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_value_that_gdal_names_may_be_part_of_a_colour(tmp_path, planes):
    image = np.random.default_rng(3).integers(1, 255, (40, 50, 3)).astype(np.uint8)
    image[:10, :10], image[20:30, :10] = 255, (255, 40, 255)
    expected = image.copy()
    expected[:10, :10] = 0
    stored = image if planes == "contig" else np.moveaxis(image, -1, 0)
    tags = [(42113, "s", 0, "255", True)]
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planes,
                     extratags=tags)  # fmt: skip
    with open_image(tmp_path / "a.tif") as source:
        np.testing.assert_array_equal(source.read_rows(0, 40), expected)
