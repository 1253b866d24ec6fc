"""Errors of libraries never reach a user bare, whichever reader they come from."""

import json
import struct
import zlib

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from czi_files import Tile, czi_bytes
from lif_files import lif_bytes, lif_image
from nd2_files import nd2_bytes

from mediar_infer.errors import ImageReadError, ShapeError
from mediar_infer.images import open as opening
from mediar_infer.images.faults import DamagedFile, reading
from mediar_infer.images.formats import IMAGE_FORMATS
from mediar_infer.images.open import Reader, find_reader, open_image
from mediar_infer.images.scenes import list_scenes
from mediar_infer.images.sources import ImageSource

FOREIGN = [
    zlib.error("incorrect header check"),
    struct.error("unpack requires a buffer of 4 bytes"),
    cv2.error("Assertion failed"),
    RuntimeError("libpng error"),
    tifffile.TiffFileError("not a TIFF file"),
    json.JSONDecodeError("Expecting value", "x", 0),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    np.exceptions.AxisError(3, 2),
    KeyError("DimensionOrder"),
    IndexError("index out of range"),
    ZeroDivisionError("division by zero"),
    AssertionError(),
    NotImplementedError("chroma subsampling not supported"),
    RecursionError("maximum recursion depth exceeded"),
    DamagedFile("a box of 3 bytes"),
    OSError(5, "Input/output error"),
    MemoryError(),
]
GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)
FILES = {
    "TIFF": b"II*\0" + bytes(40),
    "PNG": imagecodecs.png_encode(GREY),
    "JPEG": imagecodecs.jpeg8_encode(GREY),
    "BMP": imagecodecs.bmp_encode(GREY),
    "JPEG 2000": imagecodecs.jpeg2k_encode(GREY, level=0),
    "MHA": b"ObjectType = Image\n",
    "CZI": czi_bytes([Tile(GREY)]),
    "LIF": lif_bytes(lif_image("A", GREY, "YX")),
    "ND2": nd2_bytes(GREY[..., None]),
    "OME-Zarr": None,  # a folder
    "MIRAX slide": b"any",
    "VMS slide": b"any",
    "DICOM": bytes(128) + b"DICM",
}


class FailingSource(ImageSource):
    """An image whose pixels cannot be read."""

    def __init__(self, error):
        super().__init__("cells.img", height=4, width=5, dtype=np.dtype("u1"))
        self.error = error

    def _read_channels(self, _top, _bottom):
        raise self.error


@pytest.mark.parametrize("error", FOREIGN, ids=lambda error: type(error).__name__)
def test_every_reader_is_behind_the_one_place(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(opening, "find_reader", lambda _: Reader(fail, fail))
    assert FILES.keys() == IMAGE_FORMATS.keys()
    for name, data in FILES.items():
        path = tmp_path / f"cells{IMAGE_FORMATS[name][0]}"
        path.mkdir(exist_ok=True) if data is None else path.write_bytes(data)
        for read in (open_image, list_scenes):
            with pytest.raises(ImageReadError, match=rf"^{path.name}: .*, expected .*; \w+"):
                read(path)


def test_every_format_has_a_reader():
    for name in IMAGE_FORMATS:
        assert isinstance(find_reader(name), Reader)
    with pytest.raises(LookupError, match="no reader of GIF"):
        find_reader("GIF")


@pytest.mark.parametrize("error", FOREIGN, ids=lambda error: type(error).__name__)
def test_rows_of_every_source_are_behind_it_too(error):
    with pytest.raises(ImageReadError, match=r"^cells\.img: .*rows 1 to 3.*, expected .*; \w+"):
        FailingSource(error).read_rows(1, 3)


def test_errors_of_the_package_and_interruptions_pass_unchanged():
    for error in (ShapeError("mine"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, reading("a.png", "PNG data"):
            raise error
        assert caught.value is error


def test_long_messages_of_libraries_are_cut():
    with pytest.raises(ImageReadError) as caught, reading("a.png", "PNG data"):
        raise ValueError("x" * 10_000)
    assert len(str(caught.value)) < 600
