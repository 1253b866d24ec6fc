"""Exports, table and report of ``predict``: the files of ``export``, made as images end."""

import csv
import re
import sys
from contextlib import suppress

import numpy as np
import pytest
import tifffile
from folder_helpers import latest_records, names_of, noise, read_ledger, slide, write_image

from mediar_infer import cli
from mediar_infer.errors import ExportError, OutputError
from mediar_infer.exports import rois
from mediar_infer.exports.compiled import load_cell_kernels
from mediar_infer.exports.options import ExportOptions, roi_path
from mediar_infer.folder import image_runner
from mediar_infer.labels.reading import read_labels
from mediar_infer.output_files import remove_result

pytestmark = pytest.mark.usefixtures("perfect_network")

FILES = ("--rois", "--geojson")


@pytest.fixture(autouse=True)
def _needs_kernels():
    try:
        load_cell_kernels()
    except ExportError:
        pytest.skip("the package was installed without a C compiler")


@pytest.fixture
def inputs(tmp_path):
    """Two slides, the second with a fourth channel of its own name."""
    write_image(tmp_path / "in" / "a.png", slide(seed=1)[0])
    pixels = np.moveaxis(slide(seed=2)[0], 2, 0)
    fourth = (pixels[:1] // 3 + 7).astype(np.uint8)
    metadata = {"axes": "CYX", "Channel": {"Name": ["R", "G", "B", "DAPI"]}}
    tifffile.imwrite(
        tmp_path / "in" / "b.ome.tif", np.concatenate([pixels, fourth]), metadata=metadata
    )
    return tmp_path / "in"


def _content(folder):
    """Path → bytes of all visible files below a folder."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _rows(table):
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def _shared(rows):
    """Rows without the columns that a label file does not tell."""
    own = {"mean_cellprob", "flow_error"}
    return [{name: row[name] for name in row if name not in own} for row in rows]


def _export(outputs, folder, *options):
    assert cli.main(["export", str(outputs), "-o", str(folder), "--quiet", *map(str, options)]) == 0


def test_files_and_table_are_those_of_export(predict, inputs, tmp_path):
    options = (*FILES, "--table", "cells.csv")
    assert predict(inputs, tmp_path / "out", *options) == 0
    _export(tmp_path / "out", tmp_path / "exported", *options, "--images", inputs)
    expected = _content(tmp_path / "exported")
    assert sorted(expected) == [
        "cells.csv", "geojson/a.geojson", "geojson/b.geojson", "rois/a_rois.zip", "rois/b_rois.zip",
    ]  # fmt: skip
    found = _content(tmp_path / "out")
    expected.pop("cells.csv")
    assert {name: found[name] for name in expected} == expected
    rows = _rows(tmp_path / "out" / "cells.csv")
    assert _shared(rows) == _rows(tmp_path / "exported" / "cells.csv")
    assert all(0.5 < float(row["mean_cellprob"]) <= 1 for row in rows)
    assert all(0 <= float(row["flow_error"]) <= 0.4 for row in rows)
    assert [row["image"] for row in rows] == sorted(row["image"] for row in rows)
    assert {row["mean_DAPI"] == "" for row in rows if row["image"] == "a"} == {True}
    assert {row["mean_DAPI"] == "" for row in rows if row["image"] == "b"} == {False}
    stages = latest_records(tmp_path / "out")["a.png"]["stages_s"]
    assert "export" in stages


def test_all_channels_are_measured_although_the_labels_come_from_three(predict, inputs, tmp_path):
    predict(inputs, tmp_path / "plain")
    predict(inputs, tmp_path / "out", "--table", "cells.csv")
    label_files = [folder / "b_label.tiff" for folder in (tmp_path / "plain", tmp_path / "out")]
    assert label_files[0].read_bytes() == label_files[1].read_bytes()
    assert "the first 3 are used" in latest_records(tmp_path / "out")["b.ome.tif"]["warnings"][0]


def test_compressed_geojson_and_zarr(predict, inputs, tmp_path):
    pytest.importorskip("zarr", reason="zarr is not installed")
    assert predict(inputs, tmp_path / "out", "--gzip", "--zarr") == 0
    assert names_of(tmp_path / "out" / "geojson") == ["a.geojson.gz", "b.geojson.gz"]
    assert names_of(tmp_path / "out" / "zarr") == ["a.ome.zarr", "b.ome.zarr"]
    # Other labels, without exports: nothing is left that shows the earlier ones.
    assert predict(inputs, tmp_path / "out", "--flow-threshold", "1e-9") == 0
    assert names_of(tmp_path / "out" / "geojson") == names_of(tmp_path / "out" / "zarr") == []


def test_labels_exported_into_their_image_do_not_change_it(predict, tmp_path):
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    out = tmp_path / "out"
    group = zarr.open_group(out / "zarr" / "a.ome.zarr", mode="w", zarr_format=3)
    pixels = np.moveaxis(slide(seed=1)[0], 2, 0)
    group.create_array("s0", data=pixels, dimension_names=["c", "y", "x"])
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space"} for n in "yx")]
    scale = [{"type": "scale", "scale": [1, 1, 1]}]
    datasets = [{"path": "s0", "coordinateTransformations": scale}]
    group.attrs["ome"] = {
        "version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}],
    }  # fmt: skip
    for options in ((), (), ("--resume",)):
        assert predict(out / "zarr", out, "--zarr", *options) == 0
    assert [each["status"] for each in read_ledger(out)] == ["done", "done", "resumed"]
    assert names_of(out / "zarr" / "a.ome.zarr") == ["labels", "s0", "zarr.json"]


def test_parquet_table(predict, inputs, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    assert predict(inputs, tmp_path / "out", "--table", "cells.parquet") == 0
    table = parquet.read_table(tmp_path / "out" / "cells.parquet")
    assert len(table) == sum(each["n_cells"] for each in read_ledger(tmp_path / "out"))
    assert table["mean_DAPI"].null_count == latest_records(tmp_path / "out")["a.png"]["n_cells"]


def test_resumed_images_have_their_rows_in_the_order_of_the_inputs(
    predict, inputs, tmp_path, monkeypatch
):
    options = (*FILES, "--table", "cells.csv", "--report")
    predict(inputs, tmp_path / "plain", *options)
    (inputs / "a.png").rename(tmp_path / "a.png")
    predict(inputs, tmp_path / "out")
    (tmp_path / "a.png").rename(inputs / "a.png")
    assert predict(inputs, tmp_path / "out", "--resume", *options) == 0
    statuses = {name: each["status"] for name, each in latest_records(tmp_path / "out").items()}
    assert statuses == {"a.png": "done", "b.ome.tif": "resumed"}
    one, two = (_rows(tmp_path / name / "cells.csv") for name in ("plain", "out"))
    assert _shared(one) == _shared(two)
    assert {row["flow_error"] == "" for row in two if row["image"] == "b"} == {True}
    for name in ("rois/b_rois.zip", "geojson/b.geojson"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()

    def fail(*_, **__):
        raise AssertionError("files that are there are made again, or the network is run")

    monkeypatch.setattr(rois, "to_roi", fail)
    monkeypatch.setattr(image_runner, "write_labels", fail)
    assert predict(inputs, tmp_path / "out", "--resume", *options) == 0


def test_a_table_of_resumed_images_only_has_the_columns_of_any_run(predict, inputs, tmp_path):
    tables = []
    for options in ((), ("--resume",)):
        assert predict(inputs, tmp_path / "out", "--table", "cells.csv", *options) == 0
        tables.append(_rows(tmp_path / "out" / "cells.csv"))
    new, resumed = tables
    assert list(resumed[0]) == list(new[0])
    assert len(resumed) == len(new) > 0
    for name in ("mean_cellprob", "flow_error"):
        assert all(row[name] for row in new)
        assert not any(row[name] for row in resumed)


def test_resume_makes_a_missing_export_without_the_network(predict, inputs, tmp_path, monkeypatch):
    predict(inputs, tmp_path / "out", "--rois")
    (tmp_path / "out" / "rois" / "a_rois.zip").unlink()
    monkeypatch.setattr(image_runner, "write_labels", None)
    assert predict(inputs, tmp_path / "out", "--rois", "--resume") == 0
    assert names_of(tmp_path / "out" / "rois") == ["a_rois.zip", "b_rois.zip"]
    assert {each["status"] for each in latest_records(tmp_path / "out").values()} == {"resumed"}


def test_failed_export_fails_its_image_keeps_the_labels_and_leaves_nothing_partial(
    predict, inputs, tmp_path, monkeypatch, capsys
):
    whole = rois.to_roi
    calls = []

    def fail_once(parts, name):
        calls.append(name)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return whole(parts, name)

    monkeypatch.setattr(rois, "to_roi", fail_once)
    assert predict(inputs, tmp_path / "out", *FILES, "--table", "cells.csv") == 1
    record = latest_records(tmp_path / "out")["a.png"]
    assert record["status"] == "failed"
    assert re.search(r"a_rois\.zip: cannot be written .* free some space", record["error"])
    assert "labels of a.png are complete, --resume makes the rest" in record["error"]
    assert "ERROR" in capsys.readouterr().err
    assert read_labels(tmp_path / "out" / "a_label.tiff").max() == slide(1)[1].max()
    assert names_of(tmp_path / "out" / "rois") == ["b_rois.zip"]
    assert names_of(tmp_path / "out" / "geojson") == ["b.geojson"]
    assert {row["image"] for row in _rows(tmp_path / "out" / "cells.csv")} == {"b"}
    assert predict(inputs, tmp_path / "out", *FILES, "--table", "cells.csv", "--resume") == 0
    assert {row["image"] for row in _rows(tmp_path / "out" / "cells.csv")} == {"a", "b"}


def test_full_disk_in_the_middle_of_the_exports(predict, inputs, tmp_path, mount_tmpfs):
    predict(inputs, tmp_path / "plain")
    outputs = mount_tmpfs("small", 2**20)
    assert predict(inputs, outputs) == 0
    with (outputs / "ballast").open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"0" * 4096):
            pass
    ledger = ("--ledger", tmp_path / "ledger")
    assert predict(inputs, outputs, "--resume", *FILES, *ledger) == 1
    errors = [each["error"] for each in latest_records(tmp_path / "ledger").values()]
    assert all("free some space" in error for error in errors)
    for name in ("a_label.tiff", "b_label.tiff"):
        assert (outputs / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    assert [*outputs.rglob("*.part"), *outputs.rglob("*.zip")] == []


def test_stopped_run_leaves_no_table_and_no_report(predict, inputs, tmp_path, monkeypatch):
    whole = image_runner.write_labels

    def stop_at_second(path, *arguments, **settings):
        if path.name.startswith("b"):
            raise KeyboardInterrupt
        return whole(path, *arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(image_runner, "write_labels", stop_at_second)
        assert predict(inputs, tmp_path / "out", "--table", "cells.csv", "--report") == 130
    assert names_of(tmp_path / "out") == ["a_label.tiff", "ledger.jsonl"]
    assert predict(inputs, tmp_path / "out", "--table", "cells.csv", "--report", "--resume") == 0
    with monkeypatch.context() as patch:
        patch.setattr(image_runner, "write_labels", stop_at_second)
        assert predict(inputs, tmp_path / "out", "--table", "cells.csv", "--report") == 130
    assert not {"cells.csv", "report.html"} & {*names_of(tmp_path / "out")}
    assert predict(inputs, tmp_path / "out", "--table", "cells.csv", "--report", "--resume") == 0
    assert {row["image"] for row in _rows(tmp_path / "out" / "cells.csv")} == {"a", "b"}


def test_report_shows_every_image_and_lists_failures_on_top(predict, inputs, tmp_path, capsys):
    (inputs / "c.png").write_bytes(b"")
    (inputs / "notes.md").write_text("not an image")
    write_image(inputs / "d.png", noise(60, 80))
    assert predict(inputs, tmp_path / "out", "--report") == 1
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    head, _, _ = page.partition('<table id="ledger"')
    assert re.search(r'Failed images.*href="#image-3">c\.png</a>: found an empty file', head, re.S)
    assert page.count('<tr id="image-') == 4
    assert page.count('<svg class="histogram"') == 2
    assert page.count("data:image/webp") == 6
    assert "notes.md" in page
    assert not re.search(r">tolerance<|Time against", page)
    out = capsys.readouterr().out
    assert re.search(r"^\d+ cells in 3 of 4 images; 1 failed, see the errors above$", out, re.M)
    assert out.splitlines()[-1] == f"look at: {tmp_path / 'out' / 'report.html'}"


def test_budget_is_shown_where_it_is_asked_for(predict, inputs, tmp_path, capsys):
    assert predict(inputs, tmp_path / "out", "--report", "--fit-budget") == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Time against tolerance" in page
    assert ">tolerance</button>" in page
    assert "tolerance  margin" in capsys.readouterr().out


def test_table_under_the_name_of_an_image_is_refused(predict, inputs, tmp_path, capsys):
    before, out = (inputs / "a.png").read_bytes(), tmp_path / "out"
    assert predict(inputs, out) == 0
    labels = (out / "a_label.tiff").read_bytes()
    for name, advice in (
        (inputs / "a.png", "a.csv"), ("a_label.tiff", "a_label.csv"), ("cells", "cells.csv"),
        ("", "cells.csv"),
    ):  # fmt: skip
        for part in ((), ("--part", "1/1")):
            assert predict(inputs, out, "--table", name, *part) == 2
            expected = "found a table without the suffix .csv or .parquet, expected one of them"
            assert f"{expected}; name it {advice}" in capsys.readouterr().err
    assert cli.main(["export", str(out), "-o", str(out), "--table", "a_label.tiff"]) == 2
    assert (inputs / "a.png").read_bytes() == before
    assert (out / "a_label.tiff").read_bytes() == labels


def test_suffix_of_a_table_may_be_in_capitals(tmp_path):
    assert ExportOptions(table=tmp_path / "CELLS.CSV").table == tmp_path / "CELLS.CSV"


def test_report_without_an_image_is_not_good(predict, tmp_path):
    (tmp_path / "empty").mkdir()
    assert predict(tmp_path / "empty", tmp_path / "out", "--report") == 1
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "No image was found." in page
    assert "No image failed" not in page
    assert '<body class="state-bad">' in page


def test_report_of_a_part_without_an_image_is_neither_good_nor_bad(predict, inputs, tmp_path):
    assert predict(inputs, tmp_path / "out", "--report", "--part", "3/3") == 0
    page = (tmp_path / "out" / "report.3of3.html").read_text(encoding="utf-8")
    assert "No image falls to this part." in page
    assert '<body class="state-neutral">' in page


def test_missing_package_is_said_before_any_work(predict, inputs, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert predict(inputs, tmp_path / "out", "--table", "cells.parquet") == 1
    assert "cells.parquet: found no pyarrow" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_error_of_the_table_keeps_all_labels(predict, inputs, tmp_path, capsys):
    (tmp_path / "out" / "cells.csv").mkdir(parents=True)
    assert predict(inputs, tmp_path / "out", "--table", "cells.csv") == 1
    assert "cells.csv: cannot be written" in capsys.readouterr().err
    assert (tmp_path / "out" / "b_label.tiff").is_file()


def test_options_know_which_files_are_there(tmp_path):
    options = ExportOptions(rois=True, gzip=True)
    assert options.without_files(tmp_path, "a") == options
    roi_path(tmp_path, "a").parent.mkdir()
    roi_path(tmp_path, "a").touch()
    assert options.without_files(tmp_path, "a") == ExportOptions(gzip=True)
    assert not ExportOptions()


def test_results_that_cannot_be_removed_fail_the_image(predict, inputs, tmp_path):
    (tmp_path / "out" / "rois" / "a_rois.zip").mkdir(parents=True)
    assert predict(inputs, tmp_path / "out", "--rois") == 1
    error = latest_records(tmp_path / "out")["a.png"]["error"]
    assert re.search(r"a_rois\.zip: cannot be removed", error)
    with pytest.raises(OutputError, match="cannot be removed"):
        remove_result(tmp_path / "out" / "rois" / "a_rois.zip")
