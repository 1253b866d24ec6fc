"""Array-likes are read by rows: what is not asked for is never computed."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from mediar_infer.errors import ImageReadError, ShapeError
from mediar_infer.images.sources import ArraySource


class Counted:
    """An array-like that counts the rows it gave away; ``chunks`` only if named."""

    def __init__(self, array, chunks=None):
        self.array, self.shape, self.dtype, self.rows = array, array.shape, array.dtype, 0
        if chunks is not None:
            self.chunks = chunks

    def __getitem__(self, rows):
        self.rows += len(self.array[rows])
        return self.array[rows]


@pytest.mark.parametrize("shape", [(100, 30), (100, 30, 4), (1, 1), (65, 1)])
@pytest.mark.parametrize("chunks", [None, (7, 30), ((40, 40, 20), (30,)), ((100,), (30,))])
def test_rows_are_those_of_the_array_and_each_chunk_is_read_once(rng, shape, chunks):
    array = rng.integers(1, 99, shape).astype(np.uint16)
    lazy = Counted(array, chunks)
    source = ArraySource(lazy)
    assert lazy.rows == 0
    for top in range(0, shape[0], 3):
        bottom = min(top + 3, shape[0])
        expected = ArraySource(array).read_rows(top, bottom)
        np.testing.assert_array_equal(source.read_rows(top, bottom), expected)
    assert lazy.rows <= shape[0] + 70 * (shape[0] // 64 + 1)
    np.testing.assert_array_equal(source.read_rows(0, shape[0])[0, 0], expected_first(array))


def expected_first(array):
    return ArraySource(array).read_rows(0, 1)[0, 0]


def test_dask_array_of_400_megapixels_is_not_computed_whole():
    dask_array = pytest.importorskip("dask.array")
    image = dask_array.ones((20_000, 20_000), chunks=(500, 20_000), dtype="u1")
    computed = []
    image = image.map_blocks(lambda block: computed.append(len(block)) or block, meta=image._meta)
    computed.clear()
    source = ArraySource(image)
    assert source.read_rows(990, 1010).shape == (20, 20_000, 3)
    assert sum(computed) <= 1000


def test_zarr_array_and_memory_map_are_read(tmp_path, rng):
    array = rng.integers(1, 99, (90, 40)).astype(np.uint16)
    np.save(tmp_path / "a.npy", array)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    stored = pytest.importorskip("zarr").create_array(tmp_path / "a.zarr", data=array)
    for thing in (mapped, stored):
        np.testing.assert_array_equal(ArraySource(thing).read_rows(5, 81)[..., 0], array[5:81])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3, 4, 5)), r"expected \(H, W\)"),
        (np.zeros((0, 3)), "at least one pixel"),
        (np.zeros((4, 4), complex), "convert it first"),
        (np.zeros((3, 40, 50)), "channels last"),
    ],
)
def test_lazy_array_that_is_no_image_is_refused_unread(array, message):
    lazy = Counted(array)
    with pytest.raises(ShapeError, match=message):
        ArraySource(lazy)
    assert lazy.rows == 0


def test_failing_read_is_an_error_with_the_name():
    class Failing(Counted):
        def __getitem__(self, rows):
            raise RuntimeError("store is gone")

    with pytest.raises(ImageReadError, match=r"array: .*store is gone"):
        ArraySource(Failing(np.ones((4, 4)))).read_rows(0, 4)


def test_masked_pixels_of_a_lazy_array_are_refused(rng):
    dask_array = pytest.importorskip("dask.array")
    array = rng.integers(1, 99, (90, 40)).astype(np.uint16)
    array[70, 5] = 0
    lazy = dask_array.from_array(array, chunks=(30, 40))
    source = ArraySource(dask_array.ma.masked_equal(lazy, 0))
    np.testing.assert_array_equal(source.read_rows(0, 60)[..., 0], array[:60])
    with pytest.raises(ShapeError, match="array: found a masked array with 1 masked values"):
        source.read_rows(60, 90)
    none_masked = ArraySource(dask_array.ma.masked_equal(lazy, 100))
    np.testing.assert_array_equal(none_masked.read_rows(0, 90)[..., 0], array)


def test_frame_of_a_pillow_image_that_is_read_is_told(tmp_path, rng):
    frames = rng.integers(0, 255, (3, 20, 30), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", frames, photometric="minisblack")
    with Image.open(tmp_path / "a.tif") as image:
        for number in (0, 2):
            image.seek(number)
            source = ArraySource(image)
            np.testing.assert_array_equal(source.read_rows(0, 20)[:, :, 0], frames[number])
            (warning,) = source.warnings
            assert warning.startswith(f"the Pillow image has 3 frames, of which number {number} is")
