"""Every scene of a file is an image of the run: labels, ledger, resume, export, Dask."""

import csv

import numpy as np
import pytest
import tifffile
from czi_files import Tile, czi_bytes, czi_metadata
from folder_helpers import latest_records, names_of, slide, write_image

from mediar_infer import cli
from mediar_infer.labels.reading import read_labels

pytestmark = pytest.mark.usefixtures("perfect_network")
SCENES = [slide(seed)[0] for seed in range(3)]
XML = czi_metadata(scenes=["A1", "A2", "B1"])


def write_scenes(path, scenes=SCENES):
    tiles = [
        Tile(np.ascontiguousarray(image[:, :, ::-1]), x=1000 * number, index={"S": number})
        for number, image in enumerate(scenes)
    ]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(czi_bytes(tiles, XML))
    return path


@pytest.fixture
def inputs(tmp_path):
    """A file of three scenes, one of one scene, and the scenes as plain images elsewhere."""
    write_scenes(tmp_path / "in" / "plate.czi")
    write_scenes(tmp_path / "in" / "single.czi", SCENES[:1])
    for number, image in enumerate(SCENES):
        write_image(tmp_path / "plain" / f"plate_s{number:02d}.png", image)
    return tmp_path / "in"


def test_several_scenes_without_a_choice_are_an_error_that_lists_them(predict, inputs, tmp_path):
    assert predict(inputs, tmp_path / "out") == 1
    records = latest_records(tmp_path / "out")
    assert records["plate.czi"]["error"].startswith("plate.czi: found 3 scenes (0 A1, 1 A2, 2 B1)")
    assert records["single.czi"]["status"] == "done"


def test_one_scene_is_the_image_of_its_file(predict, inputs, tmp_path):
    assert predict(inputs / "plate.czi", tmp_path / "out", "--scene", "1") == 0
    assert predict(tmp_path / "plain" / "plate_s01.png", tmp_path / "plain_out") == 0
    np.testing.assert_array_equal(
        read_labels(tmp_path / "out" / "plate_label.tiff"),
        read_labels(tmp_path / "plain_out" / "plate_s01_label.tiff"),
    )
    assert latest_records(tmp_path / "out")["plate.czi"]["plan"]["scene"] == 1


def test_all_scenes_are_images_of_their_own(predict, inputs, tmp_path):
    assert predict(inputs, tmp_path / "out", "--scene", "all", "--overlays") == 0
    assert predict(tmp_path / "plain", tmp_path / "plain_out") == 0
    labels = [f"plate_s{number:02d}_label.tiff" for number in range(3)]
    results = ["ledger.jsonl", "overlays", *labels, "single_label.tiff", "summary.json"]
    assert names_of(tmp_path / "out") == results
    assert names_of(tmp_path / "out" / "overlays") == [
        *(name.replace(".tiff", ".png") for name in labels), "single_label.png",
    ]  # fmt: skip
    for name in labels:
        np.testing.assert_array_equal(
            read_labels(tmp_path / "out" / name), read_labels(tmp_path / "plain_out" / name)
        )
    records = latest_records(tmp_path / "out")
    assert [*records] == [*(f"plate.czi, scene {number}" for number in range(3)), "single.czi"]
    assert [record["output"] for record in records.values()] == [*labels, "single_label.tiff"]


def test_resuming_does_what_is_left(predict, inputs, tmp_path):
    outputs = tmp_path / "out"
    assert predict(inputs, outputs, "--scene", "all") == 0
    (outputs / "plate_s01_label.tiff").unlink()
    assert predict(inputs, outputs, "--scene", "all", "--resume") == 0
    found = {name: record["status"] for name, record in latest_records(outputs).items()}
    assert found == {
        "plate.czi, scene 0": "resumed",
        "plate.czi, scene 1": "done",
        "plate.czi, scene 2": "resumed",
        "single.czi": "resumed",
    }


def test_damaged_scene_is_named_and_others_are_done(predict, inputs, tmp_path):
    data = (inputs / "plate.czi").read_bytes()
    pixels = SCENES[1][:, :, ::-1].tobytes()
    place = data.index(pixels) - 256 - 32
    (inputs / "plate.czi").write_bytes(
        data[:place] + b"DELETED".ljust(16, b"\0") + data[place + 16 :]
    )
    assert predict(inputs, tmp_path / "out", "--scene", "all") == 1
    records = latest_records(tmp_path / "out")
    failed = {name: record["error"] for name, record in records.items() if record["error"]}
    assert [*failed] == ["plate.czi, scene 1"]
    assert failed["plate.czi, scene 1"].startswith("plate.czi, scene 1: found truncated, damaged")


def test_truncated_file_is_one_failure(predict, inputs, tmp_path):
    path = inputs / "plate.czi"
    path.write_bytes(path.read_bytes()[:5000])
    assert predict(inputs, tmp_path / "out", "--scene", "all") == 1
    assert latest_records(tmp_path / "out")["plate.czi"]["status"] == "failed"


def test_projection_is_noticed_by_resume(predict, tmp_path):
    stack = np.stack([image[:, :, 0] for image in SCENES])
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "a.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    outputs = tmp_path / "out"
    statuses = []
    for options in (["--plane", "0"], ["--project", "max"], ["--project", "max"]):
        assert predict(tmp_path / "in", outputs, "--resume", *options) == 0
        statuses.append(latest_records(outputs)["a.tif"]["status"])
    assert statuses == ["done", "done", "resumed"]


def test_intensities_of_scenes_are_exported(predict, inputs, tmp_path):
    assert predict(inputs, tmp_path / "out", "--scene", "all") == 0
    options = ["--table", "cells.csv", "--images", inputs, "-o", tmp_path / "exported"]
    assert cli.main(["export", str(tmp_path / "out"), *map(str, options)]) == 0
    with (tmp_path / "exported" / "cells.csv").open() as file:
        images = {row["image"] for row in csv.DictReader(file)}
    assert images == {"plate_s00", "plate_s01", "plate_s02", "single"}
