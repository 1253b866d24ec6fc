"""BMP files whose colours lie where masks say."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from mediar_infer.errors import ImageReadError
from mediar_infer.images.open import open_image

RGB = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
MASKS = {
    "blue first": (0xFF0000, 0xFF00, 0xFF),
    "red first": (0xFF, 0xFF00, 0xFF0000),
    "blue first, high": (0xFF000000, 0xFF0000, 0xFF00),
    "red first, high": (0xFF00, 0xFF0000, 0xFF000000),
    "not on bytes": (0xFF << 20, 0xFF << 10, 0xFF << 1),
}


def lowest_bit(mask):
    return (mask & -mask).bit_length() - 1


def masked_bmp(masks, header_bytes=40, *, compression=3, top_down=False, rgb=RGB):
    """A file of 32 bits for each pixel; the bits beside the colours are set too."""
    height, width = rgb.shape[:2]
    values = np.full((height, width), 0xFFFFFFFF & ~sum(masks), np.uint32)
    for k, mask in enumerate(masks):
        values |= rgb[:, :, k].astype(np.uint32) << np.uint32(lowest_bit(mask))
    pixels = (values if top_down else values[::-1]).astype("<u4").tobytes()
    size = (header_bytes, width, -height if top_down else height, 1, 32, compression, len(pixels))
    header = struct.pack("<IiiHHIIiiII", *size, 0, 0, 0, 0) + struct.pack("<III", *masks)
    if header_bytes > 40 or compression == 6:
        header += bytes(4)
    header += bytes(max(0, header_bytes - len(header)))
    offset = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset) + header + pixels


def read(path, data):
    path.write_bytes(data)
    with open_image(path) as source:
        return source.read_rows(0, source.height)


@pytest.mark.parametrize("top_down", [False, True])
@pytest.mark.parametrize(("header_bytes", "compression"), [(40, 3), (40, 6), (56, 3), (108, 3)])
@pytest.mark.parametrize("kind", MASKS)
def test_colours_lie_where_the_masks_say(tmp_path, kind, header_bytes, compression, top_down):
    data = masked_bmp(MASKS[kind], header_bytes, compression=compression, top_down=top_down)
    np.testing.assert_array_equal(read(tmp_path / "a.bmp", data), RGB)


@pytest.mark.parametrize("kind", ["blue first", "blue first, high"])
def test_colours_are_those_of_pillow(kind):
    with Image.open(io.BytesIO(masked_bmp(MASKS[kind]))) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), RGB)


@pytest.mark.parametrize(
    "masks", [(0, 0, 0), (0x3FF << 20, 0x3FF << 10, 0x3FF), (0xFF, 0xFF, 0xFF)]
)
def test_masks_of_other_than_8_bits_are_refused(tmp_path, masks):
    data = bytearray(masked_bmp(MASKS["blue first"]))
    struct.pack_into("<III", data, 54, *masks)
    with pytest.raises(ImageReadError, match=r"^a\.bmp: found .*masks .*three of 8 bits each"):
        read(tmp_path / "a.bmp", bytes(data))
