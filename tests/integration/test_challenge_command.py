"""The ``challenge`` command with a stand-in for docker, and with real processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from folder_helpers import ROOT, names_of, noise, subprocess_environment, write_image

from mediar_infer import cli
from mediar_infer.labels.reading import read_labels

SIZE = (40, 60)
_DEADLINE_S = 60


@pytest.fixture
def engine_state(tmp_path, monkeypatch):
    """Put the stand-in on the path under the name of docker; gives its folder of state."""
    state, program = tmp_path / "state", tmp_path / "bin" / "docker"
    state.mkdir()
    program.parent.mkdir()
    source = Path(__file__).with_name("fake_engine.py").read_text()
    program.write_text(f"#!{sys.executable}\n{source}")
    program.chmod(0o755)
    (program.parent / "podman").symlink_to(program)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_STATE", str(state))
    return state


@pytest.fixture
def images(tmp_path):
    """One TIFF image in a folder of its own."""
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "a.b.tif", noise(*SIZE))
    return tmp_path / "in"


@pytest.fixture
def challenge(engine_state, images, tmp_path):
    """Judge an image of the stand-in: ``challenge(image, *options) -> (exit code, results)``."""

    def call(image, *options):
        arguments = ["challenge", "-i", images, "-o", tmp_path / "out", "--engine", "docker"]
        code = cli.main([str(each) for each in [*arguments, "--image", image, *options]])
        results = tmp_path / "out" / "challenge.json"
        return code, json.loads(results.read_text()) if results.exists() else None

    return call


def runs(state):
    """Command lines of all containers so far."""
    path = state / "calls.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [call for call in map(json.loads, lines) if call[:2] == ["container", "run"]]


def findings(results):
    return [(each["aspect"], each["found"]) for each in results["images"][0]["findings"]]


def test_image_that_keeps_the_contract_passes(challenge, engine_state, tmp_path, capsys):
    code, results = challenge("good:latest", "--gpus", "device=0")
    assert (code, results["verdict"]) == (0, "passed")
    (image,) = results["images"]
    assert (image["image"], image["height"], image["width"]) == ("a.b.tif", *SIZE)
    assert (image["findings"], image["exit_code"], image["label"]["n_cells"]) == ([], 0, 2)
    assert 0 < image["wall_s"] < image["tolerance_s"] == 10
    assert results["image_id"] == "sha256:" + "5" * 64
    assert names_of(tmp_path / "out") == ["challenge.json", "labels", "report.html"]
    assert names_of(tmp_path / "out" / "labels") == ["a_label.tiff"]
    out = capsys.readouterr().out
    assert "PASSED: no finding in 1 images; counted time 0.00 s" in out
    assert [each.name for each in engine_state.iterdir()] == ["calls.jsonl"]


def test_container_is_run_as_the_organisers_do_but_without_a_network(challenge, engine_state):
    challenge("good:latest", "--gpus", "device=0")
    (run,) = runs(engine_state)
    name, inputs, outputs = run[7], run[11], run[13]
    assert run == [
        "container", "run", "--gpus", "device=0", "-m", "28g", "--name", name, "--network", "none",
        "-v", inputs, "-v", outputs, "good:latest", "/bin/bash", "-c", "sh predict.sh",
    ]  # fmt: skip
    assert inputs.endswith("/inputs:/workspace/inputs/:ro")
    assert outputs.endswith("/outputs:/workspace/outputs/")


def test_time_outside_the_command_is_measured_and_how_to_allow_for_it_is_said(challenge, capsys):
    code, results = challenge("slow")
    (image,) = results["images"]
    assert code == 0
    assert 0.6 <= image["outside_s"] < image["wall_s"]
    assert results["summary"]["largest_outside_s"] == image["outside_s"]
    found = re.search(
        r"start and removal of a container took up to [0-9.]+ s; .* --budget-outside ([0-9.]+)",
        capsys.readouterr().out,
    )
    assert image["outside_s"] <= float(found[1]) < image["outside_s"] + 0.1


def test_engine_that_states_no_times_leaves_them_out(challenge, capsys):
    code, results = challenge("timeless")
    assert (code, results["images"][0]["outside_s"]) == (0, None)
    assert "--budget-outside" not in capsys.readouterr().out


def test_options_follow_the_shell_command(challenge, engine_state):
    assert challenge("good", "--", "--plan", "a b")[0] == 0
    (run,) = runs(engine_state)
    assert run[-3:] == ["/bin/bash", "-c", "sh predict.sh --plan 'a b'"]


@pytest.mark.parametrize(
    ("image", "aspect", "found"),
    [
        ("misnaming", "output", "a_b_tif_label.tiff"),
        ("silent", "output", "nothing"),
        ("chatty", "output", "log.txt beside it"),
        ("floating", "data type", "float32"),
        ("turning", "shape", "(60, 40)"),
        ("skipping", "ids", "2 ids up to 4 without 1, 3"),
        ("unlimited", "memory", "no limit in force"),
    ],
)
def test_breach_is_found_and_ends_with_one(challenge, capsys, image, aspect, found):
    code, results = challenge(image)
    assert (code, results["verdict"]) == (1, "breached")
    assert findings(results) == [(aspect, found)]
    out = capsys.readouterr().out
    assert f"a.b.tif: {aspect}: found {found}, expected " in out
    assert "BREACHED: 1 findings in 1 of 1 images" in out


def test_damaged_label_file_is_found_and_not_gathered(challenge, tmp_path):
    code, results = challenge("damaging")
    assert code == 1
    ((aspect, found),) = findings(results)
    assert aspect == "file format"
    assert found.startswith("a_label.tiff that cannot be read")
    assert names_of(tmp_path / "out" / "labels") == []


def test_kill_for_memory_is_reported_as_one(challenge):
    for image in ("greedy", "killed"):
        code, results = challenge(image)
        assert code == 1
        assert findings(results)[0][0] == "memory"
        assert "(137), as the kernel does when memory runs out" in findings(results)[0][1]


def test_failed_run_is_reported_with_its_last_line(challenge):
    code, results = challenge("failing")
    assert code == 1
    assert findings(results)[0] == ("exit status", "3 (no module named torch)")
    assert results["images"][0]["log"] == "starting\nno module named torch"


def test_run_over_the_timeout_is_stopped_and_removed(challenge, engine_state):
    code, results = challenge("hanging", "--timeout", "0.8")
    assert code == 1
    assert results["images"][0]["timed_out"]
    aspect, found = findings(results)[0]
    assert aspect == "exit status"
    assert found.startswith("a run stopped after ")
    assert [each.name for each in engine_state.iterdir()] == ["calls.jsonl"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stopped_command_removes_the_container_and_keeps_what_it_has(
    engine_state, images, tmp_path, how
):
    tifffile.imwrite(images / "b.tif", noise(*SIZE))
    command = [
        sys.executable, "-m", "mediar_infer", "challenge", "-i", images, "-o", tmp_path / "out",
        "--engine", "docker", "--image", "hanging", "--timeout", "2",
    ]  # fmt: skip
    process = subprocess.Popen(
        list(map(str, command)), cwd=ROOT, env=subprocess_environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + _DEADLINE_S
    while len(runs(engine_state)) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(how)
    out, err = process.communicate(timeout=_DEADLINE_S)
    assert process.returncode == 128 + how, err
    assert "STOPPED after 1 images" in out
    results = json.loads((tmp_path / "out" / "challenge.json").read_text())
    assert results["verdict"] == "stopped"
    assert [each["image"] for each in results["images"]] == ["a.b.tif"]
    assert names_of(tmp_path / "out") == ["challenge.json", "labels", "report.html"]
    assert [each.name for each in engine_state.iterdir()] == ["calls.jsonl"]


def test_podman_is_given_gpus_in_its_own_way(images, engine_state, tmp_path):
    arguments = ("-i", images, "-o", tmp_path / "out", "--image", "good", "--gpus", "device=0")
    assert cli.main(["challenge", *map(str, arguments), "--engine", "podman"]) == 0
    (run,) = runs(engine_state)
    assert run[2:4] == ["--device", "nvidia.com/gpu=0"]


def test_image_that_is_not_there_ends_with_two(challenge, capsys):
    assert challenge("absent") == (2, None)
    assert "No such image: absent" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--engine", "docker"), "without an image; name it with --image"),
        (("--image", "good"), "expected a container; add --engine docker"),
        (("--command", "sh run.sh"), "expected a container; add --engine docker"),
        (("--memory", "much"), "found memory limit 'much', expected a size such as 28g"),
        (("--timeout", "0"), "found --timeout 0, expected a finite number of seconds above 0"),
        (("--timeout", "nan"), "found --timeout nan, expected a finite number of seconds"),
        (("--timeout", "inf"), "found --timeout inf, expected a finite number of seconds"),
    ],
)
def test_options_that_do_not_fit_end_with_two(images, tmp_path, capsys, options, message):
    arguments = ("-i", images, "-o", tmp_path / "out", *options)
    assert cli.main(["challenge", *map(str, arguments)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_folder_without_images_ends_with_two(tmp_path, capsys):
    assert cli.main(["challenge", "-i", str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert "found no image, expected a folder of one or more" in capsys.readouterr().err


def test_images_with_one_label_name_end_with_two(challenge, images, capsys):
    tifffile.imwrite(images / "a.c.tif", noise(*SIZE))
    assert challenge("good") == (2, None)
    assert (
        "a.b.tif and a.c.tif, whose labels are both named a_label.tiff" in capsys.readouterr().err
    )


def test_labels_of_an_earlier_run_are_not_mixed_in(challenge, capsys):
    assert challenge("good")[0] == 0
    assert challenge("good")[0] == 2
    assert "labels: found files in it, expected an empty folder" in capsys.readouterr().err


def test_missing_truth_ends_with_two_before_anything_is_run(challenge, tmp_path, capsys):
    (tmp_path / "true").mkdir()
    assert challenge("good", "--gt", tmp_path / "true") == (2, None)
    assert "found nothing for a.b.tif, expected one file a_label.tiff" in capsys.readouterr().err


def test_labels_are_scored_as_the_challenge_does(challenge, tmp_path, capsys):
    (tmp_path / "true").mkdir()
    true = np.zeros(SIZE, np.uint8)
    true[5:15, 5:15] = 1
    true[33:37, 50:56] = 2
    tifffile.imwrite(tmp_path / "true" / "a_label.tif", true)
    code, results = challenge("good", "--gt", tmp_path / "true")
    assert code == 0
    assert [each["f1"] for each in results["images"][0]["scores"]] == [0.5] * 5
    assert results["summary"]["mean_f1"] == 0.5
    assert "0.500" in capsys.readouterr().out


def test_unreadable_image_is_a_finding_and_the_others_are_judged(challenge, images):
    (images / "0.tif").write_bytes(b"II*\0")
    code, results = challenge("silent")
    assert code == 1
    assert [each["image"] for each in results["images"]] == ["0.tif", "a.b.tif"]
    assert findings(results)[0][0] == "image"
    assert results["images"][0]["tolerance_s"] is None


def test_images_that_cannot_be_copied_do_not_stop_the_others(challenge, engine_state, images):
    (images / "0.tif").symlink_to("nowhere.tif")
    (images / "9.zarr").mkdir()
    code, results = challenge("silent")
    assert (code, results["verdict"], len(runs(engine_state))) == (1, "breached", 2)
    assert {each["image"]: each["exit_code"] for each in results["images"]} == {
        "0.tif": None, "9.zarr": 0, "a.b.tif": 0,
    }  # fmt: skip


def test_page_without_images_shows_outlines_only(challenge, tmp_path):
    assert challenge("good", "--without-images")[0] == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/webp") == 1
    (tmp_path / "out" / "labels" / "a_label.tiff").unlink()
    assert challenge("good")[0] == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/webp") == 2


def test_process_engine_judges_this_package(weights_dir, tmp_path, capsys):
    write_image(tmp_path / "in" / "a.png", noise(40, 50))
    options = ("--", "--weights", weights_dir, "--plan", "fast", "--threads", "1")
    arguments = ("-i", tmp_path / "in", "-o", tmp_path / "out", *options)
    code = cli.main(["challenge", *map(str, arguments)])
    results = json.loads((tmp_path / "out" / "challenge.json").read_text())
    (image,) = results["images"]
    assert image["exit_code"] == 0
    assert image["counted_s"] == max(0, image["wall_s"] - 10)
    assert code == (image["counted_s"] > 0)
    assert [each["aspect"] for each in image["findings"]] == ["time"] * code
    assert 0 < sum(image["ledger"]["stages_s"].values()) < image["wall_s"]
    assert image["ledger"]["plan"]["name"] == "fast"
    assert image["peak_memory_bytes"] > 50e6
    assert read_labels(tmp_path / "out" / "labels" / "a_label.tiff").shape == (40, 50)


def test_process_over_its_memory_limit_is_found(weights_dir, tmp_path):
    write_image(tmp_path / "in" / "a.png", noise(40, 50))
    arguments = ("-i", tmp_path / "in", "-o", tmp_path / "out", "--memory", "10m")
    options = ("--", "--weights", weights_dir, "--overlap", "2")
    assert cli.main(["challenge", *map(str, arguments), *map(str, options)]) == 1
    results = json.loads((tmp_path / "out" / "challenge.json").read_text())
    found = {each["aspect"]: each for each in results["images"][0]["findings"]}
    assert sorted(found) == ["exit status", "memory", "output"]
    assert found["memory"]["expected"] == "at most 0.00977 GiB"
    assert "found overlap 2.0" in found["exit status"]["found"]
