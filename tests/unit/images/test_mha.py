"""MHA images: what SimpleITK writes comes back, and no damaged file becomes an image."""

import re
import tracemalloc
import zlib

import numpy as np
import pytest
import SimpleITK

from mediar_infer.errors import ImageReadError
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.listing import list_images
from mediar_infer.images.open import open_image
from mediar_infer.labels.files import write_labels

Y, X = np.mgrid[:60, :80]
GREY = (Y * 80 + X).astype(np.uint16)
RGB = np.stack([X * 3, Y * 4, X + Y], axis=-1).astype(np.uint8)
STACK = np.stack([GREY + k for k in range(3)])
SPACING, ORIGIN, DIRECTION = (0.5, 0.25), (3.0, -4.0), (0.0, 1.0, -1.0, 0.0)


def write_mha(path, pixels, *, is_vector=False, compressed=False):
    image = SimpleITK.GetImageFromArray(pixels, isVector=is_vector)
    SimpleITK.WriteImage(image, str(path), useCompression=compressed)
    return path


def read_all(path, **options):
    with open_image(path, ReadOptions(**options)) as source:
        return source.read_rows(0, source.height), source


def three(grey):
    return np.repeat(grey[:, :, None], 3, axis=2)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_grey_image_of_every_type_comes_back(tmp_path, dtype, compressed):
    pixels = (GREY % 100).astype(dtype)
    path = write_mha(tmp_path / "a.mha", pixels, compressed=compressed)
    image, source = read_all(path)
    np.testing.assert_array_equal(image, three(pixels))
    assert (image.dtype, source.warnings) == (np.dtype(dtype), ())


def test_big_endian_pixels_are_read_as_numbers(tmp_path):
    path = write_mha(tmp_path / "a.mha", GREY)
    header, _, _ = path.read_bytes().partition(GREY.tobytes())
    header = header.replace(b"ByteOrderMSB = False", b"ByteOrderMSB = True")
    path.write_bytes(header + GREY.astype(">u2").tobytes())
    np.testing.assert_array_equal(read_all(path)[0], three(GREY))


@pytest.mark.parametrize("compressed", [False, True])
def test_colours_come_back_and_a_fourth_channel_is_dropped(tmp_path, compressed):
    path = write_mha(tmp_path / "rgb.mha", RGB, is_vector=True, compressed=compressed)
    np.testing.assert_array_equal(read_all(path)[0], RGB)
    with_alpha = np.dstack([RGB, np.full((60, 80), 255, np.uint8)])
    path = write_mha(tmp_path / "rgba.mha", with_alpha, is_vector=True, compressed=compressed)
    image, source = read_all(path)
    np.testing.assert_array_equal(image, RGB)
    assert source.warnings == ("4 channels found: the first 3 are used",)


def test_few_rows_of_many_channels_are_an_image(tmp_path):
    pixels = np.arange(3 * 50 * 6, dtype=np.uint16).reshape(3, 50, 6)
    path = write_mha(tmp_path / "a.mha", pixels, is_vector=True)
    np.testing.assert_array_equal(read_all(path)[0], pixels[:, :, :3])


@pytest.mark.parametrize("compressed", [False, True])
def test_stack_of_one_is_an_image_and_other_stacks_follow_the_plane(tmp_path, compressed):
    path = write_mha(tmp_path / "one.mha", GREY[None], compressed=compressed)
    np.testing.assert_array_equal(read_all(path)[0], three(GREY))
    path = write_mha(tmp_path / "three.mha", STACK, compressed=compressed)
    np.testing.assert_array_equal(read_all(path, plane=2)[0], three(STACK[2]))
    with pytest.raises(ImageReadError, match=r"3 planes \(axes ZYX, shape 3 × 60 × 80\).*--plane"):
        open_image(path)
    with pytest.raises(ImageReadError, match="--plane from 0 to 2, not 3"):
        open_image(path, ReadOptions(plane=3))


def test_plane_of_four_dimensions_counts_along_the_flattened_axes(tmp_path):
    pixels = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    path = write_mha(tmp_path / "a.mha", pixels)
    for plane in range(6):
        expected = pixels.reshape(6, 4, 5)[plane]
        np.testing.assert_array_equal(read_all(path, plane=plane)[0], three(expected))


def test_plane_has_no_effect_on_a_plain_image_and_is_noted(tmp_path):
    _, source = read_all(write_mha(tmp_path / "a.mha", GREY), plane=1)
    assert source.warnings == ("the image has one plane only: --plane 1 has no effect",)


def test_content_decides_not_the_extension(tmp_path):
    path = write_mha(tmp_path / "a.mha", GREY).rename(tmp_path / "a.tif")
    image, source = read_all(path)
    np.testing.assert_array_equal(image, three(GREY))
    assert source.warnings == ("mislabelled: extension .tif but MHA content, read as MHA",)


def test_folder_lists_mha(tmp_path):
    path = write_mha(tmp_path / "a.mha", GREY)
    assert list_images(tmp_path) == ([path], [])


def test_pixel_limit_holds_before_anything_is_decoded(tmp_path):
    path = write_mha(tmp_path / "a.mha", GREY)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ImageReadError, match="4,800 pixels, expected at most 4,799"):
        open_image(path, ReadOptions(max_pixels=4799))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("share", [0.01, 0.02, 0.1, 0.5, 0.99])
def test_truncated_file_is_never_half_an_image(tmp_path, share, compressed, capfd):
    data = write_mha(tmp_path / "a.mha", GREY, compressed=compressed).read_bytes()
    (tmp_path / "a.mha").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageReadError, match=r"a\.mha: found .*expected .*copy or export it again"):
        open_image(tmp_path / "a.mha")
    assert capfd.readouterr() == ("", "")


def test_damaged_compressed_pixels_are_refused(tmp_path, capfd):
    path = write_mha(tmp_path / "a.mha", GREY, compressed=True)
    data = bytearray(path.read_bytes())
    for position in range(len(data) - 5000, len(data), 500):
        damaged = data.copy()
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        with pytest.raises(ImageReadError, match="damaged or unsupported MHA"):
            open_image(path)
    assert capfd.readouterr() == ("", "")


FAULTS = {
    "another file": (b"= LOCAL", b"= other.raw", "the pixels are in another file, other.raw"),
    "no type": (b"MET_USHORT", b"MET_NONSENSE", "without a known NONSENSE"),
    "no size": (b"DimSize", b"DimSyze", "without a known DimSize"),
    "words": (b"80 60", b"80 sixty", "DimSize 80 sixty, not whole numbers"),
    "nine dimensions": (b"NDims = 2", b"NDims = 9", "9 dimensions with the sizes"),
    "negative": (b"80 60", b"-80 60", "the sizes \\(-80, 60\\)"),
    "none": (b"80 60", b"80 0", "the sizes \\(80, 0\\)"),
    "text": (b"BinaryData = True", b"BinaryData = False", "pixels written as text"),
    "larger": (b"80 60", b"80 61", "9,760 bytes of pixels needed, 9,600 found"),
    "not compressed": (b"CompressedData = False", b"CompressedData = True", "while decompressing"),
    "no direction": (b"Matrix = 1 0 0 1", b"Matrix = 0 0 0 0", "determinant is 0"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_header_is_refused_in_silence(tmp_path, fault, capfd):
    found, changed, message = FAULTS[fault]
    path = write_mha(tmp_path / "a.mha", GREY)
    data = path.read_bytes()
    assert found in data
    path.write_bytes(data.replace(found, changed))
    with pytest.raises(ImageReadError, match=message):
        open_image(path)
    assert capfd.readouterr() == ("", "")


def test_file_that_expands_beyond_its_size_is_refused(tmp_path):
    data = write_mha(tmp_path / "a.mha", GREY, compressed=True).read_bytes()
    (tmp_path / "a.mha").write_bytes(data.replace(b"80 60", b"80 59"))
    with pytest.raises(ImageReadError, match="9,440 bytes of pixels needed, 9,600 decompressed"):
        open_image(tmp_path / "a.mha")


def test_file_that_expands_far_beyond_its_size_is_not_decompressed_whole(tmp_path):
    path = write_mha(tmp_path / "a.mha", GREY, compressed=True)
    header = path.read_bytes().partition(b"ElementDataFile = LOCAL\n")[0]
    header = re.sub(rb"CompressedDataSize = \d+\n", b"", header)
    bomb = zlib.compress(bytes(2**28))
    path.write_bytes(header + b"ElementDataFile = LOCAL\n" + bomb)
    tracemalloc.start()
    try:
        with pytest.raises(ImageReadError, match="9,600 bytes of pixels needed"):
            open_image(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**24


def placed(pixels, spacing, origin, direction):
    image = SimpleITK.GetImageFromArray(pixels)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    return image


def label(source, path, labels):
    write_labels(path, [labels], height=60, width=80, geometry=source.geometry)
    return SimpleITK.ReadImage(str(path))


def test_labels_keep_spacing_origin_and_direction(tmp_path):
    image = placed(GREY, SPACING, ORIGIN, DIRECTION)
    SimpleITK.WriteImage(image, str(tmp_path / "a.mha"))
    with open_image(tmp_path / "a.mha") as source:
        written = label(source, tmp_path / "labels.mha", GREY // 100)
    assert (written.GetSpacing(), written.GetOrigin()) == (SPACING, ORIGIN)
    assert written.GetDirection() == DIRECTION
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(written), GREY // 100)


def test_labels_of_a_plane_lie_where_the_plane_lay(tmp_path):
    turned = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    image = placed(STACK, (0.5, 0.25, 2.0), (1.0, 2.0, 3.0), turned)
    SimpleITK.WriteImage(image, str(tmp_path / "a.mha"))
    with open_image(tmp_path / "a.mha", ReadOptions(plane=2)) as source:
        written = label(source, tmp_path / "labels.mha", GREY // 100)
    assert written.GetSize() == (80, 60, 1)
    corner = image.TransformIndexToPhysicalPoint((79, 59, 2))
    assert written.TransformIndexToPhysicalPoint((79, 59, 0)) == corner


@pytest.mark.parametrize(
    ("bands", "dtype"),
    [
        ([np.full((60, 80), 65_535, np.int32)], np.uint16),
        ([np.full((60, 80), 65_536, np.int32)], np.uint32),
        ([np.ones((20, 80), np.int32), np.ones((40, 80), np.int32)], np.uint32),
    ],
)
def test_labels_have_the_types_that_tiff_would_have(tmp_path, bands, dtype):
    write_labels(tmp_path / "a.mha", bands, height=60, width=80)
    pixels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "a.mha")))
    assert pixels.dtype == dtype
    np.testing.assert_array_equal(pixels, np.concatenate(bands))
