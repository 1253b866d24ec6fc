"""Exports of mirrored folders of labels, and of images as their labels were made."""

import csv

import numpy as np
import pytest
import tifffile
from folder_helpers import names_of, slide, write_image

from mediar_infer import cli

pytestmark = pytest.mark.usefixtures("perfect_network")
NAMES = ["p1/w1/f", "p1/w2/f", "p2/w10/f", "top"]


@pytest.fixture
def plates(tmp_path):
    for number, name in enumerate(NAMES):
        write_image(tmp_path / "in" / f"{name}.png", slide(number)[0])
    return tmp_path / "in"


def export(labels, folder, *options):
    return cli.main(["export", str(labels), "-o", str(folder), *map(str, options)])


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def files_of(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def content_of(folder):
    return {name: (folder / name).read_bytes() for name in files_of(folder)}


def test_files_and_table_are_those_of_predict(predict, plates, tmp_path):
    out, exported = tmp_path / "out", tmp_path / "exported"
    options = ["--rois", "--geojson"]
    assert predict(plates, out, "-r", "--overlays", "--table", "cells.csv", *options) == 0
    table = ["--table", "cells.csv", "--images", plates]
    assert export(out, exported, "-r", *options, *table) == 0
    found = content_of(exported)
    assert {*found} == {
        "cells.csv",
        *(f"rois/{name}_rois.zip" for name in NAMES),
        *(f"geojson/{name}.geojson" for name in NAMES),
    }
    for name, data in found.items():
        if name != "cells.csv":
            assert data == (out / name).read_bytes()
    made, again = rows_of(out / "cells.csv"), rows_of(exported / "cells.csv")
    assert [{**row} for row in again] == [{key: row[key] for key in again[0]} for row in made]


def test_without_the_option_only_the_folder_itself_is_exported(predict, plates, tmp_path):
    assert predict(plates, tmp_path / "out", "-r") == 0
    assert export(tmp_path / "out", tmp_path / "exported", "--rois") == 0
    assert files_of(tmp_path / "exported") == ["rois/top_rois.zip"]


def test_where_nothing_lies_in_the_folder_itself_the_option_is_named(
    predict, plates, tmp_path, capsys
):
    (plates / "top.png").unlink()
    assert predict(plates, tmp_path / "out", "-r") == 0
    assert export(tmp_path / "out", tmp_path / "exported", "--rois") == 1
    assert "add --recursive to search the folders below" in capsys.readouterr().err


def test_results_inside_the_labels_are_not_searched(predict, plates, tmp_path):
    out = tmp_path / "out"
    assert predict(plates, out, "-r", "--overlays", "--zarr", "--rois") == 0
    for folder in (out, out / "exported"):
        for _ in range(2):
            assert export(out, folder, "-r", "--table", "again.csv", "--zarr") == 0
            assert list(dict.fromkeys(row["image"] for row in rows_of(folder / "again.csv"))) == (
                NAMES
            )


def test_files_of_other_marks_do_not_count_beside_label_files(predict, plates, tmp_path):
    out = tmp_path / "out"
    assert predict(plates, out, "-r") == 0
    write_image(out / "notes" / "figure.png", slide(0)[0])
    assert export(out, tmp_path / "exported", "-r", "--rois") == 0
    assert len(files_of(tmp_path / "exported")) == len(NAMES)


def test_a_folder_that_cannot_be_read_is_named_and_others_are_exported(
    predict, plates, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "out"
    assert predict(plates, out, "-r") == 0
    from mediar_infer.commands import export_inputs

    walk = export_inputs.os.walk

    def broken(top, onerror):
        for folder in walk(top):
            if folder[0].endswith("w2"):
                onerror(PermissionError(13, "Permission denied", folder[0]))
            else:
                yield folder

    monkeypatch.setattr(export_inputs.os, "walk", broken)
    assert export(out, tmp_path / "exported", "-r", "--rois") == 1
    assert "w2: found a folder that cannot be listed (Permission denied)" in capsys.readouterr().err
    assert len(names_of(tmp_path / "exported" / "rois" / "p1")) == 1


def test_two_label_files_of_an_image_are_an_error(predict, plates, tmp_path, capsys):
    out = tmp_path / "out"
    assert predict(plates, out, "-r") == 0
    (out / "p1" / "w1" / "f_label.png").write_bytes(b"")
    assert export(out, tmp_path / "exported", "-r", "--rois") == 1
    assert "expected one label file per image" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--scene", "1"], ["--scene", "all"], ["--plane", "1"], []])
def test_intensities_are_those_of_the_image_that_was_segmented(predict, tmp_path, options):
    images = [slide(seed)[0] for seed in range(2)]
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.ome.tif"
    if "--plane" in options:
        axes = {"axes": "ZYXS"}
        tifffile.imwrite(path, np.stack(images), metadata=axes, ome=True, photometric="rgb")
    else:
        with tifffile.TiffWriter(path, ome=True) as tif:
            for image in images:
                tif.write(image, metadata={"axes": "YXS"}, photometric="rgb")
    out = tmp_path / "out"
    assert predict(tmp_path / "in", out, "--table", "cells.csv", *options) == 0
    table = ["--table", "cells.csv", "--images", tmp_path / "in"]
    assert export(out, tmp_path / "exported", *table) == 0
    made, again = rows_of(out / "cells.csv"), rows_of(tmp_path / "exported" / "cells.csv")
    assert len(again) > 0
    assert again == [{key: row[key] for key in again[0]} for row in made]


@pytest.mark.parametrize(
    ("options", "expected"),
    [(["--plane", "0"], 7), (["--plane", "1"], 9), (["--project", "max"], 9)],
)
def test_labels_of_other_programs_are_measured_on_the_plane_that_is_named(
    tmp_path, capsys, options, expected
):
    labels = np.zeros((40, 50), np.uint16)
    labels[10:20, 10:20] = 1
    stack = np.stack([np.full_like(labels, value) for value in (7, 9)])
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "a.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    (tmp_path / "out").mkdir()
    tifffile.imwrite(tmp_path / "out" / "a_label.tif", labels)
    table = ["--table", "cells.csv", "--images", tmp_path / "in"]
    assert export(tmp_path / "out", tmp_path / "exported", *table) == 1
    assert "choose one with --plane N" in capsys.readouterr().err
    assert export(tmp_path / "out", tmp_path / "exported", *table[:2], *options) == 2
    assert "without --images, expected both" in capsys.readouterr().err
    assert export(tmp_path / "out", tmp_path / "exported", *table, *options) == 0
    (row,) = rows_of(tmp_path / "exported" / "cells.csv")
    assert float(row["mean_0"]) == expected


def test_larger_images_are_admitted_as_the_message_says(plates, predict, tmp_path, capsys):
    assert predict(plates, tmp_path / "out") == 0
    table = ["--table", "cells.csv", "--images", plates]
    assert export(tmp_path / "out", tmp_path / "exported", *table, "--max-pixels", "9") == 1
    assert "expected at most 9; raise --max-pixels" in capsys.readouterr().err
    assert export(tmp_path / "out", tmp_path / "exported", *table, "--max-pixels", "999999") == 0
