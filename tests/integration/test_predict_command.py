"""The main job through the command line: what it writes, says and returns."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest
import tifffile
import torch
from folder_helpers import (
    latest_records,
    names_of,
    read_ledger,
    slide,
    write_image,
)
from safetensors.torch import load_file, save_file

from mediar_infer import cli, tolerance
from mediar_infer.images.open import open_image
from mediar_infer.labels.reading import read_labels
from mediar_infer.network.model import MediarFormer
from mediar_infer.network.weight_files import (
    ListedWeights,
    compute_digest,
    write_weights_manifest,
)


@pytest.fixture
def inputs(tmp_path):
    """Two slides, one with two dots in its name."""
    write_image(tmp_path / "in" / "a.png", slide(seed=1)[0])
    write_image(tmp_path / "in" / "b.ome.tif", slide(seed=2)[0])
    return tmp_path / "in"


@pytest.mark.usefixtures("perfect_network")
def test_every_image_gets_its_true_cells(predict, inputs, tmp_path):
    assert predict(inputs, tmp_path / "out") == 0
    for name, seed in (("a_label.tiff", 1), ("b_label.tiff", 2)):
        found, true = read_labels(tmp_path / "out" / name), slide(seed)[1]
        assert found.dtype == np.uint16
        assert found.max() == true.max() > 0
        assert np.array_equal(found > 0, true > 0)
        pairs = np.unique(np.stack([found[true > 0], true[true > 0]]), axis=1)
        assert pairs.shape[1] == true.max()


@pytest.mark.usefixtures("perfect_network")
def test_output_folder_holds_labels_ledger_and_summary(predict, inputs, tmp_path):
    predict(inputs, tmp_path / "out")
    expected = ["a_label.tiff", "b_label.tiff", "ledger.jsonl", "summary.json"]
    assert names_of(tmp_path / "out") == expected


@pytest.mark.usefixtures("perfect_network")
def test_ledger_tells_how_each_image_was_made(predict, inputs, tmp_path):
    predict(inputs, tmp_path / "out")
    first, second = read_ledger(tmp_path / "out")
    assert (first["file"], first["output"], first["status"]) == ("a.png", "a_label.tiff", "done")
    assert (first["height"], first["width"], first["dtype"]) == (120, 150, "uint8")
    assert first["n_cells"] == slide(1)[1].max()
    assert first["plan"]["name"] == "fast"
    assert first["weights"] == {"perfect.safetensors": "0" * 64}
    assert {"open", "read", "preprocess", "network", "labels", "write"} <= first["stages_s"].keys()
    assert sum(first["stages_s"].values()) <= first["wall_s"]
    # The second one was opened while the first was at work.
    assert sum(second["stages_s"][s] for s in ("network", "labels", "write")) <= second["wall_s"]
    assert second["tolerance_s"] == 10
    assert second["margin_s"] == pytest.approx(10 - second["wall_s"])
    assert second["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert second["peak_memory_bytes"]["host"] > 0
    assert second["device"].startswith("cpu")


@pytest.mark.usefixtures("perfect_network")
def test_summary_counts_what_the_ledger_lists(predict, inputs, tmp_path):
    (inputs / "notes.md").write_text("not an image")
    (inputs / "c.png").write_bytes(b"")
    assert predict(inputs, tmp_path / "out") == 1
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["n_files"] == 4
    assert summary["status"] == {"done": 2, "failed": 1, "skipped": 1, "resumed": 0}
    assert [entry["file"] for entry in summary["failed"]] == ["c.png"]
    assert summary["config"]["name"] == "fast"


@pytest.mark.usefixtures("perfect_network")
def test_console_shows_table_and_plain_lines_without_progress_bar(
    predict, inputs, tmp_path, capsys
):
    predict(inputs, tmp_path / "out")
    out, err = capsys.readouterr()
    assert re.search(r"a\.png +120×150 .* done\n", out)
    assert out.endswith(f"labels: {tmp_path / 'out' / 'NAME_label.tiff'}\n")
    assert re.search(r"^INFO a\.png: 120×150, \d+ cells", err, re.MULTILINE)
    assert "%|" not in err


@pytest.mark.usefixtures("perfect_network")
def test_pixel_size_of_the_image_goes_to_labels_and_ledger_and_a_lack_is_logged_once(
    predict, inputs, tmp_path, capsys
):
    tifffile.imwrite(
        inputs / "c.tif", slide()[0], resolution=(20000, 40000), resolutionunit="CENTIMETER"
    )
    predict(inputs, tmp_path / "out")
    sizes = {name: each["pixel_size_mm"] for name, each in latest_records(tmp_path / "out").items()}
    assert sizes == {"a.png": None, "b.ome.tif": None, "c.tif": [0.00025, 0.0005]}
    with tifffile.TiffFile(tmp_path / "out" / "c_label.tiff") as tif:
        assert tif.pages.first.get_resolution("CENTIMETER") == (20000, 40000)
    lines = re.findall("^.* no pixel size.*$", capsys.readouterr().err, re.MULTILINE)
    assert lines == [
        "INFO 2 of 3 images state no pixel size, nor do their label files; name it with"
        " --pixel-size"
    ]


@pytest.mark.usefixtures("perfect_network")
@pytest.mark.parametrize(
    ("chosen", "expected"), [("0.5", [0.0005, 0.0005]), ("0.5,0.25", [0.0005, 0.00025])]
)
def test_chosen_pixel_size_goes_to_labels_and_ledger(predict, inputs, tmp_path, chosen, expected):
    predict(inputs, tmp_path / "out", "--pixel-size", chosen)
    records = latest_records(tmp_path / "out")
    assert {tuple(each["pixel_size_mm"]) for each in records.values()} == {tuple(expected)}
    with open_image(tmp_path / "out" / "a_label.tiff") as labels:
        assert labels.pixel_size_mm == pytest.approx(tuple(expected))
    assert predict(inputs, tmp_path / "out", "--resume", "--pixel-size", "0.7") == 0
    records = latest_records(tmp_path / "out")
    assert {each["status"] for each in records.values()} == {"done"}


@pytest.mark.parametrize("chosen", ["0", "-1", "nan", "0.5,inf"])
def test_pixel_size_that_is_none_is_wrong_use(predict, inputs, tmp_path, chosen, capsys):
    assert predict(inputs, tmp_path / "out", f"--pixel-size={chosen}") == 2
    assert f"found --pixel-size {chosen}" in capsys.readouterr().err


@pytest.mark.parametrize("chosen", ["", "1,2,3", "0.5,", "0.5 um"])
def test_pixel_size_that_is_no_number_is_wrong_use(predict, inputs, tmp_path, chosen, capsys):
    with pytest.raises(SystemExit, match="2"):
        predict(inputs, tmp_path / "out", f"--pixel-size={chosen}")
    assert f"found {chosen!r}, expected µm" in capsys.readouterr().err


@pytest.mark.usefixtures("perfect_network")
def test_quiet_says_nothing_when_all_is_well(predict, inputs, tmp_path, capsys):
    assert predict(inputs, tmp_path / "out", "--quiet") == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("perfect_network")
def test_quiet_still_names_the_image_that_failed(predict, inputs, tmp_path, capsys):
    (inputs / "c.png").write_bytes(b"")
    assert predict(inputs, tmp_path / "out", "--quiet") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "c.png: found an empty file" in err


@pytest.mark.usefixtures("perfect_network")
def test_one_file_may_be_given_in_place_of_a_folder(predict, inputs, tmp_path):
    assert predict(inputs / "a.png", tmp_path / "out") == 0
    assert list(latest_records(tmp_path / "out")) == ["a.png"]


@pytest.mark.usefixtures("perfect_network")
def test_overlays_are_images_of_the_same_size(predict, inputs, tmp_path):
    predict(inputs, tmp_path / "out", "--overlays")
    overlays = tmp_path / "out" / "overlays"
    assert names_of(overlays) == ["a_label.png", "b_label.png"]
    assert cv2.imread(str(overlays / "a_label.png")).shape == (120, 150, 3)


@pytest.mark.usefixtures("perfect_network")
def test_plane_chooses_from_a_stack_that_is_an_error_without_it(predict, tmp_path, capsys):
    stack = np.stack([slide(seed)[0][..., 0] for seed in (3, 4)])
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "stack.ome.tif"
    tifffile.imwrite(path, stack, metadata={"axes": "ZYX"})
    assert predict(tmp_path / "in", tmp_path / "out") == 1
    assert re.search(r"stack\.ome\.tif: found 2 planes.*--plane", capsys.readouterr().err)
    assert predict(tmp_path / "in", tmp_path / "out", "--plane", "1") == 0
    assert (tmp_path / "out" / "stack_label.tiff").exists()


@pytest.mark.usefixtures("perfect_network")
def test_max_pixels_refuses_the_larger_image_only(predict, inputs, tmp_path, capsys):
    write_image(inputs / "large.png", slide(height=200, width=200)[0])
    assert predict(inputs, tmp_path / "out", "--max-pixels", "20000") == 1
    records = latest_records(tmp_path / "out")
    assert [records[name]["status"] for name in ("a.png", "b.ome.tif")] == ["done", "done"]
    assert "large.png: found 200 × 200 = 40,000 pixels" in capsys.readouterr().err


@pytest.mark.usefixtures("perfect_network")
def test_strict_budget_makes_a_late_image_a_failure(predict, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(tolerance, "SECONDS_PER_MEGAPIXEL", 1e-9)
    assert predict(inputs, tmp_path / "lenient") == 0
    assert predict(inputs, tmp_path / "strict", "--strict-budget") == 1
    assert latest_records(tmp_path / "strict")["a.png"]["within_tolerance"] is False


@pytest.mark.usefixtures("perfect_network", "fresh_process")
def test_budget_is_reported_in_the_ledger(predict, inputs, tmp_path, capsys):
    assert predict(inputs, tmp_path / "out", "--fit-budget", "--budget-scale", "0.9") == 0
    for name, seed in (("a.png", 1), ("b.ome.tif", 2)):
        record = latest_records(tmp_path / "out")[name]
        told = record["budget"]
        assert (told["scale"], told["aim_s"], told["fits"]) == (0.9, 9.0, True)
        assert told["plan"] == {
            "name": "fast", "models": 1, "flips": ["identity"], "overlap": 0.25
        }  # fmt: skip
        assert 0 < told["predicted_s"] < 9
        assert told["reason"] == f"fast {told['predicted_s']:.1f} s: the richest within 9.0 s"
        # The images are so small that their windows could be packed.
        assert set(told["predictions_s"]) == {"fast", "packed", "one-pass", "tiles"}
        assert (told["n_windows"], told["changes"]) == (1, [])
        assert record["plan"]["fit_budget"] == 0.9
        assert record["n_cells"] == slide(seed)[1].max()
    assert "a.png: plan fast," in capsys.readouterr().err


@pytest.mark.usefixtures("perfect_network")
def test_without_a_budget_the_ledger_names_none(predict, inputs, tmp_path):
    assert predict(inputs, tmp_path / "out") == 0
    record = latest_records(tmp_path / "out")["a.png"]
    assert record["budget"] is None
    assert "fit_budget" not in record["plan"]


@pytest.mark.usefixtures("perfect_network")
def test_budget_that_nothing_fits_is_a_warning(predict, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(tolerance, "SECONDS_PER_MEGAPIXEL", 1e-9)
    assert predict(inputs / "a.png", tmp_path / "out", "--fit-budget") == 0
    record = latest_records(tmp_path / "out")["a.png"]
    assert (record["budget"]["plan"]["name"], record["budget"]["fits"]) == ("fast", False)
    assert record["within_tolerance"] is False
    assert "the image may exceed its tolerance" in record["warnings"][0]
    assert record["n_cells"] == slide(1)[1].max()


@pytest.mark.usefixtures("perfect_network")
def test_changed_plan_is_recorded_as_custom(predict, inputs, tmp_path):
    options = ("--flips", "identity,vertical", "--overlap", "0.5", "--blocks", "stitched")
    assert predict(inputs, tmp_path / "out", *options) == 0
    plan = latest_records(tmp_path / "out")["a.png"]["plan"]
    assert (plan["name"], plan["flips"]) == ("custom", ["identity", "vertical"])
    assert (plan["overlap"], plan["masks"]["blocks"]) == (0.5, "stitched")
    assert read_labels(tmp_path / "out" / "a_label.tiff").max() == slide(1)[1].max()


@pytest.mark.usefixtures("perfect_network")
@pytest.mark.parametrize(("threshold", "n_cells"), [("off", slide(1)[1].max()), ("1e-9", 0)])
def test_flow_threshold_decides_which_cells_stay(predict, inputs, tmp_path, threshold, n_cells):
    assert predict(inputs / "a.png", tmp_path / "out", "--flow-threshold", threshold) == 0
    assert read_ledger(tmp_path / "out")[0]["n_cells"] == n_cells


@pytest.mark.parametrize(
    ("stated", "options", "used"),
    [
        ((0.5, 0.6), (), 0.55),
        ((0.5, None), (), 0.5),
        ((None, None), (), 0.4),
        ((0.5, 0.6), ("--models", "1"), 0.5),
        ((0.5, 0.6), ("--flow-threshold", "0.3"), 0.3),
        ((0.5, 0.6), ("--flow-threshold", "none"), None),
    ],
)
def test_weights_may_state_a_flow_threshold(
    predict, inputs, tmp_path, weights_dir, stated, options, used
):
    listed = {}
    for path, threshold in zip(sorted(weights_dir.glob("*.safetensors")), stated, strict=True):
        shutil.copy(path, tmp_path)
        listed[path.name] = ListedWeights(compute_digest(path), flow_threshold=threshold)
    write_weights_manifest(tmp_path, listed)
    (inputs / "b.ome.tif").unlink()
    options = ("--plan", "paper", "--flips", "none", *options)
    assert predict(inputs, tmp_path / "out", "--weights", tmp_path, *options) == 0
    (record,) = read_ledger(tmp_path / "out")
    assert record["plan"]["masks"]["flow_threshold"] == used


def test_ensemble_of_weight_files_with_flips_runs(predict, inputs, tmp_path, weights_dir):
    (inputs / "b.ome.tif").unlink()
    assert predict(inputs, tmp_path / "out", "--models", "2", "--flips", "none") == 0
    assert predict(inputs, tmp_path / "out", "--plan", "paper") == 0
    custom, paper = read_ledger(tmp_path / "out")
    assert (custom["plan"]["models"], custom["plan"]["flips"]) == (2, ["identity"])
    assert (paper["plan"]["models"], paper["plan"]["overlap"]) == (2, 0.6)
    names = ["from_phase1.safetensors", "from_phase2.safetensors"]
    assert paper["weights"] == {name: compute_digest(weights_dir / name) for name in names}


def test_weights_that_a_plan_does_not_use_are_named(predict, inputs, tmp_path, weights_dir, capsys):
    weights = sorted(weights_dir.glob("*.safetensors"))
    command = ["predict", "-i", inputs / "a.png", "-o", tmp_path / "out", "--threads", "1"]
    command += ["--weights", *weights]
    assert cli.main([*map(str, command), "--plan", "fast"]) == 0
    err = capsys.readouterr().err
    assert "from_phase2.safetensors: not used, as plan fast takes 1 model(s)" in err
    assert cli.main([*map(str, command), "--plan", "fast", "--models", "2"]) == 0
    assert predict(inputs / "a.png", tmp_path / "out") == 0  # a folder of them names none
    assert "not used" not in capsys.readouterr().err


def test_one_model_is_said_to_be_no_ensemble(predict, inputs, tmp_path, weights_dir, capsys):
    one = weights_dir / "from_phase2.safetensors"
    assert (
        predict(inputs, tmp_path / "out", "--plan", "paper", "--flips", "none", "--weights", one)
        == 0
    )
    assert re.search(r"WARNING .*from_phase2.*no ensemble", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--flips", "diagonal"), r"--flips diagonal: found diagonal, expected none or some of"),
        (("--overlap", "1"), r"found overlap 1\.0, expected 0 to 0\.95"),
        (("--batch", "-1"), r"found batch -1, expected 0 \(automatic\) or more"),
        (("--plane", "-1"), r"found --plane -1, expected 0 or more"),
        (("--max-pixels", "0"), r"found --max-pixels 0, expected 1 or more"),
        (("--budget-scale", "0.9"), r"found --budget-scale 0\.9 without --fit-budget"),
        (("--budget-outside", "1.5"), r"found --budget-outside 1\.5 without --fit-budget"),
        (("--fit-budget", "--budget-outside", "-1"), r"found -1\.0 s outside the process"),
        (("--fit-budget", "--budget-scale", "0"), r"found budget scale 0\.0, expected above 0"),
        (("--block-size", "9"), r"found block size 9, expected 64 or more"),
        (("--device", "abacus"), r"found device 'abacus', expected auto, cpu, cuda"),
        (("--device", "cuda:99"), r"found \d+ CUDA devices, expected 'cuda:99'"),
    ],
)
def test_wrong_option_ends_with_two_and_a_remedy(
    predict, inputs, tmp_path, capsys, options, message
):
    assert predict(inputs, tmp_path / "out", *options) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options", [("--plan", "best"), ("--no-such-option",), ("--batch", "x"), ("--models", "0")]
)
def test_option_that_cannot_be_parsed_ends_with_two(predict, inputs, tmp_path, options):
    with pytest.raises(SystemExit) as stopped:
        predict(inputs, tmp_path / "out", *options)
    assert stopped.value.code == 2


def test_missing_input_ends_with_two_before_weights_are_loaded(tmp_path, capsys):
    missing = tmp_path / "nowhere"
    assert cli.main(["predict", "-i", str(missing), "-o", str(tmp_path / "out")]) == 2
    assert f"{missing}: no such folder or file" in capsys.readouterr().err


def test_name_that_the_file_system_refuses_ends_with_two(predict, inputs, tmp_path, capsys):
    long_name = tmp_path / ("n" * 300)
    assert predict(long_name, tmp_path / "out") == 2
    assert "cannot be read (File name too long), expected a folder" in capsys.readouterr().err
    assert predict(inputs, tmp_path / "out", "--weights", long_name) == 2
    assert "there is no such weight file" in capsys.readouterr().err


@pytest.mark.usefixtures("perfect_network")
def test_image_whose_label_cannot_be_named_is_reported_by_every_run(predict, tmp_path, capsys):
    name = "n" * 250 + ".png"
    write_image(tmp_path / "in" / name, np.zeros((1, 1), np.uint8))
    (tmp_path / "in" / name).write_bytes(b"")
    for _ in range(2):
        assert predict(tmp_path / "in", tmp_path / "out", "--resume") == 1
        assert "Traceback" not in capsys.readouterr().err


@pytest.mark.usefixtures("perfect_network")
@pytest.mark.parametrize("output", [".", "../in"])
def test_output_folder_must_not_be_the_input_folder(predict, inputs, output, capsys):
    before = names_of(inputs)
    assert predict(inputs, inputs / output) == 2
    assert "input and output folder are the same, expected two different" in capsys.readouterr().err
    assert names_of(inputs) == before


def _missing(folder):
    return folder / "gone.pth"


def _empty(folder):
    (folder / "empty.pth").write_bytes(b"")
    return folder / "empty.pth"


def _truncated(folder):
    whole = (folder / "good.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    return folder / "cut.safetensors"


def _truncated_pth(folder):
    torch.save({"a": torch.zeros(9999)}, folder / "cut.pth")
    (folder / "cut.pth").write_bytes((folder / "cut.pth").read_bytes()[:2000])
    return folder / "cut.pth"


def _foreign(folder):
    save_file({"conv.weight": torch.zeros(3, 3)}, folder / "foreign.safetensors")
    return folder / "foreign.safetensors"


def _swapped(folder):
    write_weights_manifest(folder, {"good.safetensors": ListedWeights("f" * 64)})
    return folder / "good.safetensors"


def _unsafe(folder):
    torch.save({"model": MediarFormer, "state": 1}, folder / "pickle.pth")
    return folder / "pickle.pth"


def _twice(folder):
    return folder / "good.safetensors", folder / "good.safetensors"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_missing, r"gone\.pth: there is no such weight file; beside it: good\.safetensors"),
        (_empty, r"empty\.pth: found an empty file, expected weights; fetch it again"),
        (_truncated, r"cut\.safetensors: cannot be read .*damaged or of another kind; fetch"),
        (_truncated_pth, r"cut\.pth: cannot be read .*damaged or of another kind; fetch it again"),
        (_foreign, r"foreign\.safetensors: found 1 entries .*expected a MEDIAR-Former state dict"),
        (_swapped, r"good\.safetensors: found SHA-256 .*damaged or was swapped; restore it"),
        (_unsafe, r"pickle\.pth: found something other than tensors, which could run code"),
        (_twice, r"found the same weights twice .*expected two models"),
    ],
)
def test_bad_weights_end_with_two_and_a_remedy(
    predict, inputs, tmp_path, weights_dir, capsys, make, message
):
    folder = tmp_path / "weights"
    folder.mkdir()
    good = (weights_dir / "from_phase1.safetensors").read_bytes()
    (folder / "good.safetensors").write_bytes(good)
    made = make(folder)
    paths = made if isinstance(made, tuple) else (made,)
    assert predict(inputs, tmp_path / "out", "--plan", "paper", "--weights", *paths) == 2
    err = capsys.readouterr().err
    assert re.search(message, err), err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_published_state_dict_gives_the_same_labels(predict, inputs, tmp_path, weights_dir):
    folder = tmp_path / "published"
    folder.mkdir()
    torch.save(load_file(weights_dir / "from_phase1.safetensors"), folder / "from_phase1.pth")
    (inputs / "b.ome.tif").unlink()
    assert predict(inputs, tmp_path / "pth", "--weights", folder) == 0
    assert predict(inputs, tmp_path / "safetensors", "--weights", weights_dir) == 0
    labels = [read_labels(tmp_path / kind / "a_label.tiff") for kind in ("pth", "safetensors")]
    assert np.array_equal(*labels)


def test_ledger_tells_two_weight_files_of_one_name_apart(predict, inputs, tmp_path, weights_dir):
    paths = []
    for member in ("from_phase1", "from_phase2"):
        path = tmp_path / member / "model.safetensors"
        path.parent.mkdir()
        path.write_bytes((weights_dir / f"{member}.safetensors").read_bytes())
        paths.append(path)
    options = ("--plan", "paper", "--flips", "none", "--weights", *paths)
    assert predict(inputs / "a.png", tmp_path / "out", *options) == 0
    weights = latest_records(tmp_path / "out")["a.png"]["weights"]
    assert weights == {str(path): compute_digest(path) for path in paths}
