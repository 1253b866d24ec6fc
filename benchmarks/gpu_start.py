"""Start of a process to its first label file, and what it says where the driver cannot be used."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import common
from bench_cold_start import write_image
from gpu_settings import Row, Settings

UNUSABLE_DRIVER = """
import sys, torch
from pathlib import Path
from mediar_infer import cli, devices

def init():
    raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Update")

devices._NVIDIA, devices._ACCELERATORS = Path(sys.executable), (Path(sys.executable),)
torch.cuda.is_available, torch.cuda.init = (lambda: False), init
torch.backends.cuda.is_built = lambda: True
raise SystemExit(cli.main(sys.argv[1:]))
"""
"""The command line on a machine whose driver is too old for torch."""


def time_starts(settings: Settings, options: list[str], ledger: Path) -> dict[str, Any]:
    bare = [sys.executable, "-c", "import torch"]
    predict = [sys.executable, "predict.py", *options]
    n = 1 if settings.quick else 5
    common.run_timed(predict)  # fills the file cache
    runs: list[dict[str, float]] = []
    for _ in range(n):
        floor_s, wall_s = common.run_timed(bare).wall_s, common.run_timed(predict).wall_s
        stages = json.loads(ledger.read_text().splitlines()[-1])["stages_s"]
        runs.append({"import_torch_s": floor_s, "process_s": wall_s, "stages_s": stages})
    return {
        "import_torch_s": common.spread([each["import_torch_s"] for each in runs]),
        "process_s": common.spread([each["process_s"] for each in runs]),
        "runs": runs,
    }


def refuse(name: str, command: list[str], expected: str, **environment: str) -> tuple[dict, Row]:
    """Run a command that must end with exit code 2 and one line that says why."""
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=common.ROOT, env=os.environ | environment
    )
    lines = done.stderr.strip().splitlines()
    holds = done.returncode == 2 and expected in done.stderr and "Traceback" not in done.stderr
    figures = {"exit_code": done.returncode, "stderr": lines[-3:], "as_expected": holds}
    said = lines[-1] if lines else "nothing"
    return figures, Row(name, f"exit code {done.returncode}: {said}", f"2, '{expected}'", holds)


def measure(settings: Settings) -> tuple[dict[str, Any], list[Row]]:
    with tempfile.TemporaryDirectory() as name:
        images, labels = Path(name) / "images", Path(name) / "labels"
        images.mkdir()
        write_image(images / "cells.png", settings.roi)
        options = ["-i", str(images), "-o", str(labels), "--quiet"]
        figures = time_starts(
            settings, [*options, "--device", settings.device_name], labels / "ledger.jsonl"
        )
        process_s, floor_s = (
            figures[key]["median"] for key in ("process_s", "import_torch_s")
        )  # fmt: skip
        rows = [
            Row("start of a process to its label file", f"{process_s:.2f} s",
                f"import torch: {floor_s:.2f} s")
        ]  # fmt: skip
        predict = [sys.executable, "predict.py", *options]
        for what, command, expected, environment in (
            ("no GPU visible, --device cuda", [*predict, "--device", "cuda"],
             "found 0 CUDA devices", {"CUDA_VISIBLE_DEVICES": ""}),
            ("driver too old, --device auto",
             [sys.executable, "-c", UNUSABLE_DRIVER, "predict", *options],
             "found an NVIDIA GPU that cannot be used", {}),
        ):  # fmt: skip
            figures[what], row = refuse(what, command, expected, **environment)
            rows.append(row)
    return figures, rows
