"""Benchmarks run with the package: each shows its help, and that of a slide finds its cells."""

import json
import subprocess
import sys

import pytest
from folder_helpers import ROOT

SCRIPTS = sorted(
    path.name
    for path in (ROOT / "benchmarks").glob("*.py")
    if "common.make_parser(" in path.read_text()
)


def run(*arguments):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_help_of_a_benchmark_is_its_docstring(name):
    path = ROOT / "benchmarks" / name
    assert path.read_text().partition('"""')[2].partition("\n")[0] in run(path, "--help")


@pytest.mark.slow
def test_slide_of_the_benchmark_is_segmented_into_whole_cells(tmp_path):
    output = tmp_path / "slide.json"
    options = ("--sides", 600, "--modes", "stitched:300", "--flips", 1, "--output", output)
    run(ROOT / "benchmarks" / "bench_slide.py", *options)
    (result,) = json.loads(output.read_text())["results"]
    assert result["n_true"] > 100
    assert result["whole_cells"] == result["f1_at_0.9"] == 1
