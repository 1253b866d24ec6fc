"""A run that is stopped in the middle leaves only whole results, and ``--resume`` does the rest."""

import json
import signal
import time

import numpy as np
import pytest
import tifffile
from folder_helpers import latest_records, names_of, noise, read_ledger, slide, write_image

from mediar_infer.folder import after_labels, image_runner, resuming, runner
from mediar_infer.folder import options as run_options
from mediar_infer.folder.ledger import Ledger
from mediar_infer.image_work import ImageWork
from mediar_infer.labels.files import read_label_header
from mediar_infer.labels.reading import read_labels

_DEADLINE_S = 120


@pytest.fixture
def inputs(tmp_path):
    """A small image, and a large one that takes long enough to be interrupted."""
    write_image(tmp_path / "in" / "a.png", noise(60, 80))
    write_image(tmp_path / "in" / "b.png", noise(1700, 1700))
    return tmp_path / "in"


def _wait_for_second_image(process, outputs):
    """Wait until the first image is in the ledger and the second one's file is open."""
    ledger, deadline = outputs / "ledger.jsonl", time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline and process.poll() is None:
        if ledger.exists() and ledger.read_bytes() and list(outputs.glob(".b_label*.part")):
            return
        time.sleep(0.02)
    pytest.fail(f"the second image was not begun: {process.communicate()}")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_resume_after_a_stop_does_only_what_is_missing(
    predict, start_predict, inputs, tmp_path, how
):
    outputs = tmp_path / "out"
    process = start_predict(inputs, outputs, "--table", "cells.csv", "--report")
    _wait_for_second_image(process, outputs)
    process.send_signal(how)
    _, err = process.communicate(timeout=_DEADLINE_S)

    assert not [*outputs.glob("*cells.csv*"), *outputs.glob("*report*")]
    assert process.returncode == (-how if how == signal.SIGKILL else 128 + how)
    assert "Traceback" not in err
    left = [name for name in names_of(outputs) if name.endswith(".part")]
    assert len(left) == (1 if how == signal.SIGKILL else 0)
    assert [path.name for path in outputs.glob("*_label.tiff")] == ["a_label.tiff"]
    written_at = (outputs / "a_label.tiff").stat().st_mtime_ns

    write_image(inputs / "b.png", noise(90, 70))  # what remains need not take long
    assert predict(inputs, outputs, "--resume") == 0
    assert (outputs / "a_label.tiff").stat().st_mtime_ns == written_at
    assert names_of(outputs) == ["a_label.tiff", "b_label.tiff", "ledger.jsonl", "summary.json"]
    records = latest_records(outputs)
    assert [records[name]["status"] for name in ("a.png", "b.png")] == ["resumed", "done"]
    assert read_labels(outputs / "b_label.tiff").shape == (90, 70)


@pytest.mark.usefixtures("perfect_network")
def test_unfinished_file_of_a_killed_run_is_removed_and_said_once(
    predict, small_inputs, tmp_path, capsys
):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".a_label.tiff.12.part").write_bytes(b"half")
    assert predict(small_inputs, tmp_path / "out") == 0
    assert capsys.readouterr().err.count("a_label.tiff.12.part: removed") == 1
    assert not list((tmp_path / "out").glob("*.part"))


@pytest.mark.usefixtures("perfect_network")
def test_interrupt_key_ends_with_130_and_without_partial_file(
    predict, small_inputs, tmp_path, monkeypatch, capsys
):
    def labels(_self, **_):
        yield np.zeros((5, 150), np.int32)
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageWork, "labels", labels)
    assert predict(small_inputs, tmp_path / "out") == 130
    assert "interrupted; finished images are in the output folder" in capsys.readouterr().err
    assert names_of(tmp_path / "out") == []


@pytest.fixture
def small_inputs(tmp_path):
    """Two slides."""
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "in" / name)
    return tmp_path / "in"


def _statuses(outputs):
    return [record["status"] for record in read_ledger(outputs)]


@pytest.mark.usefixtures("perfect_network")
def test_resume_skips_all_images_twice_in_a_row(predict, small_inputs, tmp_path):
    for _ in range(3):
        assert predict(small_inputs, tmp_path / "out", "--resume") == 0
    assert _statuses(tmp_path / "out") == ["done"] * 2 + ["resumed"] * 4
    counts = {record["n_cells"] for record in read_ledger(tmp_path / "out")}
    assert len(counts) == 1
    assert counts != {0}


def _as_release_0_1_0_wrote(outputs):
    """Rewrite labels and ledger without what the first release did not write: the pixel size."""
    for path in outputs.glob("*_label.tiff"):
        with tifffile.TiffFile(path) as tif:
            labels = tif.asarray()
        header = read_label_header(path)
        description = json.dumps({**header.facts, "n_cells": header.n_cells})
        tifffile.imwrite(
            path, labels, description=description, metadata=None, software="mediar-infer"
        )
    lines = []
    for record in read_ledger(outputs):
        del record["pixel_size_mm"]
        lines.append(json.dumps(record) + "\n")
    (outputs / "ledger.jsonl").write_text("".join(lines))


@pytest.mark.usefixtures("perfect_network")
def test_resume_takes_the_labels_of_release_0_1_0(predict, small_inputs, tmp_path):
    predict(small_inputs, tmp_path / "out")
    _as_release_0_1_0_wrote(tmp_path / "out")
    assert predict(small_inputs, tmp_path / "out", "--resume") == 0
    assert _statuses(tmp_path / "out") == ["done"] * 2 + ["resumed"] * 2


@pytest.mark.usefixtures("perfect_network")
def test_resume_notices_another_image_of_the_same_name_and_size(predict, tmp_path):
    inputs, outputs = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    for image in (pixels, pixels, pixels[::-1]):
        tifffile.imwrite(inputs / "a.tif", image, metadata=None)
        assert predict(inputs, outputs, "--resume") == 0
    assert _statuses(outputs) == ["done", "resumed", "done"]


@pytest.mark.usefixtures("perfect_network")
@pytest.mark.parametrize("height", [60, 64])
@pytest.mark.parametrize("when", ["before its turn", "while it is segmented"])
def test_image_that_is_replaced_while_a_run_reads_it_fails(
    predict, tmp_path, monkeypatch, capsys, when, height
):
    inputs, outputs, image = tmp_path / "in", tmp_path / "out", tmp_path / "in" / "b.png"
    for path in (inputs / "a.png", image):
        write_image(path, slide(height=height)[0])
    describe = image_runner.describe_labels

    def describe_and_replace(described, *arguments):
        if described.path.name != "b.png":
            return describe(described, *arguments)
        facts = None if when == "before its turn" else describe(described, *arguments)
        write_image(tmp_path / "new.png", slide(seed=1, height=height)[0]).replace(image)
        return facts or describe(described, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(image_runner, "describe_labels", describe_and_replace)
        assert predict(inputs, outputs) == 1
    assert "b.png: found a file that changed while it was read, expected" in capsys.readouterr().err
    assert _statuses(outputs) == ["done", "failed"]
    assert "b_label.tiff" not in names_of(outputs)
    assert predict(inputs, outputs, "--resume") == 0
    assert _statuses(outputs)[2:] == ["resumed", "done"]


@pytest.mark.usefixtures("perfect_network")
def test_without_resume_everything_is_done_again(predict, small_inputs, tmp_path):
    for _ in range(2):
        assert predict(small_inputs, tmp_path / "out") == 0
    assert _statuses(tmp_path / "out") == ["done"] * 4


@pytest.mark.usefixtures("perfect_network")
@pytest.mark.parametrize("change", [("--overlap", "0.5"), ("--block-size", "100")])
def test_resume_with_other_settings_does_everything_again(predict, small_inputs, tmp_path, change):
    predict(small_inputs, tmp_path / "out")
    predict(small_inputs, tmp_path / "out", "--resume", *change)
    assert _statuses(tmp_path / "out") == ["done"] * 4


@pytest.mark.usefixtures("perfect_network")
def test_resume_with_other_settings_takes_no_fingerprint_to_find_that(
    predict, small_inputs, tmp_path, monkeypatch
):
    predict(small_inputs, tmp_path / "out")
    monkeypatch.setattr(resuming, "describe_labels", lambda *_: pytest.fail("read the image"))
    assert predict(small_inputs, tmp_path / "out", "--resume", "--overlap", "0.5") == 0
    assert _statuses(tmp_path / "out") == ["done"] * 4


def test_resume_with_other_weights_does_everything_again(
    predict, small_inputs, tmp_path, weights_dir
):
    (small_inputs / "b.png").unlink()
    for name in ("from_phase1", "from_phase1", "from_phase2"):
        weights = weights_dir / f"{name}.safetensors"
        assert predict(small_inputs, tmp_path / "out", "--resume", "--weights", weights) == 0
    assert _statuses(tmp_path / "out") == ["done", "resumed", "done"]


@pytest.mark.usefixtures("perfect_network", "fresh_process")
def test_resume_compares_budgets_that_were_asked_for(predict, small_inputs, tmp_path):
    outputs, budget = tmp_path / "out", ("--resume", "--fit-budget")
    predict(small_inputs, outputs, "--fit-budget")
    assert predict(small_inputs, outputs, *budget) == 0
    assert predict(small_inputs, outputs, *budget, "--budget-scale", "0.85") == 0
    assert _statuses(outputs) == ["done"] * 2 + ["resumed"] * 4
    resumed = Ledger(outputs).read().latest["a.png"]
    assert resumed.budget is not None
    assert resumed.budget["plan"]["name"] == "fast"
    for options in (("--resume",), budget, (*budget, "--budget-scale", "0.5")):
        assert predict(small_inputs, outputs, *options) == 0
        assert _statuses(outputs)[-2:] == ["done"] * 2


@pytest.mark.usefixtures("perfect_network")
@pytest.mark.parametrize("resume", [(), ("--resume",)])
def test_first_image_is_not_charged_with_what_resumed_ones_lack(
    predict, small_inputs, tmp_path, monkeypatch, resume
):
    process_s, completing_s, started_s = time.perf_counter(), 0.05, []

    class Observed(image_runner.ImageRunner):
        def __init__(self, *arguments):
            started_s.append(arguments[-1])
            super().__init__(*arguments)

    def add_known_slowly(run):
        time.sleep(completing_s)
        add_known(run)

    add_known = runner.FolderRun.add_known
    monkeypatch.setattr(runner.FolderRun, "add_known", add_known_slowly)
    monkeypatch.setattr(runner, "process_start_s", lambda: process_s)
    monkeypatch.setattr(image_runner, "ImageRunner", Observed)
    assert predict(small_inputs, tmp_path / "out", *resume) == 0
    [first_s] = started_s
    assert first_s >= process_s + completing_s if resume else first_s == process_s


@pytest.mark.usefixtures("perfect_network")
def test_resume_makes_lost_labels_again(predict, small_inputs, tmp_path):
    predict(small_inputs, tmp_path / "out")
    before = read_labels(tmp_path / "out" / "b_label.tiff")
    (tmp_path / "out" / "b_label.tiff").unlink()
    predict(small_inputs, tmp_path / "out", "--resume")
    assert _statuses(tmp_path / "out") == ["done", "done", "resumed", "done"]
    assert np.array_equal(read_labels(tmp_path / "out" / "b_label.tiff"), before)


@pytest.mark.usefixtures("perfect_network")
def test_resume_tries_failed_images_again(predict, small_inputs, tmp_path):
    whole = (small_inputs / "b.png").read_bytes()
    (small_inputs / "b.png").write_bytes(whole[:99])
    assert predict(small_inputs, tmp_path / "out", "--resume") == 1
    (small_inputs / "b.png").write_bytes(whole)
    assert predict(small_inputs, tmp_path / "out", "--resume") == 0
    assert _statuses(tmp_path / "out") == ["done", "failed", "resumed", "done"]


@pytest.mark.usefixtures("perfect_network")
def test_resume_reads_past_a_torn_ledger_line(predict, small_inputs, tmp_path, capsys):
    predict(small_inputs, tmp_path / "out")
    ledger = tmp_path / "out" / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-50])
    assert predict(small_inputs, tmp_path / "out", "--resume") == 0
    assert "line 2 is not a ledger entry" in capsys.readouterr().err
    content = Ledger(tmp_path / "out").read()
    assert len(content.problems) == 1
    assert {name: record.status for name, record in content.latest.items()} == {
        "a.png": "resumed",
        "b.png": "resumed",  # its label file is there and says what it was made of
    }


@pytest.mark.usefixtures("perfect_network")
def test_resume_needs_no_ledger(predict, small_inputs, tmp_path):
    outputs = tmp_path / "out"
    assert predict(small_inputs, outputs, "--ledger", "none") == 0
    assert names_of(outputs) == ["a_label.tiff", "b_label.tiff"]
    (outputs / "b_label.tiff").unlink()
    assert predict(small_inputs, outputs, "--resume", "--ledger", tmp_path / "log") == 0
    assert names_of(outputs) == ["a_label.tiff", "b_label.tiff"]
    assert names_of(tmp_path / "log") == ["ledger.jsonl", "summary.json"]
    records = latest_records(tmp_path / "log")
    assert [records[name]["status"] for name in ("a.png", "b.png")] == ["resumed", "done"]
    expected = int(read_labels(outputs / "a_label.tiff").max())
    assert records["a.png"]["n_cells"] == expected > 0
    assert (records["a.png"]["height"], records["a.png"]["width"]) == (120, 150)


@pytest.mark.usefixtures("perfect_network")
def test_environment_variable_names_the_ledger_folder(predict, small_inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDIAR_LEDGER", str(tmp_path / "log"))
    assert predict(small_inputs, tmp_path / "out") == 0
    assert names_of(tmp_path / "out") == ["a_label.tiff", "b_label.tiff"]
    assert names_of(tmp_path / "log") == ["ledger.jsonl", "summary.json"]
    assert predict(small_inputs, tmp_path / "out", "--ledger", tmp_path / "here") == 0
    assert names_of(tmp_path / "here") == ["ledger.jsonl", "summary.json"]


@pytest.mark.usefixtures("perfect_network")
def test_resume_redoes_an_image_that_was_replaced(predict, small_inputs, tmp_path):
    predict(small_inputs, tmp_path / "out")
    write_image(small_inputs / "a.png", noise(50, 60))
    assert predict(small_inputs, tmp_path / "out", "--resume") == 0
    assert _statuses(tmp_path / "out") == ["done", "done", "resumed", "done"]
    assert read_labels(tmp_path / "out" / "a_label.tiff").shape == (50, 60)


@pytest.mark.usefixtures("perfect_network")
def test_resume_knows_the_pixel_size_of_an_image(predict, tmp_path):
    (tmp_path / "in").mkdir()
    settings = {"resolution": (20000, 40000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "in" / "a.tif", slide()[0], **settings)
    for _ in range(2):
        assert predict(tmp_path / "in", tmp_path / "out", "--resume") == 0
    assert _statuses(tmp_path / "out") == ["done", "resumed"]
    assert latest_records(tmp_path / "out")["a.tif"]["pixel_size_mm"] == [0.00025, 0.0005]


@pytest.mark.usefixtures("perfect_network")
def test_resume_without_an_earlier_run_is_a_plain_run(predict, small_inputs, tmp_path):
    assert predict(small_inputs, tmp_path / "out", "--resume") == 0
    assert _statuses(tmp_path / "out") == ["done", "done"]


@pytest.mark.usefixtures("perfect_network")
def test_resume_sees_an_image_that_came_under_the_same_output_name(predict, tmp_path):
    write_image(tmp_path / "in" / "a.b.png")
    assert predict(tmp_path / "in", tmp_path / "out", "--overlays") == 0
    write_image(tmp_path / "in" / "a.c.png")
    assert predict(tmp_path / "in", tmp_path / "out", "--resume", "--overlays") == 1
    assert _statuses(tmp_path / "out") == ["done", "failed", "failed"]
    assert not (tmp_path / "out" / "a_label.tiff").exists()
    assert names_of(tmp_path / "out" / "overlays") == []


@pytest.mark.usefixtures("perfect_network")
def test_resume_redoes_an_image_whose_labels_another_one_has_replaced(predict, tmp_path):
    inputs, aside = tmp_path / "in", tmp_path / "aside.png"
    write_image(inputs / "a.b.png")
    predict(inputs, tmp_path / "out")
    (inputs / "a.b.png").rename(aside)
    write_image(inputs / "a.c.png", noise(50, 60))
    predict(inputs, tmp_path / "out")
    (inputs / "a.c.png").unlink()
    aside.rename(inputs / "a.b.png")
    assert predict(inputs, tmp_path / "out", "--resume") == 0
    assert _statuses(tmp_path / "out") == ["done", "done", "done"]
    assert read_labels(tmp_path / "out" / "a_label.tiff").shape == (120, 150)


@pytest.mark.usefixtures("perfect_network")
def test_resume_makes_overlays_that_were_not_asked_for_before(
    predict, small_inputs, tmp_path, monkeypatch
):
    outputs = tmp_path / "out"
    predict(small_inputs, outputs)
    for _ in range(2):
        assert predict(small_inputs, outputs, "--resume", "--overlays") == 0
    assert _statuses(outputs) == ["done"] * 2 + ["resumed"] * 4
    assert names_of(outputs / "overlays") == ["a_label.png", "b_label.png"]

    for name in ("a", "b"):
        (outputs / "overlays" / f"{name}_label.png").unlink()
    monkeypatch.setattr(run_options, "MAX_OVERLAY_PIXELS", 100)
    predict(small_inputs, outputs, "--resume", "--overlays")
    assert _statuses(outputs)[-2:] == ["resumed"] * 2


@pytest.mark.usefixtures("perfect_network")
def test_overlay_of_earlier_labels_does_not_stay_beside_new_ones(predict, small_inputs, tmp_path):
    predict(small_inputs, tmp_path / "out", "--overlays")
    predict(small_inputs, tmp_path / "out")
    assert names_of(tmp_path / "out" / "overlays") == []


@pytest.mark.usefixtures("perfect_network")
def test_overlay_of_earlier_labels_is_made_again_after_a_stop_before_the_new_one(
    predict, small_inputs, tmp_path, monkeypatch
):
    def stop(*_, **__):
        raise KeyboardInterrupt

    changed = ("--overlays", "--block-size", "100")
    predict(small_inputs, tmp_path / "out", "--overlays")
    with monkeypatch.context() as patch:
        patch.setattr(after_labels, "write_overlay", stop)
        assert predict(small_inputs, tmp_path / "out", *changed) == 130
    assert names_of(tmp_path / "out" / "overlays") == ["b_label.png"]
    assert predict(small_inputs, tmp_path / "out", "--resume", *changed) == 0
    assert _statuses(tmp_path / "out") == ["done", "done", "resumed", "done"]
    assert names_of(tmp_path / "out" / "overlays") == ["a_label.png", "b_label.png"]


@pytest.mark.usefixtures("perfect_network")
def test_unfinished_overlay_of_a_killed_run_is_removed(predict, small_inputs, tmp_path):
    overlays = tmp_path / "out" / "overlays"
    overlays.mkdir(parents=True)
    (overlays / ".a_label.png.12.part").write_bytes(b"half")
    assert predict(small_inputs, tmp_path / "out") == 0
    assert names_of(overlays) == []
