"""The recipe for Slurm, run by Slurm: one job of three is killed and queued again."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
from slides import SlideScene
from slurm_node import explain_absence, slurm_node

from mediar_infer import cli
from mediar_infer.folder.ledger import Ledger
from mediar_infer.folder.parts import RunPart

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "docs" / "recipes" / "slurm.sbatch"
N_JOBS = 3
PREDICT = ("--plan", "fast", "--threads", "1")
DEADLINE_S = 480

pytestmark = pytest.mark.skipif(explain_absence() is not None, reason=str(explain_absence()))


@pytest.fixture
def slurm(tmp_path):
    with slurm_node(tmp_path / "slurm") as environment:
        yield environment


@pytest.fixture
def images(tmp_path):
    """Three plates of three images."""
    for number in range(9):
        path = tmp_path / "images" / f"plate{number // 3}" / f"field{number % 3}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), SlideScene(300, 400, pitch=40, seed=number).render_rows(0, 300))
    return tmp_path / "images"


def labels_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*_label.tiff")}


def find_process(*words):
    """The process whose command line has all of some words, as its interpreter shows it."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            is_python = line[0].rpartition(b"/")[2].startswith(b"python")
            if is_python and all(word.encode() in line for word in words):
                return int(entry.name)
    return None


def test_array_with_a_killed_job_does_what_one_run_does(slurm, images, tmp_path):
    labels = tmp_path / "labels"
    command = shlex.join([sys.executable, "-m", "mediar_infer"])
    done = subprocess.run(
        [
            "sbatch", "--parsable", f"--array=1-{N_JOBS}", "--cpus-per-task=1", "--mem=0",
            RECIPE, images, labels, *PREDICT,
        ],
        env=slurm | {"MEDIAR": command, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    job = done.stdout.strip()
    part = f"2/{N_JOBS}"
    ledger, deadline = Ledger(labels, RunPart.parse(part)), time.monotonic() + DEADLINE_S
    while not ledger.size:  # until its first image is done
        assert time.monotonic() < deadline, logs_of(tmp_path)
        time.sleep(0.01)
    os.kill(find_process("predict", "--part", part), signal.SIGKILL)
    while subprocess.run(
        ["squeue", "--noheader", f"--job={job}"], env=slurm, capture_output=True, check=False
    ).stdout.strip():
        assert time.monotonic() < deadline, logs_of(tmp_path)
        time.sleep(0.5)

    assert f"part {part}: stopped with code 137, queued again" in logs_of(tmp_path)
    statuses = [entry.status for entry in ledger.read().entries]
    assert statuses == ["done", "resumed", "done", "done"]
    assert cli.main(["ledger", "merge", str(labels)]) == 0
    whole = tmp_path / "whole"
    arguments = map(str, ("-i", images, "-o", whole, "--recursive", *PREDICT))
    assert cli.main(["predict", *arguments]) == 0
    assert len(labels_of(whole)) == 9
    assert labels_of(labels) == labels_of(whole)
    assert not list(labels.rglob(".*"))


def logs_of(folder):
    return "\n".join(path.read_text() for path in sorted(folder.glob("mediar-*.log")))
