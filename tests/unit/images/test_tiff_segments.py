"""Strips and tiles of TIFF that were never written, or lie in an order of their own."""

import numpy as np
import pytest
import tifffile
from tiff_files import leave_out, reverse_segments

from mediar_infer.errors import ImageReadError
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.open import open_image

PLANES = np.random.default_rng(0).integers(1, 60_000, (3, 32, 16), np.uint16)
HALF_WRITTEN = r"^a\.tif: found 0 of 1 {}, expected all: the file was not written to its end; exp"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.tif"


def read(path, **options):
    with open_image(path, ReadOptions(**options)) as source:
        return source.read_rows(0, source.height)[:, :, 0], source.warnings


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    ("layout", "kind"), [({}, "strips"), ({"tile": (32, 16)}, "tiles")], ids=["strip", "tile"]
)
def test_only_segment_of_an_image_that_is_not_written(path, layout, kind, compression):
    tifffile.imwrite(path, PLANES[0], metadata=None, compression=compression, **layout)
    leave_out(path)
    with pytest.raises(ImageReadError, match=HALF_WRITTEN.format(kind)):
        read(path)


@pytest.mark.parametrize("options", [{"plane": 1}, {"project": "max"}], ids=["plane", "projection"])
def test_plane_that_is_not_written(path, options):
    with tifffile.TiffWriter(path) as tif:
        for plane in PLANES:
            tif.write(plane, contiguous=False, metadata=None)
    leave_out(path, page=1)
    np.testing.assert_array_equal(read(path, plane=2)[0], PLANES[2])
    with pytest.raises(ImageReadError, match=HALF_WRITTEN.format("strips")):
        read(path, **options)


def test_first_page_that_is_not_written_hides_no_later_one(path):
    tifffile.imwrite(path, PLANES, ome=True, metadata={"axes": "ZYX"})
    leave_out(path, page=0)
    np.testing.assert_array_equal(read(path, plane=1)[0], PLANES[1])
    with pytest.raises(ImageReadError, match=HALF_WRITTEN.format("strips")):
        read(path, plane=0)


def test_size_of_zero_of_a_strip_that_has_a_place_is_ignored(path):
    """Old writers leave it out, and libtiff, Pillow and ImageJ compute it too."""
    tifffile.imwrite(path, PLANES[0], metadata=None)
    with tifffile.TiffFile(path) as tif:
        at = tif.pages[0].tags[279].valueoffset
    data = bytearray(path.read_bytes())
    data[at : at + 4] = bytes(4)
    path.write_bytes(data)
    np.testing.assert_array_equal(read(path)[0], PLANES[0])


@pytest.mark.parametrize("page", [0, 1, 2])
@pytest.mark.parametrize("layout", [{"rowsperstrip": 8}, {"tile": (16, 16)}], ids=["strip", "tile"])
def test_uncompressed_segments_in_another_order(path, layout, page):
    tifffile.imwrite(path, PLANES, ome=True, metadata={"axes": "ZYX"}, **layout)
    reverse_segments(path, page)
    for plane in range(3):
        np.testing.assert_array_equal(read(path, plane=plane)[0], PLANES[plane])
    np.testing.assert_array_equal(read(path, project="max")[0], PLANES.max(axis=0))


def test_stack_that_its_first_page_describes_needs_no_other_page(path):
    tifffile.imwrite(path, PLANES, imagej=True, metadata={"axes": "ZYX"})
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        at = page.offset + 2 + 12 * len(page.tags)
    data = bytearray(path.read_bytes())
    data[at : at + 4] = bytes(4)  # ImageJ writes one page only for stacks of more than 4 GB
    path.write_bytes(data)
    for plane in range(3):
        np.testing.assert_array_equal(read(path, plane=plane)[0], PLANES[plane])
