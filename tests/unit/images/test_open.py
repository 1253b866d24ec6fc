"""Files of every format come back as the pixels that were written."""

import struct
import zlib

import cv2
import imagecodecs
import numpy as np
import pytest

from mediar_infer.errors import ShapeError, UsageError
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.listing import list_images
from mediar_infer.images.open import open_image
from mediar_infer.images.sources import ArraySource, to_three_channels


def read_all(path, **options):
    with open_image(path, ReadOptions(**options)) as source:
        rows = source.read_rows(0, source.height)
        assert rows.shape == (source.height, source.width, 3)
        assert rows.dtype == source.dtype
        assert rows.flags.c_contiguous
        return rows, list(source.warnings)


def smooth(height=33, width=47):
    """Colours that survive lossy codecs and differ in every channel."""
    y, x = np.mgrid[:height, :width]
    channels = [255 * x / width, 255 * y / height, 255 * (x + y) / (width + height)]
    return np.stack(channels, axis=-1).astype(np.uint8)


RGB = smooth()
GREY = RGB[:, :, 0].copy()
RGB16 = RGB.astype(np.uint16) * 250 + 3
OPACITY = np.full_like(GREY, 200)


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(header, *chunks):
    body = b"".join(png_chunk(kind, data) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", *header)) + body


def palette_png(colours, index):
    height, width = index.shape
    rows = b"".join(b"\0" + row.tobytes() for row in index)
    chunks = [(b"PLTE", colours.tobytes()), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return png((width, height, 8, 3, 0, 0, 0), *chunks)


def palette_bmp(colours, index):
    height, width = index.shape
    rows = [row.tobytes().ljust((width + 3) // 4 * 4, b"\0") for row in index[::-1]]
    table = b"".join(bytes([b, g, r, 0]) for r, g, b in colours)
    offset = 14 + 40 + len(table)
    pixels = b"".join(rows)
    head = struct.pack("<2sIII", b"BM", offset + len(pixels), 0, offset)
    size = (40, width, height, 1, 8, 0, len(pixels), 0, 0, len(colours), 0)
    return head + struct.pack("<IiiHHIIiiII", *size) + table + pixels


def run_length_bmp(colours, index):
    packed = palette_bmp(colours, index)
    runs = b"".join(b"".join(bytes([1, v]) for v in row) + b"\0\0" for row in index[::-1]) + b"\0\1"
    offset = struct.unpack_from("<I", packed, 10)[0]
    head = bytearray(packed[:offset])
    struct.pack_into("<I", head, 30, 1)
    struct.pack_into("<I", head, 34, len(runs))
    return bytes(head) + runs


COLOURS = np.array([[10, 20, 30], [200, 0, 50], [0, 90, 255]], np.uint8)
GREYS = COLOURS[:, :1].repeat(3, axis=1)
INDEX = (np.indices((9, 14)).sum(0) % 3).astype(np.uint8)


def cv2_file(extension, image):
    bgr = image if image.ndim == 2 else np.ascontiguousarray(image[:, :, [2, 1, 0]])
    ok, data = cv2.imencode(extension, bgr)
    assert ok
    return data.tobytes()


EXACT = {
    "grey.png": (imagecodecs.png_encode(GREY), GREY),
    "grey16.png": (imagecodecs.png_encode(RGB16[:, :, 0].copy()), RGB16[:, :, 0]),
    "rgb.png": (imagecodecs.png_encode(RGB), RGB),
    "rgb16.png": (imagecodecs.png_encode(RGB16), RGB16),
    "rgba.png": (imagecodecs.png_encode(np.dstack([RGB, OPACITY])), RGB),
    "rgba16.png": (imagecodecs.png_encode(np.dstack([RGB16, OPACITY * np.uint16(9)])), RGB16),
    "grey_alpha.png": (imagecodecs.png_encode(np.dstack([GREY, OPACITY])), GREY),
    "grey_palette.png": (palette_png(GREYS, INDEX), GREYS[INDEX]),
    "cv.png": (cv2_file(".png", RGB), RGB),
    "rgb.bmp": (cv2_file(".bmp", RGB), RGB),
    "grey.bmp": (cv2_file(".bmp", GREY), GREY),
    "grey_palette.bmp": (palette_bmp(GREYS, INDEX), GREYS[INDEX]),
    "run_lengths.bmp": (run_length_bmp(GREYS, INDEX), GREYS[INDEX]),
    "codecs.bmp": (imagecodecs.bmp_encode(RGB), RGB),
    "grey.jp2": (imagecodecs.jpeg2k_encode(GREY, level=0), GREY),
    "rgb.jp2": (imagecodecs.jpeg2k_encode(RGB, level=0), RGB),
    "rgb16.jp2": (imagecodecs.jpeg2k_encode(RGB16, level=0), RGB16),
    "rgb.j2k": (imagecodecs.jpeg2k_encode(RGB, level=0, codecformat="j2k"), RGB),
    "one_pixel.png": (imagecodecs.png_encode(RGB[5:6, 7:8].copy()), RGB[5:6, 7:8]),
    "one_row.png": (imagecodecs.png_encode(GREY[:1].copy()), GREY[:1]),
    "UPPER.PNG": (imagecodecs.png_encode(RGB), RGB),
}


@pytest.mark.parametrize("name", EXACT)
def test_lossless_file_is_read_as_written(tmp_path, name):
    data, expected = EXACT[name]
    (tmp_path / name).write_bytes(data)

    rows, warnings = read_all(tmp_path / name)

    assert rows.dtype == expected.dtype
    np.testing.assert_array_equal(rows, to_three_channels(expected))
    assert warnings == []


JPEG_KINDS = {
    "rgb.jpg": (imagecodecs.jpeg8_encode(RGB, level=98), RGB),
    "grey.jpeg": (imagecodecs.jpeg8_encode(GREY, level=98), GREY),
    "cv.jpg": (cv2_file(".jpg", RGB), RGB),
    "subsampled.jpg": (imagecodecs.jpeg8_encode(RGB, level=98, subsampling="420"), RGB),
}


@pytest.mark.parametrize("name", JPEG_KINDS)
def test_jpeg_is_read_in_rgb_order(tmp_path, name):
    data, expected = JPEG_KINDS[name]
    (tmp_path / name).write_bytes(data)

    rows, warnings = read_all(tmp_path / name)

    assert np.abs(rows.astype(int) - to_three_channels(expected)).max() <= 16
    assert warnings == []


def test_cmyk_jpeg_is_converted_to_rgb(tmp_path):
    # Adobe's files hold inverted inks: 255 is no ink, so that R = C * K / 255
    inks = np.dstack([RGB, np.full_like(GREY, 255)])
    plain = imagecodecs.jpeg8_encode(inks, level=100, colorspace="CMYK", outcolorspace="CMYK")
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
    data = plain if b"Adobe" in plain[:64] else plain[:2] + adobe + plain[2:]
    (tmp_path / "cmyk.jpg").write_bytes(data)

    rows, _ = read_all(tmp_path / "cmyk.jpg")

    assert np.abs(rows.astype(int) - RGB).max() <= 8


def exif(orientation):
    tags = struct.pack("<HHHIHH", 1, 0x0112, 3, 1, orientation, 0)
    return b"II*\0\x08\0\0\0" + tags + b"\0\0\0\0"


PALETTES = {"a.png": palette_png, "a.bmp": palette_bmp, "runs.bmp": run_length_bmp}


@pytest.mark.parametrize("name", PALETTES)
def test_colours_of_a_palette_are_used_with_a_warning(tmp_path, name):
    (tmp_path / name).write_bytes(PALETTES[name](COLOURS, INDEX))
    rows, warnings = read_all(tmp_path / name)
    np.testing.assert_array_equal(rows, COLOURS[INDEX])
    assert warnings == ["the colours of a colour table are used, not the stored numbers"]


@pytest.mark.parametrize("name", PALETTES)
def test_palette_that_is_a_ramp_of_one_colour_is_read_as_grey(tmp_path, name):
    ramp = np.zeros((256, 3), np.uint8)
    ramp[:, 1] = np.arange(256)
    (tmp_path / name).write_bytes(PALETTES[name](ramp, GREY))
    rows, warnings = read_all(tmp_path / name)
    np.testing.assert_array_equal(rows, to_three_channels(GREY))
    assert warnings == ["a one-colour display table is ignored: its brightness is read as grey"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rows_are_as_stored_unless_the_orientation_is_asked_for(tmp_path, orientation):
    jpeg = imagecodecs.jpeg8_encode(RGB, level=95)
    body = b"Exif\0\0" + exif(orientation)
    block = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    (tmp_path / "turned.jpg").write_bytes(jpeg[:2] + block + jpeg[2:])
    flags = {False: cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, True: cv2.IMREAD_COLOR}
    for is_applied in (False, True):
        expected = cv2.imread(str(tmp_path / "turned.jpg"), flags[is_applied])[:, :, ::-1]
        rows, warnings = read_all(tmp_path / "turned.jpg", apply_orientation=is_applied)
        np.testing.assert_array_equal(rows, expected)
        verb = "is applied" if is_applied else "is not applied: labels lie on the rows as stored"
        assert len(warnings) == (orientation != 1)
        assert all(f"EXIF orientation {orientation} {verb}" in warning for warning in warnings)


def test_exif_orientation_of_png_is_applied_on_demand(tmp_path):
    data = imagecodecs.png_encode(RGB)
    (tmp_path / "turned.png").write_bytes(data[:33] + png_chunk(b"eXIf", exif(6)) + data[33:])

    np.testing.assert_array_equal(read_all(tmp_path / "turned.png")[0], RGB)
    rows, _ = read_all(tmp_path / "turned.png", apply_orientation=True)
    np.testing.assert_array_equal(rows, np.rot90(RGB, -1))


PICTURES = "the file holds 3 pictures, of which only the first is read: save each as a file of its"


def multi_picture_index(*kinds):
    """Index of the pictures of a file (MPO); kinds: 0x03 the first, 0x01 a reduced copy of it."""
    size = 16 * len(kinds)
    tags = struct.pack(">HHII", 0xB001, 4, 1, len(kinds)), struct.pack(">HHII", 0xB002, 7, size, 38)
    entries = [struct.pack(">IIIHH", kind << 16, 0, 0, 0, 0) for kind in kinds]
    return struct.pack(">2sHIH", b"MM", 42, 8, 2) + b"".join(tags) + bytes(4) + b"".join(entries)


@pytest.mark.parametrize(
    ("index", "is_told"),
    [
        (multi_picture_index(3, 2, 0), True),
        (multi_picture_index(3, 1, 1), False),
        (multi_picture_index(3, 2, 0)[:30], False),
    ],
    ids=["pictures", "reduced copies", "damaged"],
)
def test_further_pictures_of_a_jpeg_are_told(tmp_path, index, is_told):
    jpeg = imagecodecs.jpeg8_encode(RGB, level=95)
    body = b"MPF\0" + index
    block = b"\xff\xe2" + struct.pack(">H", len(body) + 2) + body
    (tmp_path / "a.jpg").write_bytes(jpeg[:2] + block + jpeg[2:] + jpeg + jpeg)
    rows, warnings = read_all(tmp_path / "a.jpg")
    np.testing.assert_array_equal(rows, imagecodecs.jpeg8_decode(jpeg))
    assert [warning.startswith(PICTURES) for warning in warnings] == [True] * is_told


@pytest.mark.parametrize(("n_frames", "is_first"), [(3, True), (2, False)])
def test_further_frames_of_a_png_are_told(tmp_path, n_frames, is_first):
    data = imagecodecs.png_encode(RGB)
    chunks = png_chunk(b"acTL", struct.pack(">II", n_frames, 0))
    if is_first:
        chunks += png_chunk(b"fcTL", struct.pack(">5I2H2B", 0, *RGB.shape[1::-1], 0, 0, 1, 9, 0, 0))
    (tmp_path / "a.png").write_bytes(data[:33] + chunks + data[33:])
    rows, warnings = read_all(tmp_path / "a.png")
    np.testing.assert_array_equal(rows, RGB)
    assert [warning.startswith(PICTURES) for warning in warnings] == [True]


def test_content_decides_when_the_extension_is_wrong(tmp_path):
    (tmp_path / "cells.tif").write_bytes(imagecodecs.png_encode(RGB))

    rows, warnings = read_all(tmp_path / "cells.tif")

    np.testing.assert_array_equal(rows, RGB)
    assert warnings == ["mislabelled: extension .tif but PNG content, read as PNG"]


def test_plane_of_a_flat_image_has_no_effect(tmp_path):
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(RGB))

    assert read_all(tmp_path / "a.png", plane=0)[1] == []
    assert read_all(tmp_path / "a.png", plane=3)[1] == [
        "the image has one plane only: --plane 3 has no effect"
    ]
    with pytest.raises(UsageError, match=r"--plane -1, expected 0 or more"):
        open_image(tmp_path / "a.png", ReadOptions(plane=-1))


def test_three_channel_rule():
    image = np.arange(2 * 3 * 5, dtype=np.int16).reshape(2, 3, 5)

    np.testing.assert_array_equal(to_three_channels(image[:, :, 0])[:, :, 2], image[:, :, 0])
    np.testing.assert_array_equal(to_three_channels(image[:, :, :1])[:, :, 1], image[:, :, 0])
    two = to_three_channels(image[:, :, :2])
    np.testing.assert_array_equal(two[:, :, :2], image[:, :, :2])
    assert not two[:, :, 2].any()
    np.testing.assert_array_equal(to_three_channels(image), image[:, :, :3])
    assert to_three_channels(image).flags.c_contiguous


@pytest.mark.parametrize("dtype", ["bool", "uint8", ">u2", "int32", "float16", ">f8", "int64"])
def test_array_source_returns_a_copy_in_the_native_dtype(rng, dtype):
    array = rng.integers(0, 2, (7, 5, 3)).astype(dtype)
    before = array.copy()
    source = ArraySource(array, "mine")

    rows = source.read_rows(2, 6)
    rows[...] = 1

    expected = "uint8" if dtype == "bool" else np.dtype(dtype).newbyteorder("=")
    assert rows.dtype == source.dtype == expected
    assert rows.dtype.isnative
    np.testing.assert_array_equal(array, before)
    np.testing.assert_array_equal(source.read_rows(2, 6), before[2:6])
    assert source.read_rows(3, 3).shape == (0, 5, 3)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((5,), "expected \\(H, W\\)"),
        ((2, 5, 6, 3), "expected \\(H, W\\)"),
        ((0, 5), "at least one pixel"),
        ((5, 6, 0), "at least one pixel"),
        ((3, 50, 60), "channels last"),
    ],
)
def test_array_source_refuses_other_shapes(shape, text):
    with pytest.raises(ShapeError, match=text):
        ArraySource(np.zeros(shape))


def test_array_source_refuses_complex_numbers():
    with pytest.raises(ShapeError, match="dtype complex128, expected bool, integers or floats"):
        ArraySource(np.zeros((4, 4), complex))


def test_rows_outside_the_image_are_refused():
    source = ArraySource(np.zeros((4, 4)))
    for top, bottom in [(-1, 2), (0, 5), (3, 2)]:
        with pytest.raises(ShapeError, match="inside 0 to 4"):
            source.read_rows(top, bottom)


def test_array_source_tells_which_channels_are_used():
    assert ArraySource(np.zeros((4, 4, 2))).warnings == (
        "2 channels found: read as red and green, blue is zero",
    )
    assert ArraySource(np.zeros((4, 4, 4))).warnings == ("4 channels found: the first 3 are used",)
    assert ArraySource(np.zeros((4, 4, 4)), has_alpha=True).warnings == ()


def test_folder_is_listed_in_natural_order_with_reasons_for_the_rest(tmp_path):
    for name in ("b10.png", "b9.TIF", "A1.ome.tif", "slide.svs", "x.jp2", "notes.txt", ".a.png"):
        (tmp_path / name).touch()
    for name in ("anim.gif", "noextension"):
        (tmp_path / name).touch()
    (tmp_path / "sub.tif").mkdir()
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere.png")

    images, skipped = list_images(tmp_path)

    names = [path.name for path in images]
    assert names == [
        "A1.ome.tif", "anim.gif", "b9.TIF", "b10.png", "broken.png", "slide.svs", "x.jp2",
    ]  # fmt: skip
    assert {s.path.name: s.reason.split(":")[0] for s in skipped} == {
        ".a.png": "hidden file",
        "noextension": "not an image",
        "notes.txt": "not an image",
        "sub.tif": "sub-folder",
    }


def test_single_file_is_listed_alone(tmp_path):
    (tmp_path / "cells.dat").touch()
    assert list_images(tmp_path / "cells.dat") == ([tmp_path / "cells.dat"], [])


def test_empty_folder_lists_nothing(tmp_path):
    assert list_images(tmp_path) == ([], [])


def test_missing_folder_is_wrong_use(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere: found nothing there, expected a folder"):
        list_images(tmp_path / "nowhere")


def test_real_images_are_read_as_opencv_does(cells_dir):
    for pattern in ("wbc2_0*.jpg", "dsb_1*.png", "bbbc039_A*.png", "usiigaci_23*.png"):
        path = sorted((cells_dir / "images").glob(pattern))[0]
        expected = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        expected = expected if expected.ndim == 2 else expected[:, :, 2::-1]

        rows, _ = read_all(path)

        np.testing.assert_array_equal(rows, to_three_channels(expected))


def test_array_source_refuses_floats_wider_than_64_bits():
    if np.dtype(np.longdouble).itemsize <= 8:
        pytest.skip("long double is float64 here")
    with pytest.raises(ShapeError, match="of up to 64 bits; convert it first"):
        ArraySource(np.ones((4, 5), np.longdouble))


def jp2_box(kind, content):
    return struct.pack(">I4s", 8 + len(content), kind) + content


def with_definitions(jp2, *kinds):
    """The file with a ``cdef`` box that gives its channels these kinds (0 colour, 1 opacity)."""
    rows = [struct.pack(">HHH", k, kind, 0 if kind else k + 1) for k, kind in enumerate(kinds)]
    box = jp2_box(b"cdef", struct.pack(">H", len(kinds)) + b"".join(rows))
    at = jp2.index(b"jp2h") - 4
    (length,) = struct.unpack_from(">I", jp2, at)
    header = jp2_box(b"jp2h", jp2[at + 8 : at + length] + box)
    return jp2[:at] + header + jp2[at + length :]


@pytest.mark.parametrize(
    ("n_channels", "codec", "kinds", "n_read"),
    [
        (2, "jp2", None, 1),
        (4, "jp2", None, 3),
        (4, "jp2", (0, 0, 0, 1), 3),
        (4, "jp2", (0, 0, 0, 2), 3),
        (2, "jp2", (0, 1), 1),
        (2, "jp2", (0, 0), 2),
        (2, "j2k", None, 2),
        (3, "jp2", None, 3),
    ],
)
def test_opacity_of_jpeg2000_is_dropped(tmp_path, n_channels, codec, kinds, n_read):
    image = np.dstack([RGB, OPACITY])[:, :, -n_channels if n_channels == 2 else 0 :][
        ..., :n_channels
    ]
    image = np.ascontiguousarray(image)
    data = imagecodecs.jpeg2k_encode(image, level=0, codecformat=codec, reversible=True)
    data = with_definitions(data, *kinds) if kinds else data
    (tmp_path / "a.jp2").write_bytes(data)
    rows, warnings = read_all(tmp_path / "a.jp2")
    expected = image[:, :, 0] if n_read == 1 else image[:, :, :n_read]
    np.testing.assert_array_equal(rows, to_three_channels(expected))
    assert len(warnings) == (n_read == 2)
