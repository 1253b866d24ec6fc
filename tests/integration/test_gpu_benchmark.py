"""``make gpu`` without a GPU: what it says, and that its parts run."""

import json
import subprocess
import sys

import pytest
from folder_helpers import ROOT


def run(*options):
    command = [sys.executable, "benchmarks/bench_gpu.py", *map(str, options)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def quick(output, *options):
    return run("--device", "cpu", "--quick", "--output", output, *options)


def test_without_a_gpu_one_line_says_so(tmp_path):
    done = run("--device", "cuda:7", "--output", tmp_path / "gpu.json", "--parts", "labels")
    if done.returncode == 2:
        (line,) = done.stderr.splitlines()
        assert line.startswith("found no CUDA device")
        assert not (tmp_path / "gpu.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--parts", "labels,speed"), "found speed, expected some of parity, network"),
        (("--images", "nowhere"), "nowhere: found no folder"),
    ],
)
def test_wrong_options_are_named(tmp_path, options, message):
    done = quick(tmp_path / "gpu.json", *options)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_part_that_takes_too_long_is_recorded_and_the_next_one_runs(tmp_path):
    output = tmp_path / "gpu.json"
    done = quick(output, "--parts", "labels,training", "--limit", "0.1")
    results = json.loads(output.read_text())["results"]
    assert done.returncode == 1
    assert [each["failed"] for each in results.values()] == ["not done after 0.1 s"] * 2


def test_the_label_stage_is_measured(tmp_path):
    output = tmp_path / "gpu.json"
    done = quick(output, "--parts", "labels")
    assert done.returncode == 0, done.stdout
    report = json.loads(output.read_text())
    assert report["metadata"]["quick"]
    figures = report["results"]["labels"]["figures"]
    assert figures["torch loops on cpu, whole"]["f1_at_0.9"] == 1
    assert "labels, torch loops on cpu, stitched" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("part", ["parity", "network", "slide", "start", "training"])
def test_every_part_runs_on_a_cpu(tmp_path, part):
    pytest.importorskip("monai", reason="extra: training")
    output = tmp_path / "gpu.json"
    done = quick(output, "--parts", part, "--limit", "500")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(output.read_text())["results"][part]["rows"]
