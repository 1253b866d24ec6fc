"""Images that the networks see at another size, through the command line."""

import json

import numpy as np
import pytest
import tifffile
from fakes import FunctionBackend, draw_discs, know_cells_of
from folder_helpers import latest_records, read_ledger, write_image

from mediar_infer.labels.files import read_label_header
from mediar_infer.labels.reading import read_labels
from mediar_infer.segmenter import Segmenter

DIAMETER = 8


@pytest.fixture(autouse=True)
def _network(monkeypatch):
    def from_pending(loading):
        members = [FunctionBackend(know_cells_of(13, 30))]
        return Segmenter(members, loading.config, {"sized.safetensors": "0" * 64}, 20.0)

    monkeypatch.setattr(Segmenter, "from_pending", from_pending)


@pytest.fixture
def inputs(tmp_path):
    write_image(tmp_path / "in" / "small.png", draw_discs(110, 110, DIAMETER)[0])
    return tmp_path / "in"


def test_cells_at_half_size_are_found_at_scale_2(predict, inputs, tmp_path):
    _, true = draw_discs(110, 110, DIAMETER)
    assert predict(inputs, tmp_path / "one") == 0
    assert predict(inputs, tmp_path / "two", "--scale", "2") == 0
    assert read_labels(tmp_path / "one" / "small_label.tiff").max() == 0
    found = read_labels(tmp_path / "two" / "small_label.tiff")
    assert found.shape == true.shape
    assert found.max() == true.max()
    record = latest_records(tmp_path / "two")["small.png"]
    assert record["scale"] == {"scale": 2.0, "reason": "as given"}
    assert record["plan"]["scale"] == 2.0


def test_without_a_scale_nothing_is_said_of_it(predict, inputs, tmp_path):
    predict(inputs, tmp_path / "one")
    predict(inputs, tmp_path / "two", "--scale", "1")
    one, two = (tmp_path / name / "small_label.tiff" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    record = latest_records(tmp_path / "two")["small.png"]
    assert record["scale"] is None
    assert record["plan"].keys().isdisjoint({"scale", "cell_size", "cell_diameter"})


def test_resume_notices_another_scale(predict, inputs, tmp_path):
    for options, status in (
        (("--scale", "2"), "done"), (("--scale", "2"), "resumed"), (("--scale", "2.1"), "done"),
        (("--cell-size", "8"), "done"), (("--cell-size", "8.0px"), "resumed"), ((), "done"),
    ):  # fmt: skip
        predict(inputs, tmp_path / "out", "--resume", *options)
        assert read_ledger(tmp_path / "out")[-1]["status"] == status, options
    facts = read_label_header(tmp_path / "out" / "small_label.tiff").facts
    assert "scale" not in facts["plan"]


def test_micrometres_of_one_image_and_none_of_another(predict, inputs, tmp_path, capsys):
    picture, true = draw_discs(110, 110, DIAMETER)
    tifffile.imwrite(
        inputs / "known.tif", picture, resolution=(20000, 20000), resolutionunit="CENTIMETER"
    )
    assert predict(inputs, tmp_path / "out", "--cell-size", "4um") == 1
    records = latest_records(tmp_path / "out")
    assert records["known.tif"]["n_cells"] == true.max()
    assert records["known.tif"]["scale"]["scale"] == pytest.approx(20 / 8)
    assert records["known.tif"]["plan"]["cell_size"] == "4 µm"
    assert records["small.png"]["status"] == "failed"
    assert "small.png: found no pixel size" in capsys.readouterr().err
    assert not (tmp_path / "out" / "small_label.tiff").exists()


def test_pixels_that_are_not_square_are_told(predict, inputs, tmp_path, capsys):
    options = ["--cell-size", "4um", "--pixel-size", "0.4,0.5"]
    assert predict(inputs, tmp_path / "out", *options) == 0
    told = (
        "pixels are 0.4 µm high and 0.5 µm wide: the scale for cells of 4 µm takes their geometric"
        " mean, 0.4472 µm, along both axes"
    )
    assert told in latest_records(tmp_path / "out")["small.png"]["warnings"]
    assert f"WARNING small.png: {told}" in capsys.readouterr().err


def test_auto_says_what_it_chose_and_why(predict, inputs, tmp_path, capsys):
    _, true = draw_discs(110, 110, DIAMETER)
    write_image(inputs / "right.png", draw_discs(200, 200, 20)[0])
    assert predict(inputs, tmp_path / "out", "--scale", "auto") == 0
    records = latest_records(tmp_path / "out")
    small, right = (records[name] for name in ("small.png", "right.png"))
    assert small["n_cells"] == true.max()
    assert (small["plan"]["scale"], small["plan"]["cell_diameter"]) == ("auto", 20)
    assert small["scale"]["scale"] > 1.4
    assert len(small["scale"]["trials"]) > 3
    assert right["scale"]["scale"] == 1
    assert len(right["scale"]["trials"]) == 1
    assert small["stages_s"]["scale"] > 0
    assert "small.png: seen at " in capsys.readouterr().err
    json.dumps(records)


def test_wrong_values_are_wrong_use(predict, inputs, tmp_path, capsys):
    for options in (("--scale", "9"), ("--scale", "2", "--cell-size", "8"), ("--cell-size", "900")):
        assert predict(inputs, tmp_path / "out", *options) == 2
    with pytest.raises(SystemExit):
        predict(inputs, tmp_path / "out", "--scale", "large")
    with pytest.raises(SystemExit):
        predict(inputs, tmp_path / "out", "--cell-size", "12mm")
    errors = capsys.readouterr().err
    assert "found scale 9.0, expected 0.1 to 8, or auto" in errors
    assert "found cell size '12mm'" in errors
    assert not (tmp_path / "out").exists()


def test_labels_of_an_enlarged_image_of_one_band_are_whole(predict, tmp_path):
    picture, true = draw_discs(700, 60, DIAMETER)
    write_image(tmp_path / "in" / "tall.tif", np.dstack([picture] * 3))
    options = ("--scale", "2", "--blocks", "stitched")
    assert predict(tmp_path / "in", tmp_path / "out", *options) == 0
    labels = read_labels(tmp_path / "out" / "tall_label.tiff")
    assert sorted(np.unique(labels)) == list(range(true.max() + 1))
