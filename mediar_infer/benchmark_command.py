"""The ``benchmark`` command: one fresh process per image, timed as the organisers do."""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mediar_infer.budget import counted_s, tolerance_s
from mediar_infer.errors import UsageError
from mediar_infer.output_files import write_bytes

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``benchmark`` command."""
    parser.add_argument("-i", "--input", type=Path, required=True, help="folder of images")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument(
        "predict_options", nargs=argparse.REMAINDER, metavar="-- OPTIONS",
        help="options passed on to predict",
    )  # fmt: skip


def _time_image(path: Path, options: list[str]) -> dict[str, Any]:
    """Wall time around a whole process, its ledger record, and the time that counts."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "mediar_infer", "predict", "--quiet",
            "-i", str(path), "-o", folder, *options,
        ]  # fmt: skip
        started = time.perf_counter()
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        wall_s = time.perf_counter() - started
        ledger = Path(folder) / "ledger.jsonl"
        lines = ledger.read_text().splitlines() if ledger.exists() else []
    result: dict[str, Any] = {
        "file": path.name, "exit_code": finished.returncode, "wall_s": wall_s,
    }  # fmt: skip
    if not lines or finished.returncode != 0:
        return result | {"error": finished.stderr.strip()[-500:]}
    record = json.loads(lines[-1])
    height, width = record["height"], record["width"]
    return result | {
        "height": height,
        "width": width,
        "n_cells": record["n_cells"],
        "tolerance_s": tolerance_s(height, width),
        "counted_s": counted_s(wall_s, height, width),
        "stages_s": record["stages_s"],
        "peak_memory_bytes": record["peak_memory_bytes"],
        "device": record["device"],
        "plan": record["plan"],
        "versions": record["versions"],
    }


def run(args: argparse.Namespace) -> int:
    """Time every image; 1 if one failed or was late.

    Raises:
        UsageError: if there is no image.
    """
    from mediar_infer.images import list_images

    images, _ = list_images(args.input)
    if not images:
        raise UsageError(f"{args.input}: found no image, expected one or more")
    options = [option for option in args.predict_options if option != "--"]
    results = []
    for path in images:
        result = _time_image(path, options)
        results.append(result)
        if "error" in result:
            logger.error("%s: exit code %d: %s", path.name, result["exit_code"], result["error"])
            continue
        sys.stdout.write(
            f"{path.name}: {result['height']}x{result['width']}, {result['wall_s']:.2f} s of"
            f" {result['tolerance_s']:.1f} s, counted {result['counted_s']:.2f} s\n"
        )
    counted = sum(result.get("counted_s", 0.0) for result in results)
    sys.stdout.write(f"{len(results)} images, counted time {counted:.2f} s\n")
    report = {"images": results, "counted_s": counted, "options": options}
    write_bytes(args.output, json.dumps(report, indent=2).encode() + b"\n")
    return int(any("error" in result or result["counted_s"] > 0 for result in results))
