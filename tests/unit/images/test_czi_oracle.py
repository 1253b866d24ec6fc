"""CZI files that Zeiss's library has written and reads: the same pixels, names and sizes."""

import numpy as np
import pytest

from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.open import open_image

czi = pytest.importorskip("pylibCZIrw.czi", reason="the oracle of CZI is not installed")

RNG = np.random.default_rng(0)
COMPRESSIONS = (
    "uncompressed:",
    "zstd0:ExplicitLevel=2",
    "zstd1:ExplicitLevel=2",
    "zstd1:ExplicitLevel=2;PreProcess=HiLoByteUnpack",
)


def read_czi(path, **options):
    with open_image(path, ReadOptions(all_channels=True, **options)) as source:
        return source, source.read_channels(0, source.height)


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_channels_and_planes_as_the_library_reads_them(tmp_path, compression, dtype):
    path = tmp_path / "a.czi"
    pixels = RNG.integers(0, 200, (2, 3, 37, 53)).astype(dtype)
    with czi.create_czi(str(path), compression_options=compression) as file:
        for c, z in np.ndindex(2, 3):
            file.write(pixels[c, z][..., None], plane={"C": c, "Z": z}, location=(-7, 12))
        file.write_metadata("t", channel_names={0: "DAPI", 1: "CD8"}, scale_x=3e-7, scale_y=4e-7)
    with czi.open_czi(str(path)) as file:
        for z in range(3):
            source, found = read_czi(path, plane=z)
            for c in range(2):
                expected = file.read(plane={"C": c, "Z": z})[:, :, 0]
                np.testing.assert_array_equal(found[:, :, c], expected)
    assert source.channel_names == ("DAPI", "CD8")
    np.testing.assert_allclose(source.geometry.pixel_size_mm, (4e-4, 3e-4))
    np.testing.assert_array_equal(
        read_czi(path, project="max")[1], np.moveaxis(pixels.max(axis=1), 0, -1)
    )


@pytest.mark.parametrize("compression", ["uncompressed:", "zstd0:ExplicitLevel=2"])
def test_colours_as_the_library_reads_them(tmp_path, compression):
    path = tmp_path / "a.czi"
    with czi.create_czi(str(path), compression_options=compression) as file:
        file.write(RNG.integers(0, 256, (30, 41, 3), np.uint8))
        file.write_metadata("t")
    with czi.open_czi(str(path)) as file:
        np.testing.assert_array_equal(read_czi(path)[1], file.read()[:, :, ::-1])


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_scenes_and_overlapping_tiles_as_the_library_composes_them(tmp_path, compression):
    path = tmp_path / "a.czi"
    with czi.create_czi(str(path), compression_options=compression) as file:
        for scene, y, x in np.ndindex(3, 2, 4):
            tile = RNG.integers(0, 60000, (40, 50, 1), np.uint16)
            place = (x * 45 + scene * 300, y * 36 + scene)
            file.write(tile, plane={"C": 0}, scene=scene, location=place)
        file.write_metadata("t")
    with czi.open_czi(str(path)) as file:
        for scene in file.scenes_bounding_rectangle:
            expected = file.read(plane={"C": 0}, scene=scene)
            np.testing.assert_array_equal(read_czi(path, scene=scene)[1], expected)
