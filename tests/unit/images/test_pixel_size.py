"""Pixel sizes of TIFF files: from OME or ImageJ metadata or resolution tags, or none."""

import math

import imagecodecs
import numpy as np
import pytest
import tifffile

from mediar_infer.errors import UsageError
from mediar_infer.images.geometry import Geometry
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.mha import write_meta_image
from mediar_infer.images.open import open_image

IMAGE = np.zeros((8, 6), np.uint8)


def spacing_of(path):
    """Measured spacing along x and y in mm."""
    with open_image(path) as source:
        return source.pixel_size_mm and source.pixel_size_mm[::-1]


def warnings_of(path):
    with open_image(path) as source:
        return source.warnings


@pytest.mark.parametrize(
    ("unit", "resolution", "expected"),
    [
        ("CENTIMETER", (20000, 40000), (0.0005, 0.00025)),
        ("INCH", (25400, 50800), (0.001, 0.0005)),
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
    tifffile.imwrite(path, IMAGE, resolution=(25400, 25400), resolutionunit="INCH")
    unknown_tag = (60000).to_bytes(2, "little")
    _overwrite(path, lambda tags: tags["ResolutionUnit"].offset, unknown_tag)
    assert spacing_of(path) == pytest.approx((0.001, 0.001))


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


def _set_of_files(own, stated=("a", "b")):
    """OME metadata of a set: an image in each file, with a size and a channel of its own."""
    images = "".join(
        f'<Image ID="Image:{k}"><Pixels ID="Pixels:{k}" DimensionOrder="XYCZT" Type="uint8"'
        f' SizeX="{IMAGE.shape[1]}" SizeY="{IMAGE.shape[0]}" SizeC="1" SizeZ="1" SizeT="1"'
        f' PhysicalSizeX="{k + 1}" PhysicalSizeY="{k + 1}">'
        f'<Channel ID="Channel:{k}:0" Name="stain {name}"/><TiffData IFD="0" PlaneCount="1">'
        f'<UUID FileName="{name}.ome.tif">urn:uuid:{name}</UUID></TiffData></Pixels></Image>'
        for k, name in enumerate(stated)
    )
    uuid = f'UUID="urn:uuid:{own}"' if own else ""
    space = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    return f'<?xml version="1.0"?><OME xmlns="{space}" {uuid}>{images}</OME>'


@pytest.mark.parametrize("is_stated", [True, False], ids=["by its UUID", "by its name"])
@pytest.mark.parametrize(("name", "um"), [("a", 1), ("b", 2)])
def test_file_of_a_set_has_its_own_size_and_channel(tmp_path, name, um, is_stated):
    path = tmp_path / f"{name}.ome.tif"
    description = _set_of_files(name if is_stated else None)
    tifffile.imwrite(path, IMAGE, description=description, metadata=None)
    if is_stated:  # then it keeps them under another name
        path = path.rename(tmp_path / "renamed.ome.tif")
    with open_image(path) as source:
        assert source.pixel_size_mm == pytest.approx((um / 1000, um / 1000))
        assert source.channel_names == (f"stain {name}",)


def test_file_that_a_set_does_not_name_has_no_size_of_another_one(tmp_path):
    path = tmp_path / "c.ome.tif"
    tifffile.imwrite(path, IMAGE, description=_set_of_files("c"), metadata=None)
    with open_image(path) as source:
        assert (source.geometry, source.channel_names) == (None, ("",))


@pytest.mark.parametrize("own", ["c", None])
def test_metadata_that_name_one_file_belong_to_it_under_any_name(tmp_path, own):
    path = tmp_path / "renamed.ome.tif"
    tifffile.imwrite(path, IMAGE, description=_set_of_files(own, stated="a"), metadata=None)
    assert spacing_of(path) == pytest.approx((0.001, 0.001))


def test_damaged_ome_metadata_leave_the_tags(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, IMAGE, description='<?xml version="1.0"?><OME <broken</OME>', metadata=None,
        resolution=(10_000, 10_000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    assert spacing_of(path) == pytest.approx((0.001, 0.001))


@pytest.mark.parametrize(
    ("unit", "resolution"),
    [("INCH", 72), ("INCH", 96), ("INCH", 300), ("INCH", 600), ("CENTIMETER", 118.11)],
)
def test_dots_per_inch_of_cameras_and_editors_are_no_size_but_are_kept(tmp_path, unit, resolution):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, resolution=(resolution, resolution), resolutionunit=unit)
    with open_image(path) as source:
        assert (source.pixel_size_mm, source.warnings) == (None, ())
        mm = (25.4 if unit == "INCH" else 10) / resolution
        assert source.geometry.spacing == pytest.approx((mm, mm))


def test_dots_per_inch_saved_by_imagej_are_no_size(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, IMAGE, imagej=True, resolution=(300, 300), resolutionunit="INCH",
        metadata={"unit": "inch"},
    )  # fmt: skip
    assert spacing_of(path) is None


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("Aperio Image Library v11\r\n8x6|AppMag = 20|MPP = 0.4990|Left = 1", 0.000499),
        ("Aperio Image Library v11\r\n8x6|AppMag = 20|MPP = ?", None),
        ("Aperio Image Library v11\r\n8x6|AppMag = 20", None),
        ("another scanner |MPP = 0.4990", None),
    ],
)
def test_aperio_states_micrometres_per_pixel(tmp_path, description, expected):
    path = tmp_path / "a.svs"
    tifffile.imwrite(path, IMAGE, description=description, metadata=None)
    assert spacing_of(path) == (expected and pytest.approx((expected, expected)))


def test_contradictory_sizes_are_a_warning_and_ome_wins(tmp_path):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(
        path, IMAGE, resolution=(10_000, 10_000), resolutionunit="CENTIMETER",
        metadata={"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25},
    )  # fmt: skip
    assert spacing_of(path) == pytest.approx((0.0005, 0.00025))
    assert warnings_of(path) == (
        "the OME metadata state pixels of 0.25 × 0.5 µm, the resolution tags of 1 × 1 µm: the"
        " former are used",
    )


def test_rounded_sizes_do_not_contradict_each_other(tmp_path):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(
        path, IMAGE, resolution=(30_800, 30_800), resolutionunit="CENTIMETER",
        metadata={"axes": "YX", "PhysicalSizeX": 0.325, "PhysicalSizeY": 0.325},
    )  # fmt: skip
    assert warnings_of(path) == ()


def test_chosen_size_replaces_that_of_the_file_and_keeps_the_place(tmp_path):
    options = ReadOptions(pixel_size_um=(0.5, 0.25))
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, resolution=(72, 72), resolutionunit="INCH")
    imagecodecs.imwrite(tmp_path / "b.png", IMAGE)
    place = Geometry((1.0, 1.0, 3.0), (4.0, 5.0, 6.0), tuple(np.eye(3).ravel()), is_measured=False)
    with (tmp_path / "c.mha").open("wb") as file:
        write_meta_image(file, IMAGE, place)
    for name in ("a.tif", "b.png", "c.mha"):
        with open_image(tmp_path / name) as source:
            assert source.pixel_size_mm is None
        with open_image(tmp_path / name, options) as source:
            assert source.pixel_size_mm == (0.0005, 0.00025)
    assert source.geometry.spacing == (0.00025, 0.0005, 3.0)
    assert source.geometry.origin == (4.0, 5.0, 6.0)


@pytest.mark.parametrize("size", [(0.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (1.0, math.inf)])
def test_size_that_is_none_is_refused(size):
    with pytest.raises(UsageError, match=r"found --pixel-size .*, expected µm above 0"):
        ReadOptions(pixel_size_um=size)
