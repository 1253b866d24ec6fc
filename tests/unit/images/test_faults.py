"""Every broken file ends as an error that says what was found, expected, and what to do."""

import contextlib
import logging
import subprocess
import sys
import tempfile
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from mediar_infer.errors import ImageReadError, UsageError
from mediar_infer.images import limits
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.listing import list_images
from mediar_infer.images.open import open_image

Y, X = np.mgrid[:60, :80]
RGB = np.stack([X * 3, Y * 4, X + Y], axis=-1).astype(np.uint8)
NOISY = RGB ^ np.random.default_rng(1).integers(0, 32, RGB.shape, np.uint8)

ENCODED = {
    "a.png": imagecodecs.png_encode(NOISY),
    "a.jpg": imagecodecs.jpeg8_encode(NOISY, level=90),
    "a.bmp": imagecodecs.bmp_encode(NOISY),
    "a.jp2": imagecodecs.jpeg2k_encode(NOISY, level=0),
    "a.j2k": imagecodecs.jpeg2k_encode(NOISY, level=0, codecformat="j2k"),
}


def read_all(path, **options):
    with open_image(path, ReadOptions(**options)) as source:
        return source.read_rows(0, source.height)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", ENCODED)
def test_truncated_file_is_never_half_an_image(tmp_path, name, share):
    data = ENCODED[name]
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(
        ImageReadError, match=rf"{name}: found .*expected .*copy or export it again"
    ):
        read_all(tmp_path / name)


def test_truncated_jpeg_with_a_complete_thumbnail_is_refused(tmp_path):
    data = ENCODED["a.jpg"]
    thumbnail = imagecodecs.jpeg8_encode(RGB[:8, :8].copy())
    block = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    (tmp_path / "a.jpg").write_bytes(data[:2] + block + data[2 : len(data) // 2])
    with pytest.raises(ImageReadError, match="the end-of-image marker is missing"):
        read_all(tmp_path / "a.jpg")


def test_damaged_png_is_refused(tmp_path):
    data = bytearray(ENCODED["a.png"])
    data[len(data) // 2] ^= 0x55
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ImageReadError, match="truncated, damaged or unsupported PNG"):
        read_all(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.svs", "a.jpg"])
def test_zero_byte_file_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    text = rf"{name}: found an empty file \(0 bytes\), expected an image .*; copy it again"
    with pytest.raises(ImageReadError, match=text):
        open_image(tmp_path / name)


FOREIGN = {
    "text": b"x,y,area\n1,2,3\n" * 20,
    "GIF": b"GIF89a" + bytes(60),
    "PDF": b"%PDF-1.7\n" + bytes(60),
    "zero bytes": bytes(100),
    "NRRD": b"NRRD0005\n" + bytes(60),
    r"RIFF \(WebP or AVI\)": b"RIFF\x10\0\0\0WEBPVP8 " + bytes(60),
    r"unknown content \(first bytes 01 02 03 04 05 06 07 08\)": bytes(range(1, 60)),
}


@pytest.mark.parametrize("found", FOREIGN)
def test_mislabelled_file_is_named_for_what_it_is(tmp_path, found):
    (tmp_path / "a.png").write_bytes(FOREIGN[found])
    text = rf"a.png: found {found}, expected an image \(BMP, .*\); (convert it or remove|save )"
    with pytest.raises(ImageReadError, match=text):
        open_image(tmp_path / "a.png")


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(ImageReadError, match=r"gone.tif: .*No such file.*check that it exists"):
        open_image(tmp_path / "gone.tif")
    (tmp_path / "folder.tif").mkdir()
    with pytest.raises(ImageReadError, match=r"folder.tif: found no regular file"):
        open_image(tmp_path / "folder.tif")


READ_WITHOUT_RIGHTS = """
import os, sys
from pathlib import Path
from mediar_infer.errors import MediarError
from mediar_infer.images.listing import list_images
from mediar_infer.images.open import open_image
if os.getuid() == 0:  # root may read everything
    os.setgid(65534)
    os.setuid(65534)
for read, path in ((open_image, sys.argv[1]), (list_images, sys.argv[2])):
    try:
        read(Path(path))
    except MediarError as exc:
        print(type(exc).__name__, exc)
"""


def test_unreadable_file_and_folder_are_refused():
    with tempfile.TemporaryDirectory() as name:  # tmp_path lies in a folder closed to others
        secret, locked = Path(name) / "a.png", Path(name) / "locked"
        Path(name).chmod(0o755)
        secret.write_bytes(ENCODED["a.png"])
        secret.chmod(0)
        locked.mkdir(0)
        command = [sys.executable, "-c", READ_WITHOUT_RIGHTS, secret, locked]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        locked.chmod(0o700)

    file_error, folder_error = found.splitlines()
    assert file_error.startswith("ImageReadError a.png: found a file that cannot be opened (Perm")
    assert folder_error.startswith(f"UsageError {locked}: found a folder that cannot be listed (P")


def bomb_png():
    data = bytearray(ENCODED["a.png"])
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    return bytes(data)


def bomb_jpg():
    data = bytearray(ENCODED["a.jpg"])
    size = data.index(b"\xff\xc0") + 5
    data[size : size + 4] = (60_000).to_bytes(2, "big") * 2
    return bytes(data)


def bomb_bmp():
    data = bytearray(ENCODED["a.bmp"])
    data[18:26] = (60_000).to_bytes(4, "little") * 2
    data[30:34] = (1).to_bytes(4, "little")  # run lengths: the size of the file says nothing
    return bytes(data)


def bomb_j2k():
    data = bytearray(ENCODED["a.j2k"])
    data[8:16] = data[24:32] = (60_000).to_bytes(4, "big") * 2  # one tile
    return bytes(data)


@pytest.mark.parametrize("make", [bomb_png, bomb_jpg, bomb_bmp])
def test_size_that_the_bytes_cannot_fill_is_refused_by_its_header(tmp_path, make):
    path = tmp_path / f"bomb.{make.__name__.split('_')[1]}"
    path.write_bytes(make())
    with pytest.raises(ImageReadError, match=r"cannot fill them|bytes needed, .* found"):
        open_image(path, ReadOptions(max_pixels=10**12))


def test_size_beyond_the_limit_is_refused_by_its_header(tmp_path):
    path = tmp_path / "bomb.j2k"
    path.write_bytes(bomb_j2k())
    text = (
        r"bomb.j2k: found 60,000 × 60,000 = 3,600,000,000 pixels, "
        r"expected at most 1,000,000,000; raise --max-pixels"
    )
    with pytest.raises(ImageReadError, match=text):
        open_image(path)


def test_memory_to_decode_at_once_is_limited_unless_pixels_are(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(ENCODED["a.png"])
    monkeypatch.setattr(limits, "MAX_DECODED_BYTES", 20_000)
    with pytest.raises(ImageReadError, match=r"60 × 80 pixels that take .* --max-pixels 4800 if"):
        open_image(tmp_path / "a.png")
    assert read_all(tmp_path / "a.png", max_pixels=4800).shape == (60, 80, 3)


def test_room_for_another_image_lifts_no_other_limit(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(ENCODED["a.png"])
    with open_image(tmp_path / "a.png", ReadOptions(held_pixels=4800)) as source:
        assert (source.height, source.width) == (60, 80)
    with pytest.raises(ImageReadError, match=r"4,800 pixels, expected at most 4,799"):
        open_image(tmp_path / "a.png", ReadOptions(held_pixels=4799, max_pixels=9999))
    monkeypatch.setattr(limits, "MAX_DECODED_BYTES", 20_000)
    with pytest.raises(ImageReadError, match=r"to decode at once"):
        open_image(tmp_path / "a.png", ReadOptions(held_pixels=4800))


def test_pixel_limit_can_be_set(tmp_path):
    (tmp_path / "a.png").write_bytes(ENCODED["a.png"])
    assert read_all(tmp_path / "a.png", max_pixels=4800).shape == (60, 80, 3)
    with pytest.raises(ImageReadError, match=r"4,800 pixels, expected at most 4,799"):
        open_image(tmp_path / "a.png", ReadOptions(max_pixels=4799))


def test_header_size_that_the_pixels_contradict_is_refused(tmp_path):
    data = bytearray(ENCODED["a.bmp"])
    data[18:22] = (0).to_bytes(4, "little")
    (tmp_path / "a.bmp").write_bytes(data)
    with pytest.raises(ImageReadError, match=r"60 × 0 pixels, expected at least 1 × 1"):
        open_image(tmp_path / "a.bmp")


def tiff_bytes(tmp_path, **options):
    tifffile.imwrite(tmp_path / "made.tif", NOISY, photometric="rgb", **options)
    return (tmp_path / "made.tif").read_bytes()


TIFF_KINDS = {
    "plain": {},
    "tiled": {"tile": (32, 32), "compression": "deflate"},
    "jpeg": {"rowsperstrip": 16, "compression": "jpeg"},
    "ome": {"ome": True, "compression": "lzw"},
    "imagej": {"imagej": True},
}


@pytest.mark.parametrize("kind", TIFF_KINDS)
def test_random_damage_never_ends_in_another_kind_of_error(tmp_path, rng, kind, caplog):
    caplog.set_level(logging.CRITICAL + 1, logger="tifffile")
    good = tiff_bytes(tmp_path, **TIFF_KINDS[kind])
    path = tmp_path / "damaged.tif"
    for _ in range(60):
        data = bytearray(good)
        ends = [*range(8, 400), *range(len(data) - 400, len(data))]  # where the tags are
        for position in rng.choice(ends, rng.integers(1, 5)):
            data[position] = rng.integers(256)
        path.write_bytes(data)
        with contextlib.suppress(ImageReadError):
            assert read_all(path, max_pixels=10**6).shape[2] == 3


def test_empty_folder_and_file_in_place_of_a_folder(tmp_path):
    assert list_images(tmp_path) == ([], [])
    (tmp_path / "file").touch()
    with pytest.raises(UsageError):
        list_images(tmp_path / "file" / "deeper")


def test_importing_the_readers_loads_no_opencv():
    code = (
        "import sys; import mediar_infer.images.open, mediar_infer.labels.files\n"
        "heavy = {'cv2', 'torch', 'scipy', 'skimage', 'imagecodecs._png'} & set(sys.modules)\n"
        "print(*heavy)"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "\n"
