"""Pixel sizes of TIFF files: from OME or ImageJ metadata or resolution tags, or none."""

import numpy as np
import pytest
import tifffile

from mediar_infer.images.open import open_image

IMAGE = np.zeros((8, 6), np.uint8)


def spacing_of(path):
    with open_image(path) as source:
        return None if source.geometry is None else source.geometry.spacing


@pytest.mark.parametrize(
    ("unit", "resolution", "expected"),
    [
        ("CENTIMETER", (20000, 40000), (0.0005, 0.00025)),
        ("INCH", (254, 508), (0.1, 0.05)),
        ("NONE", (20000, 40000), None),
        ("CENTIMETER", ((0, 1), (0, 1)), None),
    ],
)
def test_resolution_tags_give_the_size_where_they_have_a_unit(tmp_path, unit, resolution, expected):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, resolution=resolution, resolutionunit=unit)
    assert spacing_of(path) == (None if expected is None else pytest.approx(expected, rel=1e-9))


def _overwrite(path, offset_of, data):
    with tifffile.TiffFile(path) as tif:
        offset = offset_of(tif.pages.first.tags)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_file_without_the_unit_tag_counts_pixels_per_inch(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, resolution=(254, 254), resolutionunit="INCH")
    unknown_tag = (60000).to_bytes(2, "little")
    _overwrite(path, lambda tags: tags["ResolutionUnit"].offset, unknown_tag)
    assert spacing_of(path) == pytest.approx((0.1, 0.1))


def test_resolution_over_zero_states_no_size(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, resolution=(100, 100), resolutionunit="CENTIMETER")
    _overwrite(path, lambda tags: tags["YResolution"].valueoffset + 4, bytes(4))
    assert spacing_of(path) is None


def test_resolution_of_another_type_states_no_size_and_the_image_is_read(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, resolution=(100, 100), resolutionunit="CENTIMETER")
    ascii_type = (2).to_bytes(2, "little")
    _overwrite(path, lambda tags: tags["XResolution"].offset + 2, ascii_type)
    assert spacing_of(path) is None


@pytest.mark.parametrize(
    ("unit", "mm"),
    [("micron", 0.25e-3), ("\\u00B5m", 0.25e-3), ("nm", 0.25e-6), ("mm", 0.25)],
)
def test_imagej_counts_pixels_per_unit_of_its_metadata(tmp_path, unit, mm):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, imagej=True, resolution=(4, 4), metadata={"unit": unit})
    assert spacing_of(path) == pytest.approx((mm, mm))


@pytest.mark.parametrize("unit", ["pixel", ""])
def test_imagej_without_a_length_states_no_size(tmp_path, unit):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, imagej=True, resolution=(4, 4), metadata={"unit": unit})
    assert spacing_of(path) is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25}, (0.0005, 0.00025)),
        (
            {
                "PhysicalSizeX": 500.0, "PhysicalSizeXUnit": "nm",
                "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "mm",
            },
            (0.0005, 0.5),
        ),
        ({"PhysicalSizeX": 0.5}, None),
        (
            {
                "PhysicalSizeX": 1.0, "PhysicalSizeXUnit": "pixel",
                "PhysicalSizeY": 1.0, "PhysicalSizeYUnit": "pixel",
            },
            None,
        ),
        ({}, None),
    ],
)  # fmt: skip
def test_ome_states_a_physical_size(tmp_path, given, expected):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, IMAGE, metadata={"axes": "YX", **given})
    assert spacing_of(path) == (None if expected is None else pytest.approx(expected, rel=1e-9))


def test_ome_comes_before_the_tags(tmp_path):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(
        path, IMAGE, resolution=(72, 72), resolutionunit="INCH",
        metadata={"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5},
    )  # fmt: skip
    assert spacing_of(path) == pytest.approx((0.0005, 0.0005))


def test_damaged_ome_metadata_leave_the_tags(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, IMAGE, description='<?xml version="1.0"?><OME <broken</OME>', metadata=None,
        resolution=(100, 100), resolutionunit="CENTIMETER",
    )  # fmt: skip
    assert spacing_of(path) == pytest.approx((0.1, 0.1))
