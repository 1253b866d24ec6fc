"""One bad image, or a bad disk, never costs more than it must: the rest of the folder is done."""

import json
import os
import re
import resource
import signal

import numpy as np
import pytest
import tifffile
import torch
from folder_helpers import latest_records, make_read_only, names_of, noise, slide, write_image

from mediar_infer.commands import predict as predict_command
from mediar_infer.folder import options as run_options
from mediar_infer.image_work import ImageWork
from mediar_infer.labels.files import write_labels
from mediar_infer.labels.reading import read_labels

pytestmark = pytest.mark.usefixtures("perfect_network")


@pytest.fixture
def inputs(tmp_path):
    """One good image, whose name sorts between those of most bad ones."""
    write_image(tmp_path / "in" / "good.png")
    return tmp_path / "in"


def _failed(outputs):
    records = latest_records(outputs).values()
    return {record["file"]: record["error"] for record in records if record["status"] == "failed"}


def _is_done(outputs, name="good.png"):
    record = latest_records(outputs)[name]
    found = read_labels(outputs / record["output"])
    return record["status"] == "done" and found.max() == record["n_cells"]


@pytest.fixture
def no_models(monkeypatch):
    """Loading weights is an error."""

    def load(*_):
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr(predict_command, "load_for_process", load)


@pytest.mark.usefixtures("no_models")
def test_run_without_an_image_fails_before_weights_are_loaded(predict, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    assert predict(tmp_path / "in", tmp_path / "out") == 1
    out, err = capsys.readouterr()
    assert "ERROR" in err
    assert "in: found no image, expected at least one file of a known extension (.tif .tiff " in err
    assert out.splitlines()[-1] == f"no image in {tmp_path / 'in'}"
    (tmp_path / "in" / "notes.txt").touch()
    assert predict(tmp_path / "in", tmp_path / "out") == 1
    assert latest_records(tmp_path / "out")["notes.txt"]["status"] == "skipped"


@pytest.mark.usefixtures("no_models")
@pytest.mark.parametrize("options", [(), ("--resume",)])
def test_run_without_an_image_that_can_be_read_fails_too(predict, tmp_path, capsys, options):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.vsi").write_bytes(b"II*\0")
    (tmp_path / "in" / "b.tif").touch()
    (tmp_path / "in" / "a.slide").write_bytes(b"II*\0")
    assert predict(tmp_path / "in", tmp_path / "out", *options) == 1
    _, err = capsys.readouterr()
    assert [line.partition(", expected")[0] for line in err.splitlines()] == [
        "WARNING a.slide: skipped: found TIFF with the extension .slide",
        "ERROR a.vsi: found Olympus VSI",
        "ERROR b.tif: found an empty file (0 bytes)",
    ]
    assert set(_failed(tmp_path / "out")) == {"a.vsi", "b.tif"}
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["status"]["failed"] == 2


@pytest.mark.usefixtures("no_models")
def test_labels_of_an_image_that_is_no_longer_read_are_removed(predict, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.tif").touch()
    write_labels(tmp_path / "out" / "b_label.tiff", [np.eye(3, dtype=int)], height=3, width=3)
    assert predict(tmp_path / "in", tmp_path / "out") == 1
    assert names_of(tmp_path / "out") == ["ledger.jsonl", "summary.json"]


def test_one_image_of_an_unread_format_is_a_failure_beside_others(predict, inputs, tmp_path):
    (inputs / "a.zvi").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(60))
    assert predict(inputs, tmp_path / "out") == 1
    assert _failed(tmp_path / "out")["a.zvi"].startswith(
        "a.zvi: found Zeiss ZVI, expected an image"
    )
    assert _is_done(tmp_path / "out")


def test_skipped_image_is_named_in_a_warning(predict, inputs, tmp_path, capsys):
    (inputs / "a.slide").write_bytes(b"II*\0")
    (inputs / "notes.txt").touch()
    assert predict(inputs, tmp_path / "out") == 0
    _, err = capsys.readouterr()
    assert err.count("WARNING") == 1
    assert "a.slide: skipped: found TIFF with the extension .slide, expected one of .tif" in err


def test_unreadable_files_are_named_with_found_expected_and_remedy(
    predict, inputs, tmp_path, capsys
):
    whole = (inputs / "good.png").read_bytes()
    (inputs / "empty.tif").write_bytes(b"")
    (inputs / "half.png").write_bytes(whole[: len(whole) // 2])
    (inputs / "text.png").write_text("x,y\n1,2\n")
    (inputs / "zeros.jpg").write_bytes(bytes(512))
    tifffile.imwrite(inputs / "cut.tif", noise(90, 90))
    (inputs / "cut.tif").write_bytes((inputs / "cut.tif").read_bytes()[:3000])
    (inputs / "broken_link.png").symlink_to(tmp_path / "nowhere.png")
    assert predict(inputs, tmp_path / "out") == 1
    failed = _failed(tmp_path / "out")
    assert set(failed) == {
        "empty.tif", "half.png", "text.png", "zeros.jpg", "cut.tif", "broken_link.png",
    }  # fmt: skip
    err = capsys.readouterr().err
    for name, error in failed.items():
        assert re.match(rf"{re.escape(name)}: found .*expected .*; .+", error), error
        assert f"ERROR {error}" in err
    assert "Traceback" not in err
    assert _is_done(tmp_path / "out")
    assert names_of(tmp_path / "out") == ["good_label.tiff", "ledger.jsonl", "summary.json"]


def test_mislabelled_image_is_read_by_its_content_with_a_warning(predict, inputs, tmp_path):
    (inputs / "photo.tif").write_bytes((inputs / "good.png").read_bytes())
    assert predict(inputs, tmp_path / "out") == 0
    record = latest_records(tmp_path / "out")["photo.tif"]
    assert record["warnings"] == ["mislabelled: extension .tif but PNG content, read as PNG"]
    labels = [read_labels(tmp_path / "out" / f"{name}_label.tiff") for name in ("good", "photo")]
    assert np.array_equal(*labels)


def test_images_without_structure_give_labels_of_their_size(predict, inputs, tmp_path):
    images = {
        "black": np.zeros((40, 50), np.uint8),
        "constant": np.full((40, 50), 7, np.uint16),
        "dot": np.full((1, 1), 200, np.uint8),
        "line": noise(1, 300),
        "column": noise(300, 1),
        "strip": noise(31, 2000),
    }
    for name, image in images.items():
        tifffile.imwrite(inputs / f"{name}.tif", image)
    assert predict(inputs, tmp_path / "out") == 0
    for name, image in images.items():
        labels = read_labels(tmp_path / "out" / f"{name}_label.tiff")
        assert labels.shape == image.shape, name
    assert read_labels(tmp_path / "out" / "black_label.tiff").max() == 0
    assert read_labels(tmp_path / "out" / "constant_label.tiff").max() == 0


def test_non_finite_pixels_are_warned_of_and_only_an_image_of_them_fails(predict, inputs, tmp_path):
    image = slide()[0].astype(np.float32)
    image[:3, :3], image[5, 5] = np.nan, np.inf
    tifffile.imwrite(inputs / "some_nan.tif", image, photometric="rgb")
    tifffile.imwrite(inputs / "all_nan.tif", np.full((20, 20), np.nan, np.float32))
    tifffile.imwrite(inputs / "all_inf.tif", np.full((20, 20), -np.inf, np.float64))
    assert predict(inputs, tmp_path / "out") == 1
    assert set(_failed(tmp_path / "out")) == {"all_nan.tif", "all_inf.tif"}
    assert "found no finite pixel" in _failed(tmp_path / "out")["all_nan.tif"]
    record = latest_records(tmp_path / "out")["some_nan.tif"]
    assert record["warnings"] == [
        "10 of 18000 pixels are NaN or infinite; read as the lowest intensity"
    ]
    assert record["n_cells"] == latest_records(tmp_path / "out")["good.png"]["n_cells"]


def test_inputs_of_one_output_name_fail_together_and_nothing_is_overwritten(
    predict, inputs, tmp_path
):
    for name in ("a.b.tif", "a.c.tif", "ab.tif"):
        write_image(inputs / name)
    assert predict(inputs, tmp_path / "out") == 1
    failed = _failed(tmp_path / "out")
    assert set(failed) == {"a.b.tif", "a.c.tif"}
    assert failed["a.b.tif"] == (
        "a.b.tif: maps to a_label.tiff, and so does a.c.tif; expected one image per name up to the"
        " first dot; rename one of them, or keep the dots in results with --names full"
    )
    assert not (tmp_path / "out" / "a_label.tiff").exists()
    assert _is_done(tmp_path / "out", "ab.tif")


def test_everything_else_in_the_folder_is_listed_as_skipped(predict, inputs, tmp_path):
    (inputs / "notes.txt").write_text("")
    (inputs / ".hidden.png").write_bytes(b"")
    write_image(inputs / "more" / "deep.png")
    assert predict(inputs, tmp_path / "out") == 0
    records = latest_records(tmp_path / "out")
    reasons = {name: records[name]["error"] for name in ("notes.txt", ".hidden.png", "more")}
    assert reasons == {
        "notes.txt": "not an image: extension .txt",
        ".hidden.png": "hidden file",
        "more": "sub-folder: searched with --recursive only",
    }
    assert {records[name]["status"] for name in reasons} == {"skipped"}


def test_names_from_any_alphabet_and_with_spaces_work(predict, inputs, tmp_path):
    names = ["细胞 1.png", "клетка.tif", "a b.png", "-dash.png", "n\nl.png", "%d.png"]
    for name in names:
        (inputs / name).write_bytes((inputs / "good.png").read_bytes())
    assert predict(inputs, tmp_path / "out") == 0
    assert all(_is_done(tmp_path / "out", name) for name in names)


def test_input_folder_is_left_as_it_was(predict, inputs, tmp_path):
    def state():
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in inputs.iterdir()}

    before = state()
    assert predict(inputs, tmp_path / "out", "--overlays") == 0
    assert state() == before


def test_read_only_input_is_enough(predict, mount_tmpfs, tmp_path):
    folder = mount_tmpfs("in", "1m")
    write_image(folder / "good.png")
    make_read_only(folder)
    assert predict(folder, tmp_path / "out") == 0
    assert _is_done(tmp_path / "out")


def test_file_in_place_of_the_output_folder_is_named(predict, inputs, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert predict(inputs, tmp_path / "out") == 1
    err = capsys.readouterr().err
    assert re.search(r"out/\S+: cannot be written .*choose another output folder", err)
    assert "Traceback" not in err
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("left_over", [(), (".a_label.tiff.12.part",)])
def test_read_only_output_is_named(predict, inputs, mount_tmpfs, capsys, left_over):
    folder = mount_tmpfs("out", "1m")
    for name in left_over:
        (folder / name).touch()
    make_read_only(folder)
    assert predict(inputs, folder) == 1
    err = capsys.readouterr().err
    assert "cannot be written (Read-only file system)" in err
    assert "Traceback" not in err


@pytest.fixture
def noisy_labels(monkeypatch):
    """Labels of ``noisy*`` images that do not compress, so that their file is large."""
    plain = ImageWork.labels

    def labels(self, **_):
        source = self._source
        if not source.name.startswith("noisy"):
            yield from plain(self)
            return
        rng = np.random.default_rng(0)
        for _ in range(source.height):
            yield rng.integers(0, 2**31, (1, source.width), np.int32)

    monkeypatch.setattr(ImageWork, "labels", labels)


@pytest.mark.usefixtures("noisy_labels")
def test_full_disk_costs_the_one_image_and_leaves_no_partial_file(
    predict, inputs, mount_tmpfs, capsys
):
    write_image(inputs / "noisy.png", noise(200, 200))
    folder = mount_tmpfs("out", "64k")
    assert predict(inputs, folder) == 1
    assert names_of(folder) == ["good_label.tiff", "ledger.jsonl", "summary.json"]
    assert _is_done(folder)
    assert re.fullmatch(
        r".*noisy_label\.tiff: cannot be written \(No space left on device\); expected .*"
        r"free some space or choose another output folder",
        _failed(folder)["noisy.png"],
    )
    assert "Traceback" not in capsys.readouterr().err


def test_disk_without_any_space_is_named_and_stays_clean(predict, inputs, mount_tmpfs, capsys):
    folder = mount_tmpfs("out", "16k")
    (folder / "filler").write_bytes(bytes(16384))
    assert predict(inputs, folder) == 1
    err = capsys.readouterr().err
    assert "cannot be written (No space left on device); expected" in err
    assert "Traceback" not in err
    assert all(path.name == "filler" or path.stat().st_size == 0 for path in folder.iterdir())
    assert not [name for name in names_of(folder) if name.endswith(("_label.tiff", ".part"))]


@pytest.mark.usefixtures("noisy_labels")
def test_file_size_limit_is_met_like_a_full_disk(predict, inputs, tmp_path):
    write_image(inputs / "noisy.png", noise(200, 200))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (32768, limits[1]))
        assert predict(inputs, tmp_path / "out") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "noisy_label.tiff: cannot be written" in _failed(tmp_path / "out")["noisy.png"]
    assert names_of(tmp_path / "out") == ["good_label.tiff", "ledger.jsonl", "summary.json"]


def _raise_on(monkeypatch, name, error):
    """Make the segmentation of one image fail."""
    plain = ImageWork.labels

    def labels(self, **_):
        if self._source.name == name:
            raise error
        return plain(self)

    monkeypatch.setattr(ImageWork, "labels", labels)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_too_little_memory_fails_one_image_with_a_remedy(
    predict, inputs, tmp_path, monkeypatch, error
):
    write_image(inputs / "big.png")
    _raise_on(monkeypatch, "big.png", error)
    assert predict(inputs, tmp_path / "out") == 1
    assert re.match(
        r"big\.png: out of memory .*expected room for .*use a smaller --batch",
        _failed(tmp_path / "out")["big.png"],
    )
    assert _is_done(tmp_path / "out")


def test_unforeseen_error_fails_one_image_only(predict, inputs, tmp_path, monkeypatch):
    write_image(inputs / "odd.png")
    _raise_on(monkeypatch, "odd.png", ZeroDivisionError("by zero"))
    assert predict(inputs, tmp_path / "out") == 1
    assert "odd.png: unexpected ZeroDivisionError: by zero" in _failed(tmp_path / "out")["odd.png"]
    assert _is_done(tmp_path / "out")


def test_verbose_shows_where_an_unforeseen_error_came_from(
    predict, inputs, tmp_path, monkeypatch, capsys
):
    _raise_on(monkeypatch, "good.png", ZeroDivisionError("by zero"))
    assert predict(inputs, tmp_path / "out", "--verbose") == 1
    assert re.search(
        r"^Traceback .*ZeroDivisionError: by zero$", capsys.readouterr().err, re.M | re.S
    )


def test_seventy_thousand_cells_are_written_as_uint32(predict, inputs, tmp_path, monkeypatch):
    ids = np.arange(1, 300 * 300 + 1, dtype=np.int32).reshape(300, 300)
    monkeypatch.setattr(ImageWork, "labels", lambda *_, **__: iter([ids[:100], ids[100:]]))
    write_image(inputs / "good.png", noise(300, 300))
    assert predict(inputs, tmp_path / "out") == 0
    labels = read_labels(tmp_path / "out" / "good_label.tiff")
    assert labels.dtype == np.uint32
    assert np.array_equal(labels, ids)
    assert latest_records(tmp_path / "out")["good.png"]["n_cells"] == 90000


def test_overlay_of_a_slide_is_left_out_with_a_warning(predict, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(run_options, "MAX_OVERLAY_PIXELS", 100)
    assert predict(inputs, tmp_path / "out", "--overlays") == 0
    assert not (tmp_path / "out" / "overlays").exists()
    assert "too large for an overlay" in latest_records(tmp_path / "out")["good.png"]["warnings"][0]


def test_failed_image_keeps_no_labels_of_an_earlier_run(predict, inputs, tmp_path):
    write_image(inputs / "odd.png")
    assert predict(inputs, tmp_path / "out", "--overlays") == 0
    (inputs / "odd.png").write_bytes(b"")
    assert predict(inputs, tmp_path / "out") == 1
    assert names_of(tmp_path / "out") == [
        "good_label.tiff", "ledger.jsonl", "overlays", "summary.json",
    ]  # fmt: skip
    assert names_of(tmp_path / "out" / "overlays") == []
    assert _is_done(tmp_path / "out")


def test_results_of_an_earlier_run_that_cannot_be_removed_are_named(predict, inputs, tmp_path):
    (tmp_path / "out" / "odd_label.tiff").mkdir(parents=True)
    (inputs / "odd.png").write_bytes(b"")
    assert predict(inputs, tmp_path / "out") == 1
    error = _failed(tmp_path / "out")["odd.png"]
    assert re.search(
        r"empty file.*; results of an earlier run are still there \(.*odd_label", error
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="concerns root only")
@pytest.mark.parametrize("options", [(), ("--overlays",)])
def test_root_follows_no_link_named_like_the_overlays(predict, inputs, tmp_path, capsys, options):
    (tmp_path / "precious").mkdir()
    for name in ("a_label.png", ".a_label.png.1.part"):
        (tmp_path / "precious" / name).touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "overlays").symlink_to(tmp_path / "precious")
    assert predict(inputs, tmp_path / "out", *options) == 1
    assert "overlays: found a link, expected a file or folder" in capsys.readouterr().err
    assert names_of(tmp_path / "precious") == [".a_label.png.1.part", "a_label.png"]


def test_long_names_get_labels_and_overlay(predict, inputs, tmp_path):
    name = "n" * 240
    (inputs / f"{name}.png").write_bytes((inputs / "good.png").read_bytes())
    assert predict(inputs, tmp_path / "out", "--overlays") == 0
    assert (tmp_path / "out" / "overlays" / f"{name}_label.png").exists()
    assert _is_done(tmp_path / "out", f"{name}.png")
