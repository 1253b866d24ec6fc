"""The recipe for Snakemake, run by Snakemake."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from slides import SlideScene

ROOT = Path(__file__).resolve().parents[2]
SNAKEMAKE = os.environ.get("MEDIAR_SNAKEMAKE") or shutil.which("snakemake")

pytestmark = pytest.mark.skipif(
    SNAKEMAKE is None,
    reason="snakemake is not installed; name it in $MEDIAR_SNAKEMAKE (an environment of its own)",
)


def test_parts_are_run_and_merged(tmp_path):
    for number in range(4):
        path = tmp_path / "images" / f"plate{number % 2}" / f"field{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), SlideScene(200, 200, pitch=40, seed=number).render_rows(0, 200))
    mediar = shlex.join([sys.executable, "-m", "mediar_infer"])
    settings = {
        "images": "images", "labels": "labels", "parts": 2, "mediar": mediar,
        "options": "--recursive --plan fast",
    }  # fmt: skip
    command = [
        SNAKEMAKE, "--snakefile", ROOT / "docs" / "recipes" / "Snakefile", "--cores", "1",
        "--config", *(f"{name}={value}" for name, value in settings.items()),
    ]  # fmt: skip
    done = subprocess.run(
        list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    labels = tmp_path / "labels"
    assert len(list(labels.rglob("*_label.tiff"))) == 4
    assert len((labels / "ledger.jsonl").read_text().splitlines()) == 4
    again = subprocess.run(
        list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "Nothing to be done" in again.stdout + again.stderr
