"""Images that programs for microscopy save with a display look-up table."""

import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from mediar_infer.errors import ImageReadError
from mediar_infer.images.open import open_image

GREY = (np.indices((40, 50)).sum(0) * 2).astype(np.uint8)
RAMP = np.arange(256)
RANDOM = np.random.default_rng(0).integers(0, 65536, (3, 256))
TABLES = {
    "green": np.stack([0 * RAMP, RAMP * 257, 0 * RAMP]),
    "rainbow": 65535 * np.clip(1.5 - np.abs(4 * RAMP / 255 - np.array([[3], [2], [1]])), 0, 1),
    "random": RANDOM,
    "inverted": np.tile((255 - RAMP) * 257, (3, 1)),
}
NOTE = "the palette is for display: stored numbers are read as intensities"


def read(path):
    with open_image(path) as source:
        return source.read_rows(0, source.height), list(source.warnings)


def write_palette(path, image, table, **options):
    options = {"metadata": None, **options}
    table = np.asarray(table).astype(np.uint16)
    tifffile.imwrite(path, image, photometric="palette", colormap=table, **options)


@pytest.mark.parametrize("table", TABLES)
def test_imagej_image_with_a_look_up_table_is_its_intensities(tmp_path, table):
    path = tmp_path / "a.tif"
    text = "ImageJ=1.54f\nimages=1\nmin=0.0\nmax=255.0\n"
    write_palette(path, GREY, TABLES[table], description=text)
    rows, warnings = read(path)
    np.testing.assert_array_equal(rows, GREY[..., None].repeat(3, -1))
    assert warnings == [NOTE]


def test_ome_image_with_a_look_up_table_is_its_intensities(tmp_path):
    write_palette(tmp_path / "a.ome.tif", GREY, TABLES["rainbow"], metadata={"axes": "YX"})
    rows, warnings = read(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(rows[..., 1], GREY)
    assert warnings == [NOTE]


def test_sixteen_bit_table_is_for_display(tmp_path):
    image = GREY.astype(np.uint16) * 100
    write_palette(tmp_path / "a.tif", image, np.zeros((3, 65536)))
    rows, warnings = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(rows[..., 2], image)
    assert warnings == [NOTE]


def test_ramp_of_one_colour_is_for_display_whatever_the_program(tmp_path):
    write_palette(tmp_path / "a.tif", GREY, TABLES["green"])
    rows, warnings = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(rows[..., 0], GREY)
    assert warnings == [NOTE]


def test_image_of_few_colours_keeps_them_with_a_warning(tmp_path):
    colours = np.random.default_rng(1).integers(0, 256, (8, 3)).astype(np.uint8)
    image = Image.fromarray(GREY % 8, "P")
    image.putpalette(colours.tobytes())
    for name in ("a.tif", "a.png", "a.bmp"):
        image.save(tmp_path / name)
        rows, warnings = read(tmp_path / name)
        np.testing.assert_array_equal(rows, colours[GREY % 8])
        assert warnings == ["the colours of a colour table are used, not the stored numbers"]


def test_grey_table_is_what_it_shows_without_a_warning(tmp_path):
    shades = np.array([200, 3, 90], np.uint8)[:, None].repeat(3, 1)
    image = Image.fromarray(GREY % 3, "P")
    image.putpalette(shades.tobytes())
    for name in ("a.tif", "a.png", "a.bmp"):
        image.save(tmp_path / name)
        rows, warnings = read(tmp_path / name)
        np.testing.assert_array_equal(rows, shades[GREY % 3])
        assert warnings == []


def test_number_beyond_a_colour_table_is_an_error_with_the_number(tmp_path):
    path = tmp_path / "a.tif"
    write_palette(path, GREY, TABLES["random"])
    with tifffile.TiffFile(path) as tif:
        entry = tif.pages.first.tags["ColorMap"].offset
    data = bytearray(path.read_bytes())
    data[entry + 4 : entry + 8] = struct.pack("<I", 48)  # numbers in the table: 16 colours
    path.write_bytes(data)
    with pytest.raises(ImageReadError, match=r"a\.tif: .*(colour table|palette)"):
        read(path)


def test_odd_types_of_colour_images_end_as_errors(tmp_path):
    rng = np.random.default_rng(0)
    for photometric in ("ycbcr", "cielab", "separated", "rgb"):
        for dtype in ("u2", "i2", "f4", "f8", "i1"):
            for n in (3, 4):
                image = rng.integers(0, 100, (16, 16, n)).astype(dtype)
                path = tmp_path / "a.tif"
                if (photometric, n) == ("separated", 3):
                    continue
                tifffile.imwrite(path, image, photometric=photometric, metadata=None)
                try:
                    rows, _ = read(path)
                except ImageReadError:
                    continue
                assert rows.shape == (16, 16, 3)
