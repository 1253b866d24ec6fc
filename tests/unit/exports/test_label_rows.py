"""Label files read by rows hold the numbers that the file stores, or are refused."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from mediar_infer.errors import ImageReadError
from mediar_infer.exports.label_rows import FileLabelRows, open_label_rows
from mediar_infer.labels.reading import read_labels

CELLS = np.zeros((40, 50), np.uint8)
CELLS[3:10, 3:10], CELLS[15:25, 10:30], CELLS[28:38, 30:48] = 1, 2, 3


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a_label.tif"


def read(path):
    with open_label_rows(path) as rows:
        return rows.read(0, rows.height)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib", "tile": (16, 16)}])
def test_one_channel_of_numbers_is_read_by_rows(path, options):
    tifffile.imwrite(path, CELLS, **options)
    with open_label_rows(path) as rows:
        assert isinstance(rows, FileLabelRows)
        np.testing.assert_array_equal(rows.read(5, 20), CELLS[5:20])


@pytest.mark.parametrize(
    "colours", [[255 - k for k in range(256)], [min(255, 60 * k) for k in range(256)]],
    ids=["reversed", "steep"],
)  # fmt: skip
def test_grey_palette_does_not_change_the_numbers(path, colours):
    image = Image.fromarray(CELLS)
    image.putpalette([colour for colour in colours for _ in range(3)])
    image.save(path)
    np.testing.assert_array_equal(read(path), CELLS)


@pytest.mark.parametrize(
    "image",
    [np.dstack([CELLS] * 3), np.dstack([CELLS, np.full_like(CELLS, 255)])],
    ids=["equal colours", "uniform opacity"],
)
def test_grey_in_several_channels_is_read(path, image):
    extra = {"photometric": "rgb"} if image.shape[2] == 3 else {"extrasamples": ["unassalpha"]}
    tifffile.imwrite(path, image, planarconfig="contig", **extra)
    np.testing.assert_array_equal(read(path), CELLS)


SEVERAL = {
    "colours": (np.dstack([CELLS * 70, 255 - CELLS * 20, CELLS * 0]), {"photometric": "rgb"}),
    "colours in planes": (
        np.stack([CELLS, CELLS * 2, CELLS * 3]),
        {"photometric": "rgb", "planarconfig": "separate"},
    ),
    "colours and opacity": (
        np.dstack([CELLS * 50, CELLS * 9, CELLS * 0, np.full_like(CELLS, 255)]),
        {"photometric": "rgb", "extrasamples": ["unassalpha"]},
    ),
    "channels": (
        np.stack([CELLS, CELLS * 2, CELLS * 3]),
        {"photometric": "minisblack", "metadata": {"axes": "CYX"}, "ome": True},
    ),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_several_channels_are_no_labels(path, kind):
    image, options = SEVERAL[kind]
    tifffile.imwrite(path, image, **options)
    with pytest.raises(ImageReadError, match=r"^a_label\.tif: found an array .* whole numbers;"):
        read(path)


LOSSY = {
    "jpeg": {"compression": "jpeg"},
    "jpeg 2000": {"compression": "jpeg2000", "compressionargs": {"level": 40}},
    "webp": {"compression": "webp", "compressionargs": {"level": 50, "lossless": False}},
}


@pytest.mark.parametrize("reader", [read, read_labels])
@pytest.mark.parametrize("kind", LOSSY)
def test_lossy_compression_is_refused(path, kind, reader):
    image = np.dstack([CELLS * 60] * 3) if kind == "webp" else CELLS * 60
    tifffile.imwrite(path, image, tile=(16, 16), **LOSSY[kind])
    name = kind.replace("jpeg 2000", "jpeg2000")
    with pytest.raises(
        ImageReadError,
        match=rf"(?i)^a_label\.tif: found {name} compression, which changes the num.*, exp.*; save",
    ):
        reader(path)


LOSSLESS = {
    "jpeg 2000": {"compression": "jpeg2000", "compressionargs": {"level": 0, "reversible": True}},
    "webp": {"compression": "webp", "compressionargs": {"lossless": True}},
}


@pytest.mark.parametrize("reader", [read, read_labels])
@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_kinds_of_such_compressions_are_read(path, kind, reader):
    image = np.dstack([CELLS] * 3) if kind == "webp" else CELLS
    tifffile.imwrite(path, image, tile=(16, 16), **LOSSLESS[kind])
    np.testing.assert_array_equal(reader(path), CELLS)


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        (CELLS.astype(np.float32), {}),
        (
            CELLS,
            {
                "photometric": "palette",
                "colormap": np.arange(768, dtype=np.uint16).reshape(3, 256) * 80,
            },
        ),
        (np.dstack([CELLS] * 3), {"photometric": "rgb"}),
    ],
    ids=["floats of ImageJ", "palette", "equal colours"],
)
def test_pixel_size_is_kept_however_the_numbers_are_read(path, labels, options):
    size = {"resolution": (20_000, 40_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, labels, **size, **options)
    with open_label_rows(path) as rows:
        np.testing.assert_array_equal(rows.read(0, rows.height), CELLS)
        assert rows.pixel_size_um == pytest.approx((0.25, 0.5))
