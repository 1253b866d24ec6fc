"""The ``submission`` command: a flat archive of a sound and complete set, or none at all."""

import re
import zipfile

import numpy as np
import pytest
import tifffile
from folder_helpers import noise

from mediar_infer import cli

SIZE = (30, 40)


@pytest.fixture
def labels(tmp_path):
    """Label files of two images, with what predict writes beside them."""
    folder = tmp_path / "labels"
    for name in ("overlays", "rois", "geojson", "zarr"):
        (folder / name).mkdir(parents=True)
    for name in (
        "ledger.jsonl", "summary.json", "report.html", "cells.csv", "all.v2.PARQUET",
        ".at-work.jsonl", "ledger.3of10.jsonl", "summary.3of10.json", "report.3of10.html",
        "cells.3of10.csv", ".at-work.3of10.jsonl",
    ):  # fmt: skip
        (folder / name).touch()
    for name in "ab":
        write_labels(folder / f"{name}_label.tiff")
    return folder


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.x.tif", "b.tif"):
        tifffile.imwrite(folder / name, noise(*SIZE))
    return folder


def write_labels(path, size=SIZE):
    labels = np.zeros(size, np.uint16)
    labels[5:9, 5:9] = 1
    tifffile.imwrite(path, labels)


def submit(archive, labels, *options):
    return cli.main([str(each) for each in ("submission", archive, "-l", labels, *options)])


def test_complete_set_becomes_a_flat_archive(labels, images, tmp_path, capsys):
    archive = tmp_path / "new" / "set.zip"
    assert submit(archive, labels, "-i", images) == 0
    with zipfile.ZipFile(archive) as opened:
        assert opened.namelist() == ["a_label.tiff", "b_label.tiff"]
        assert opened.read("a_label.tiff") == (labels / "a_label.tiff").read_bytes()
    assert re.search(r"set.zip: 2 label files, \d+ bytes, SHA-256 \w{64}", capsys.readouterr().out)


def test_same_labels_make_the_same_archive(labels, tmp_path):
    for name in ("1.zip", "2.zip"):
        assert submit(tmp_path / name, labels) == 0
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()


def add_upper_case(labels, images):
    write_labels(labels / "A_label.tiff")


def add_dotted_name(labels, images):
    write_labels(labels / "a.x_label.tiff")


def add_other_file(labels, images):
    (labels / "b_label.png").touch()


def add_other_folder(labels, images):
    (labels / "more").mkdir()


def add_other_page(labels, images):
    (labels / "report.old.html").touch()


def remove_labels(labels, images):
    (labels / "b_label.tiff").unlink()


def remove_image(labels, images):
    (images / "b.tif").unlink()


def turn_labels(labels, images):
    write_labels(labels / "b_label.tiff", SIZE[::-1])


def damage_labels(labels, images):
    (labels / "b_label.tiff").write_bytes(b"II*\0")


def add_image_of_the_same_name(labels, images):
    tifffile.imwrite(images / "a.y.tif", noise(*SIZE))


def damage_image(labels, images):
    (images / "b.tif").write_bytes(b"II*\0")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (add_upper_case, "A_label.tiff: output: found also a_label.tiff, expected one file"),
        (add_dotted_name, "a.x_label.tiff: output: found this name, expected NAME_label.tiff"),
        (add_other_file, "b_label.png: output: found this name, expected NAME_label.tiff"),
        (add_other_folder, "more: output: found this name, expected NAME_label.tiff"),
        (add_other_page, "report.old.html: output: found this name, expected NAME_label.tiff"),
        (remove_labels, "b.tif: output: found no label file, expected b_label.tiff"),
        (remove_image, "b_label.tiff: image: found none of that name, expected one in images"),
        (turn_labels, "b_label.tiff: shape: found (40, 30), expected (30, 40)"),
        (damage_labels, "b_label.tiff: file format: found b_label.tiff that cannot be read"),
        (add_image_of_the_same_name, "a.x.tif and a.y.tif: output: found one name, a_label.tiff"),
        (damage_image, "b.tif: image: found truncated, damaged or unsupported TIFF structure ("),
    ],
)
def test_unsound_set_is_refused_and_nothing_is_written(
    labels, images, tmp_path, capsys, spoil, message
):
    spoil(labels, images)
    assert submit(tmp_path / "set.zip", labels, "-i", images) == 1
    out = capsys.readouterr().out
    assert message in out
    assert "REFUSED: " in out
    assert not (tmp_path / "set.zip").exists()


def test_folder_without_label_files_is_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert submit(tmp_path / "set.zip", tmp_path / "empty") == 1
    assert "empty: output: found no label file" in capsys.readouterr().out


def test_missing_folder_and_other_endings_end_with_two(labels, tmp_path, capsys):
    assert submit(tmp_path / "set.zip", tmp_path / "no") == 2
    assert "no: found no folder, expected one of NAME_label.tiff" in capsys.readouterr().err
    assert submit(tmp_path / "set.tar", labels) == 2
    assert "expected a name that ends with .zip" in capsys.readouterr().err


def test_archive_that_cannot_be_written_is_an_error(labels, tmp_path, capsys):
    (tmp_path / "taken").write_text("a file")
    assert submit(tmp_path / "taken" / "set.zip", labels) == 1
    assert "set.zip: cannot be written" in capsys.readouterr().err
