"""The maximum over a z-stack of every format, by rows and in bounded memory."""

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from mediar_infer.errors import ImageReadError
from mediar_infer.images import planes
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.open import open_image

STACK = np.random.default_rng(0).integers(1, 60000, (4, 3, 50, 70), np.uint16)  # Z, C, Y, X
MAXIMUM = np.moveaxis(STACK.max(axis=0), 0, -1)


def read_rows(path, **options):
    with open_image(path, ReadOptions(project="max", **options)) as source:
        steps = [(top, min(top + 9, source.height)) for top in range(0, source.height, 9)]
        return np.concatenate([source.read_rows(*rows) for rows in steps])


@pytest.fixture(params=[1, 64 * 2**20], ids=["block of one step", "one block"])
def _block(request, monkeypatch):
    monkeypatch.setattr(planes, "_PROJECTED_BYTES", request.param)


LAYOUTS = {
    "contiguous": {},
    "strips": {"compression": "zlib", "rowsperstrip": 8},
    "one strip": {"compression": "zlib", "rowsperstrip": 50},
    "tiles": {"compression": "zlib", "tile": (16, 32)},
}


@pytest.mark.usefixtures("_block")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tiff(tmp_path, layout):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, STACK, metadata={"axes": "ZCYX"}, ome=True, **LAYOUTS[layout])
    np.testing.assert_array_equal(read_rows(path), MAXIMUM)
    np.testing.assert_array_equal(read_rows(path, channels=(2,)), MAXIMUM[:, :, [2, 2, 2]])


@pytest.mark.usefixtures("_block")
@pytest.mark.parametrize(("dtype", "nodata"), [("uint16", 65535), ("int16", -7), ("float32", 9e9)])
def test_pixels_without_a_measurement_count_only_where_nothing_else_is(tmp_path, dtype, nodata):
    stack = np.random.default_rng(2).integers(-40, 30000, (3, 50, 70)).astype(dtype)
    stack[:, 10:30, 10:30] = -30 if dtype == "int16" else 30
    expected = stack.max(axis=0)
    for plane in range(3):
        stack[plane, 10 + 5 * plane : 15 + 5 * plane, 10:30] = nodata
    stack[:, 40:, 50:] = nodata
    expected[40:, 50:] = np.nan if dtype == "float32" else 0
    tags = [(42113, "s", 0, str(nodata), True)]
    tifffile.imwrite(tmp_path / "a.tif", stack, metadata={"axes": "ZYX"}, extratags=tags,
                     photometric="minisblack")  # fmt: skip
    np.testing.assert_array_equal(read_rows(tmp_path / "a.tif")[:, :, 0], expected)


def test_decoded_planes_are_dropped(tmp_path):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, STACK, metadata={"axes": "ZCYX"}, ome=True, **LAYOUTS["strips"])
    with open_image(path, ReadOptions(project="max")) as source:
        source.read_rows(0, 20)
        readers = [plane for rows in source._planes.values() for plane in rows._planes]
        assert len(readers) == 12
        assert not any(reader._cache for reader in readers)


def test_axis_without_a_name_is_taken_for_z_and_time_is_not(tmp_path):
    grey = STACK[:, 0]
    tifffile.imwrite(tmp_path / "a.tif", grey, photometric="minisblack")
    np.testing.assert_array_equal(read_rows(tmp_path / "a.tif")[:, :, 0], grey.max(axis=0))
    tifffile.imwrite(tmp_path / "t.tif", grey, imagej=True, metadata={"axes": "TYX"})
    with pytest.raises(ImageReadError, match=r"4 planes \(axes TYX.*, expected a z-stack for --pr"):
        read_rows(tmp_path / "t.tif")


@pytest.mark.usefixtures("_block")
@pytest.mark.parametrize("n_samples", [2, 3, 5])
def test_channels_last_saved_as_a_page_for_each_row(tmp_path, n_samples):
    stack = np.random.default_rng(1).integers(1, 250, (4, 20, 30, n_samples), np.uint8)  # Z, Y, X
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack, photometric="minisblack", metadata={"axes": "ZYXC"},
                     compression="zlib")  # fmt: skip
    with tifffile.TiffFile(path) as tif:
        assert len(tif.pages) == 4 * 20
    expected = stack.max(axis=0)
    for channel in range(n_samples):
        found = read_rows(path, channels=(channel,))
        np.testing.assert_array_equal(found[:, :, 0], expected[:, :, channel])
    for plane in range(4):
        with open_image(path, ReadOptions(plane=plane, all_channels=True)) as source:
            np.testing.assert_array_equal(source.read_channels(3, 17), stack[plane, 3:17])


def test_plane_chooses_the_time_that_is_projected(tmp_path):
    stack = STACK.transpose(1, 0, 2, 3)  # T, Z, Y, X
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "TZYX"})
    found = read_rows(tmp_path / "a.tif", plane=2)
    np.testing.assert_array_equal(found[:, :, 0], stack[2].max(axis=0))
    with pytest.raises(ImageReadError, match=r"3 planes .*after the projection of z.*--plane N"):
        read_rows(tmp_path / "a.tif")


@pytest.mark.parametrize("compressed", [False, True])
def test_mha(tmp_path, compressed):
    path = tmp_path / "a.mha"
    sitk.WriteImage(sitk.GetImageFromArray(STACK[:, 0]), path, compressed)
    np.testing.assert_array_equal(read_rows(path)[:, :, 0], STACK[:, 0].max(axis=0))


def test_missing_pixels_count_only_where_every_plane_misses_them(tmp_path):
    stack = STACK[:2, 0].astype("f4")
    stack[0, 3, 4] = stack[:, 5, 6] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    found = read_rows(tmp_path / "a.tif")[:, :, 0]
    assert found[3, 4] == stack[1, 3, 4]
    assert np.argwhere(np.isnan(found)).tolist() == [[5, 6]]


def test_plain_images_are_read_as_they_are(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", STACK[0, 0])
    np.testing.assert_array_equal(read_rows(tmp_path / "a.tif")[:, :, 0], STACK[0, 0])
