"""Label files of other programs: the numbers of the cells, or an error that says what was found."""

import numpy as np
import pytest
import tifffile
from PIL import Image
from tiff_files import leave_out

from mediar_infer.errors import ImageReadError
from mediar_infer.labels.reading import read_labels

CELLS = np.zeros((6, 8), np.uint8)
CELLS[1:3, 1:3], CELLS[4:, 5:] = 1, 7


def save_indexed(path, labels=CELLS):
    height, width = labels.shape
    image = Image.frombytes("P", (width, height), labels.tobytes())
    # The colours are not those of the indices, and two indices share one.
    image.putpalette([0, 0, 0, 200, 10, 10, *[90] * 3 * 254])
    image.save(path)


@pytest.mark.parametrize("extension", ["png", "bmp", "tif"])
def test_indexed_labels_keep_the_numbers_not_the_colours(tmp_path, extension):
    path = tmp_path / f"a_label.{extension}"
    save_indexed(path)

    assert np.array_equal(read_labels(path), CELLS)


@pytest.mark.parametrize("extension", ["png", "bmp", "tif"])
def test_grey_labels_saved_as_colours_are_read(tmp_path, extension):
    path = tmp_path / f"a_label.{extension}"
    Image.fromarray(np.stack([CELLS] * 3, axis=2)).save(path)

    assert np.array_equal(read_labels(path), CELLS)


@pytest.mark.parametrize("copies", [1, 3])
def test_uniform_opacity_is_dropped(tmp_path, copies):
    path = tmp_path / "a_label.png"
    Image.fromarray(np.stack([CELLS] * copies + [np.full_like(CELLS, 255)], axis=2)).save(path)

    assert np.array_equal(read_labels(path), CELLS)


@pytest.mark.parametrize(
    "axes", [np.s_[..., None], np.s_[None], np.s_[None, ..., None], np.s_[None, None]]
)
def test_axes_of_length_1_are_dropped(tmp_path, axes):
    path = tmp_path / "a_label.tif"
    tifffile.imwrite(path, CELLS[axes])

    assert np.array_equal(read_labels(path), CELLS)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (1, 5, 1), (5, 1, 1), (1, 1, 5)])
def test_single_rows_and_columns_stay_two_dimensional(tmp_path, shape):
    path = tmp_path / "a_label.tif"
    tifffile.imwrite(path, np.arange(np.prod(shape), dtype=np.uint8).reshape(shape))

    labels = read_labels(path)

    assert labels.ndim == 2
    assert labels.ravel().tolist() == list(range(np.prod(shape)))


@pytest.mark.parametrize("flag", [0, 1], ids=["not marked", "marked as reduced"])
def test_preview_does_not_take_the_place_of_the_labels(tmp_path, flag):
    path = tmp_path / "a_label.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(CELLS[::2, ::2], subfiletype=flag)
        tif.write(CELLS.astype(np.uint16))

    assert np.array_equal(read_labels(path), CELLS)


def test_two_images_of_one_size_are_refused(tmp_path):
    path = tmp_path / "a_label.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(np.stack([CELLS] * 3, axis=2), photometric="rgb")
        tif.write(CELLS.astype(np.uint16))

    with pytest.raises(ImageReadError, match=r"found 2 images of 6 × 8 pixels.*labels alone"):
        read_labels(path)


@pytest.mark.parametrize("value", [np.inf, np.nan, 0.5, 2.0**60])
def test_floats_that_are_no_whole_numbers_are_refused(tmp_path, value):
    path = tmp_path / "a_label.tif"
    tifffile.imwrite(path, np.where(CELLS > 0, value, 0))

    with pytest.raises(ImageReadError, match="whole numbers"):
        read_labels(path)


def test_colours_are_no_numbers(tmp_path):
    path = tmp_path / "a_label.png"
    Image.fromarray(np.stack([CELLS, CELLS, CELLS * 2], axis=2)).save(path)

    with pytest.raises(ImageReadError, match=r"shape \(6, 8, 3\)"):
        read_labels(path)


def test_cut_off_indexed_file_is_an_error_of_the_package(tmp_path):
    path = tmp_path / "a_label.png"
    save_indexed(path, np.arange(6000, dtype=np.uint32).astype(np.uint8).reshape(60, 100))
    path.write_bytes(path.read_bytes()[:-200])

    with pytest.raises(ImageReadError, match="truncated"):
        read_labels(path)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("numbers", [[0], [1, 2], None])
def test_strips_that_are_not_written_are_no_background(tmp_path, compression, numbers):
    path = tmp_path / "a_label.tif"
    tifffile.imwrite(path, CELLS, rowsperstrip=2, compression=compression)
    leave_out(path, numbers)

    n_left = 0 if numbers is None else 3 - len(numbers)
    with pytest.raises(ImageReadError, match=rf"found {n_left} of 3 strips, .* not written to"):
        read_labels(path)


def test_only_strip_that_is_not_written_is_not_read_from_the_header_of_the_file(tmp_path):
    path = tmp_path / "a_label.tif"
    tifffile.imwrite(path, CELLS)
    leave_out(path)

    with pytest.raises(ImageReadError, match="found 0 of 1 strips"):
        read_labels(path)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiles_that_are_left_out_are_background_with_a_warning(tmp_path, caplog, compression):
    path = tmp_path / "a_label.tif"
    labels = np.kron(CELLS, np.ones((4, 4), np.uint8))
    tifffile.imwrite(path, labels, tile=(16, 16), compression=compression)
    leave_out(path, [2, 3])

    expected = labels.copy()
    expected[16:] = 0
    assert np.array_equal(read_labels(path), expected)
    assert "a_label.tif: 2 tiles are not stored and read as background" in caplog.text
    leave_out(path)
    with pytest.raises(ImageReadError, match="found 0 of 4 tiles"):
        read_labels(path)


def test_lossy_labels_are_refused(tmp_path):
    path = tmp_path / "a_label.png"
    Image.fromarray(CELLS).save(path, format="JPEG")

    with pytest.raises(ImageReadError, match="JPEG, which changes the numbers"):
        read_labels(path)
