"""Channels that common writers mark as opacity."""

import struct

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from mediar_infer.images.open import open_image
from mediar_infer.images.sources import ArraySource

FIRST = (np.indices((40, 50)).sum(0) * 2).astype(np.uint8)
SECOND = np.ascontiguousarray(FIRST[::-1])
PAIR = np.dstack([FIRST, SECOND])
OPAQUE = np.full_like(FIRST, 255)
KEPT = "a channel is marked as opacity but varies like an image: it is used as a channel"
DROPPED = "opacity is dropped although it varies: the colours of transparent pixels are used"
TWO = "2 channels found: read as red and green, blue is zero"


def read(path):
    with open_image(path) as source:
        return source.read_rows(0, source.height), list(source.warnings)


def write_tiff(path, image, **options):
    tifffile.imwrite(
        path, image, photometric="minisblack", extrasamples=["unassalpha"], metadata=None, **options
    )


WRITERS = {
    "pillow.png": lambda path, image: Image.fromarray(image).save(path),
    "pillow.tif": lambda path, image: Image.fromarray(image).save(path),
    "codecs.png": lambda path, image: path.write_bytes(imagecodecs.png_encode(image)),
    "codecs.jp2": lambda path, image: path.write_bytes(imagecodecs.jpeg2k_encode(image, level=0)),
    "strips.tif": lambda path, image: write_tiff(path, image, compression="deflate"),
    "planar.tif": lambda path, image: write_tiff(
        path, np.moveaxis(image, -1, 0), planarconfig="separate"
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_second_channel_marked_as_opacity_is_kept(tmp_path, name):
    WRITERS[name](tmp_path / name, PAIR)
    rows, warnings = read(tmp_path / name)
    np.testing.assert_array_equal(rows, np.dstack([PAIR, 0 * FIRST]))
    assert warnings == [KEPT, TWO]


@pytest.mark.parametrize("name", WRITERS)
def test_opacity_that_is_the_same_everywhere_is_dropped_in_silence(tmp_path, name):
    WRITERS[name](tmp_path / name, np.dstack([FIRST, OPAQUE]))
    rows, warnings = read(tmp_path / name)
    np.testing.assert_array_equal(rows, FIRST[..., None].repeat(3, -1))
    assert warnings == []


@pytest.mark.parametrize("name", ["pillow.png", "pillow.tif", "codecs.jp2"])
def test_opacity_of_colours_that_varies_is_dropped_with_a_warning(tmp_path, name):
    WRITERS[name](tmp_path / name, np.dstack([PAIR, PAIR[:, ::-1]]))
    rows, warnings = read(tmp_path / name)
    np.testing.assert_array_equal(rows, np.dstack([PAIR, PAIR[:, ::-1, 0]]))
    assert warnings == [DROPPED]


def test_transparent_colour_of_png_is_no_channel(tmp_path):
    Image.fromarray(FIRST).save(tmp_path / "a.png", transparency=int(FIRST[0, 3]))
    rows, warnings = read(tmp_path / "a.png")
    np.testing.assert_array_equal(rows, FIRST[..., None].repeat(3, -1))
    assert warnings == [DROPPED]


def test_image_whose_samples_are_all_marked_as_opacity_keeps_them(tmp_path):
    image = np.dstack([PAIR, PAIR[:, ::-1, 0]])
    path = tmp_path / "a.tif"
    marks = [(65_000, "H", 3, (2, 2, 2), True)]
    tifffile.imwrite(path, image, photometric="rgb", extratags=marks, metadata=None)
    private, extra_samples = (struct.pack("<HHI", code, 3, 3) for code in (65_000, 338))
    path.write_bytes(path.read_bytes().replace(private, extra_samples))
    rows, warnings = read(path)
    np.testing.assert_array_equal(rows, image)
    assert warnings == [KEPT]


def test_array_marked_with_opacity_follows_the_same_rule():
    assert ArraySource(PAIR, has_alpha=True).warnings == (KEPT, TWO)
    assert list(ArraySource(np.dstack([FIRST, OPAQUE]), has_alpha=True).warnings) == []
