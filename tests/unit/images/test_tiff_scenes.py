"""TIFF files of several images: which of them are scenes, and what belongs to each."""

import numpy as np
import pytest
import tifffile
from scn_files import write_scn

from mediar_infer.errors import ImageReadError
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.open import open_image
from mediar_infer.images.scenes import list_scenes

GENERATOR = np.random.default_rng(0)
FIRST, SECOND, THIRD = (
    GENERATOR.integers(0, 1000, shape, np.uint16) for shape in ((40, 50), (2, 40, 50), (60, 70))
)


@pytest.fixture
def path(tmp_path):
    """Three images: one channel, two channels of the same size, and a larger pyramid."""
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(FIRST, metadata=metadata("A1", 0.5, "YX"))
        channels = {"Channel": {"Name": ["DAPI", "GFP"]}}
        tif.write(SECOND, metadata=metadata("A2", 0.25, "CYX") | channels)
        tif.write(THIRD, subifds=2, metadata=metadata("B1", 0.125, "YX"))
        for step in (2, 4):
            tif.write(THIRD[::step, ::step], subfiletype=1, metadata=None)
    return path


def metadata(name, um, axes):
    size = {f"PhysicalSize{axis}{part}": value for axis in "XY"
            for part, value in (("", um), ("Unit", "µm"))}  # fmt: skip
    return {"axes": axes, "Name": name, **size}


def read(path, **options):
    with open_image(path, ReadOptions(all_channels=True, **options)) as source:
        return source.read_channels(0, source.height), source


def test_scenes_have_names_and_no_pyramid_levels(path):
    assert list_scenes(path) == ["A1", "A2", "B1"]


@pytest.mark.parametrize(
    ("scene", "pixels", "um", "channels"),
    [(0, FIRST[..., None], 0.5, ("",)),
     (1, np.moveaxis(SECOND, 0, -1), 0.25, ("DAPI", "GFP")),
     (2, THIRD[..., None], 0.125, ("",))],
)  # fmt: skip
def test_each_scene_has_its_pixels_size_and_channels(path, scene, pixels, um, channels):
    found, source = read(path, scene=scene)
    np.testing.assert_array_equal(found, pixels)
    assert source.pixel_size_mm == pytest.approx((um / 1000, um / 1000))
    assert source.channel_names == channels
    assert not any("further" in warning for warning in source.warnings)


def test_without_a_choice_the_largest_is_read(path):
    found, source = read(path)
    np.testing.assert_array_equal(found[..., 0], THIRD)
    assert source.warnings == (
        "2 further image(s) in the file are not read (40 × 50, 2 × 40 × 50); choose one with"
        " --scene N, or all with --scene all",
    )


def test_a_scene_that_is_not_there(path):
    with pytest.raises(ImageReadError, match="found 3 scenes, expected a --scene from 0 to 2"):
        read(path, scene=3)


def test_a_file_of_one_image_has_one_scene(tmp_path):
    path = tmp_path / "one.tif"
    tifffile.imwrite(path, FIRST)
    assert list_scenes(path) == [""]
    assert read(path, scene=0)[1].warnings == ()
    assert "--scene 1 has no effect" in read(path, scene=1)[1].warnings[0]


def test_planes_of_a_stack_are_no_scenes(tmp_path):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.stack([FIRST] * 3), imagej=True, metadata={"axes": "ZYX"})
    assert list_scenes(path) == [""]


def test_pages_of_several_sizes_are_scenes_without_names(tmp_path):
    path = tmp_path / "pages.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(FIRST, metadata=None)
        tif.write(THIRD, metadata=None)
        tif.write(THIRD[:30, :35], subfiletype=1, metadata=None)
    assert list_scenes(path) == ["", ""]
    np.testing.assert_array_equal(read(path, scene=0)[0][..., 0], FIRST)


@pytest.mark.parametrize("name", ["label", "Macro image", "thumbnail"])
def test_what_accompanies_a_slide_is_no_scene(tmp_path, name):
    path = tmp_path / "slide.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(THIRD, metadata={"axes": "YX", "Name": "slide.svs #1"})
        tif.write(FIRST, metadata={"axes": "YX", "Name": name})
    assert list_scenes(path) == ["slide.svs #1"]
    assert read(path)[1].warnings == ()


def test_aperio_slide_is_one_scene(tmp_path):
    path, text = tmp_path / "slide.svs", "Aperio Image Library v1\r\n320x256|AppMag = 20"
    image = GENERATOR.integers(0, 255, (256, 320, 3), np.uint8)
    with tifffile.TiffWriter(path) as tif:
        tif.write(image, tile=(64, 64), description=text, metadata=None)
        tif.write(image[::8, ::8], description=f"{text} thumbnail", metadata=None)
        tif.write(image[:40, :50], description="label", subfiletype=1, metadata=None)
        tif.write(image[:60, :90], description="macro", subfiletype=9, metadata=None)
    assert len(list_scenes(path)) == 1


def colours(height, width):
    return GENERATOR.integers(0, 255, (height, width, 3), np.uint8)


def test_scanned_regions_of_a_leica_slide_are_scenes_and_its_macro_image_is_none(tmp_path):
    regions = [colours(48, 56), colours(64, 80)]
    path = write_scn(tmp_path / "a.scn", colours(90, 100), regions, ["left", "right"])
    assert list_scenes(path) == ["left", "right"]
    for scene, region in enumerate(regions):
        found, source = read(path, scene=scene)
        np.testing.assert_array_equal(found, region)
        assert source.warnings == ()
    found, source = read(path)
    np.testing.assert_array_equal(found, regions[1])
    assert source.warnings == (
        "1 further image(s) in the file are not read (48 × 56 × 3); choose one with --scene N, or"
        " all with --scene all",
    )


def test_leica_slide_of_one_region_has_one_scene(tmp_path):
    region = colours(64, 80)
    path = write_scn(tmp_path / "a.scn", colours(20, 30), [region])
    found, source = read(path)
    np.testing.assert_array_equal(found, region)
    assert source.warnings == ()


def test_macro_image_alone_is_read(tmp_path):
    macro = colours(20, 30)
    np.testing.assert_array_equal(read(write_scn(tmp_path / "a.scn", macro, []))[0], macro)


def test_regions_of_a_leica_slide_are_those_that_openslide_finds(tmp_path):
    openslide = pytest.importorskip("openslide")
    regions = [colours(48, 56), colours(64, 80)]
    path = write_scn(tmp_path / "a.scn", colours(90, 100), regions)
    slide, sides = openslide.OpenSlide(path), ("height", "width")
    sizes = {
        tuple(int(slide.properties[f"openslide.region[{k}].{name}"]) for name in sides)
        for k in range(2)
    }
    assert sizes == {region.shape[:2] for region in regions}


def test_damaged_files_have_no_scenes(path):
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ImageReadError, match=r"a\.ome\.tif: found"):
        list_scenes(path)
