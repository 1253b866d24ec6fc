"""Pairs that the plugin saves are pairs to training."""

import csv

import numpy as np
import pytest
from fakes import draw_cells

from mediar_infer.engine.merging import merge_channels
from mediar_infer.errors import DataError, OutputError, ShapeError
from mediar_infer.images.open import open_image
from mediar_infer.images.sources import ArraySource
from mediar_infer.labels.reading import read_labels
from mediar_infer.napari_plugin.training_pairs import save_training_pair
from mediar_infer.training.__main__ import main as train


@pytest.fixture
def labels(rng):
    return draw_cells(rng, 100, 130)


def save(folder, name, image, labels, *args, channels=(), **settings):
    source = ArraySource(image, channels=channels)
    return save_training_pair(folder, name, source, labels, *args, **settings)


def read(path):
    with open_image(path) as source:
        return source.read_rows(0, source.height), source


IMAGES = {
    "uint8": ((100, 130), np.uint8), "uint16": ((100, 130), np.uint16),
    "int16": ((100, 130), np.int16), "float32": ((100, 130), np.float32),
    "float64": ((100, 130), np.float64), "bool": ((100, 130), bool),
    "RGB": ((100, 130, 3), np.uint8), "two": ((100, 130, 2), np.uint16),
    "five": ((100, 130, 5), np.float32),
}  # fmt: skip


@pytest.mark.parametrize("kind", IMAGES)
def test_the_image_is_what_the_network_saw(tmp_path, labels, rng, kind):
    shape, dtype = IMAGES[kind]
    image = rng.integers(0, 2 if dtype is bool else 99, shape).astype(dtype)
    image_path, label_path = save(tmp_path, "a", image, labels)
    seen = ArraySource(image)
    pixels, source = read(image_path)
    assert (pixels == seen.read_rows(0, 100)).all()
    assert (pixels.dtype, source.warnings) == (seen.dtype, ())
    assert (read_labels(label_path) == labels).all()


def test_chosen_channels_are_saved(tmp_path, labels, rng):
    image = rng.integers(0, 99, (100, 130, 5)).astype(np.uint8)
    image_path, _ = save(tmp_path, "a", image, labels, channels=(4, 1))
    pixels, _ = read(image_path)
    assert (pixels[..., :2] == image[..., [4, 1]]).all()
    assert not pixels[..., 2].any()


def test_merged_channels_are_saved_as_the_network_sees_them(tmp_path, labels, rng):
    image = rng.integers(1000, 5000, (100, 130, 2)).astype(np.uint16)
    image[..., 1] //= 100
    image_path, _ = save(tmp_path, "a", image, labels, channels=("0+1",))
    pixels, _ = read(image_path)
    expected = merge_channels(ArraySource(image, channels=("0+1",))).read_rows(0, 100)
    assert pixels.dtype == np.uint8
    assert (pixels == expected).all()


def test_both_files_state_the_pixel_size(tmp_path, labels):
    paths = save(tmp_path, "a", np.zeros((100, 130), np.uint8), labels, (0.5, 0.325))
    for path in paths:
        _, source = read(path)
        assert source.geometry.pixel_size_mm == pytest.approx((0.0005, 0.000325), rel=1e-6)


def test_training_takes_the_folder(tmp_path, labels, rng):
    folder = tmp_path / "pairs"
    for name in ("a", "b.c", "d_mask", " e/f", "g"):
        image = rng.integers(0, 99, labels.shape).astype(np.uint8)
        save(folder, name, image, labels.astype(np.int64))
    assert train(["index", str(folder), "-o", str(tmp_path / "table.csv")]) == 0
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    assert all(row["label"] for row in rows)
    problems = tmp_path / "table.problems.csv"
    assert not problems.exists() or len(problems.read_text().splitlines()) == 1


def test_a_pair_is_replaced_only_when_asked(tmp_path, labels):
    image = np.zeros((100, 130), np.uint8)
    save(tmp_path, "a", image, labels)
    with pytest.raises(OutputError, match=r"a\.tif: found a file of that name, expected none"):
        save(tmp_path, "a", image + 1, labels)
    path, _ = save(tmp_path, "a", image + 1, labels, replaces=True)
    assert (read(path)[0] == 1).all()


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (np.zeros((10, 13), int), DataError, "found no cell in the labels"),
        (np.eye(9, 13, dtype=int), ShapeError, "found labels of 9 × 13 pixels, expected 10 × 13"),
        (np.indices((10, 13))[1] % 2, DataError, "separate regions"),
        (np.zeros((2, 10, 13), int), ShapeError, "found labels"),
    ],
)
def test_what_is_no_pair_is_refused(tmp_path, labels, error, message):
    with pytest.raises(error, match=message):
        save(tmp_path, "a", np.zeros((10, 13), np.uint8), labels)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path, labels):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="expected a folder"):
        save(tmp_path / "file" / "pairs", "a", np.zeros((100, 130), np.uint8), labels)
