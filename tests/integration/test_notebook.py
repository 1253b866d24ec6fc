"""The notebook for newcomers runs from top to bottom as a plain program."""

import subprocess
import sys

from folder_helpers import ROOT, subprocess_environment

NOTEBOOK = ROOT / "docs" / "notebooks" / "first_steps.py"


def test_notebook_runs_as_a_program(tmp_path):
    done = subprocess.run(
        [sys.executable, NOTEBOOK], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=subprocess_environment(MPLBACKEND="agg", PYTHONPATH=str(ROOT)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "cells in 3 images" in done.stdout
    assert (tmp_path / "my_results" / "report.html").is_file()
    labels = [path.parent.name for path in (tmp_path / "my_results").rglob("*_label.tiff")]
    assert sorted(labels) == ["day1", "day1", "day2"]
