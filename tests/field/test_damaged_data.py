"""Compressed data damaged in the middle, header and end intact: a lost block of a copy."""

import io

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from mediar_infer.errors import ImageReadError
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.open import open_image

Y, X = np.mgrid[:256, :320]
NOISE = np.random.default_rng(0).integers(0, 40, (256, 320, 3))
RGB = (np.stack([X * 0.6, Y * 0.7, (X + Y) / 3], -1) + NOISE).clip(0, 255).astype(np.uint8)


def progressive():
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "JPEG", quality=90, progressive=True)
    return file.getvalue()


JPEGS = {
    "progressive": progressive(),
    "baseline": imagecodecs.jpeg8_encode(RGB, level=90),
    "subsampled": imagecodecs.jpeg8_encode(RGB, level=80, subsampling="420"),
    "grey": imagecodecs.jpeg8_encode(RGB[..., 0].copy(), level=90),
    "optimised": imagecodecs.jpeg8_encode(RGB, level=90, optimize=True),
    "inks": imagecodecs.jpeg8_encode(
        np.dstack([RGB, RGB[..., 0]]), level=90, colorspace="CMYK", outcolorspace="CMYK"
    ),
}


def read(path, **options):
    with open_image(path, ReadOptions(**options)) as source:
        return source.read_rows(0, source.height), list(source.warnings)


def zeroed(data):
    middle = len(data) // 2
    return data[:middle] + bytes(2048) + data[middle + 2048 :]


def cut_out(data):
    middle = len(data) // 2
    return data[:middle] + data[middle + 2048 :]


def half_with_an_end(data):
    return data[: len(data) // 2] + b"\xff\xd9"


DAMAGES = {damage.__name__: damage for damage in (zeroed, cut_out, half_with_an_end)}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", JPEGS)
def test_jpeg_that_lost_a_block_fails_or_warns(tmp_path, kind, damage):
    path = tmp_path / "a.jpg"
    path.write_bytes(JPEGS[kind])
    assert read(path)[1] == []
    path.write_bytes(DAMAGES[damage](JPEGS[kind]))
    try:
        _, warnings = read(path)
    except ImageReadError as error:
        assert "a.jpg: found truncated, damaged or unsupported JPEG data (" in str(error)  # noqa: PT017
    else:
        assert any("parts may be wrong" in warning for warning in warnings)


def test_jpeg_whose_height_is_wrong_is_refused(tmp_path):
    data = bytearray(JPEGS["baseline"])
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 7] = (1024).to_bytes(2, "big")
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(ImageReadError, match="damaged or unsupported JPEG data"):
        read(tmp_path / "a.jpg")


def test_small_jpeg_that_claims_a_slide_is_refused_before_decoding(tmp_path):
    data = bytearray(imagecodecs.jpeg8_encode(RGB[:32, :32].copy(), level=75))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = (15_000).to_bytes(2, "big") + (65_500).to_bytes(2, "big")
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(ImageReadError, match=r"15,000 × 65,500 pixels claimed, .* cannot fill"):
        read(tmp_path / "a.jpg", max_pixels=10**10)


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000"])
def test_tile_that_lost_its_second_half_is_an_error(tmp_path, compression):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, RGB, tile=(128, 128), compression=compression, photometric="rgb", metadata=None
    )
    read(path)
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        offset, size = page.dataoffsets[1], page.databytecounts[1]
    data = bytearray(path.read_bytes())
    data[offset + size // 2 : offset + size - 2] = bytes(size - 2 - size // 2)
    path.write_bytes(data)
    with open_image(path) as source, pytest.raises(ImageReadError, match="strip or tile 1"):
        source.read_rows(0, 128)


def test_jpeg2000_that_lost_a_block_fails_or_warns(tmp_path):
    for level in (0, 80):
        data = imagecodecs.jpeg2k_encode(RGB, level=level)
        path = tmp_path / "a.jp2"
        path.write_bytes(data)
        assert read(path)[1] == []
        for damage in DAMAGES.values():
            path.write_bytes(damage(data))
            try:
                _, warnings = read(path)
            except ImageReadError:
                continue
            assert any("parts may be wrong" in warning for warning in warnings)


def test_jpeg2000_without_all_of_its_tiles_is_refused(tmp_path):
    data = bytearray(imagecodecs.jpeg2k_encode(RGB, level=0, codecformat="j2k"))
    data[8:12] = (2**20).to_bytes(4, "big")  # width
    (tmp_path / "a.j2k").write_bytes(data)
    with pytest.raises(ImageReadError, match=r"1 of [\d,]+ tiles"):
        read(tmp_path / "a.j2k")


def test_damaged_bmp_says_nothing_on_the_standard_error(tmp_path, capfd):
    data = bytearray(imagecodecs.bmp_encode(RGB))
    data[30:34] = (77).to_bytes(4, "little")  # a compression that does not exist
    (tmp_path / "a.bmp").write_bytes(data)
    with pytest.raises(ImageReadError, match="BMP data"):
        read(tmp_path / "a.bmp")
    assert capfd.readouterr() == ("", "")


def test_frame_far_larger_than_its_tile_is_an_error(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, tile=(128, 128), compression="jpeg", photometric="rgb")
    data = bytearray(path.read_bytes())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = (60_000).to_bytes(2, "big") * 2
    path.write_bytes(data)
    with open_image(path) as source, pytest.raises(ImageReadError, match="strip or tile 0"):
        source.read_rows(0, 128)
