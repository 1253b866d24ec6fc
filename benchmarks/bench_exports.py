"""What exports cost: each kind on a generated slide's labels, and ``predict`` with and without.

``export`` runs once per kind on the label file of a slide with tens of thousands of cells, each in
a fresh process; its peak memory is reported next to that of an export of a single cell.
``predict`` runs on a slide with a network that reads the cells off its colours instead of weights,
so that its peak is that of everything around a network. Seconds of CPU are reported beside those
that passed, which other programs prolong.

    python benchmarks/bench_exports.py --output benchmarks/results/exports.json
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import numpy as np
from bench_slide import ROWS, write_slide
from slides import SlideScene

from mediar_infer.labels.files import write_labels

KINDS = {
    "geojson": ["--geojson"],
    "gzip": ["--gzip"],
    "rois": ["--rois"],
    "table": ["--table", "cells.csv"],
}
RUNS = {
    "plain": [],
    "table": ["--table", "cells.csv"],
    "all": ["--table", "cells.csv", "--geojson", "--rois", "--report"],
}
RUN = """
import sys
from pathlib import Path
from mediar_infer import cli

code = cli.main(sys.argv[1:])
# Of this program alone; what the system says of a child includes its parent's memory.
status = Path("/proc/self/status").read_text()
print("VmHWM", *(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
sys.exit(code)
"""
DECODER = """
from fakes import FunctionBackend
from slides import decode_scene
from mediar_infer.segmenter import Segmenter

def from_pending(loading):
    return Segmenter([FunctionBackend(decode_scene)], loading.config, {"scene": "0" * 64})

Segmenter.from_pending = from_pending
"""


def run_command(*arguments: object, before: str = "") -> dict[str, float]:
    """Run a command of the package in a process of its own; its times and its peak."""
    program = f"import sys; sys.path.append({str(common.ROOT / 'tests')!r})\n{before}{RUN}"
    started = time.perf_counter()
    before_s = common.children_s()
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments), "--quiet"],
        cwd=common.ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {
        "seconds": time.perf_counter() - started,
        "cpu_s": common.children_s() - before_s,
        "peak_bytes": int(done.stdout.split("VmHWM")[-1]) * 1024,
    }


def measure_exports(scene: SlideScene, folder: Path) -> dict[str, object]:
    """Export the true labels of a slide, a process per kind."""
    labels, one = folder / "slide_label.tiff", folder / "one_label.tiff"
    bands = (
        scene.label_rows(top, min(top + ROWS, scene.height)) for top in range(0, scene.height, ROWS)
    )
    write_labels(labels, bands, height=scene.height, width=scene.width)
    write_labels(one, [np.eye(3, dtype=int)], height=3, width=3)
    results: dict[str, object] = {"height": scene.height, "width": scene.width}
    results["n_cells"] = scene.n_cells
    for kind, options in KINDS.items():
        meter = common.Meter()
        least = run_command("export", one, "-o", folder, *options)
        record = run_command("export", labels, "-o", folder, *options)
        results[kind] = record | {
            "bytes_above_one_cell": record["peak_bytes"] - least["peak_bytes"],
            "others_cores": meter.others_cores(),
        }
        print(kind, json.dumps(results[kind]), flush=True)
    return results


def measure_predict(scene: SlideScene, folder: Path) -> dict[str, object]:
    """Segment a slide with and without exports."""
    slide = folder / "slide.tif"
    write_slide(slide, scene)
    results: dict[str, object] = {"height": scene.height, "width": scene.width}
    peaks = {}
    for name, options in RUNS.items():
        outputs = folder / name
        command = ["predict", "-i", slide, "-o", outputs, "--plan", "fast", "--device", "cpu"]
        meter = common.Meter()
        measured = run_command(*command, *options, before=DECODER)
        peaks[name] = measured["peak_bytes"]
        record = json.loads((outputs / "ledger.jsonl").read_text().splitlines()[-1])
        results[name] = measured | {
            "peak_relative_to_plain": peaks[name] / peaks["plain"],
            "n_cells": record["n_cells"],
            "stages_s": record["stages_s"],
            "others_cores": meter.others_cores(),
        }
        print(name, json.dumps(results[name]), flush=True)
    return results


def main() -> None:
    parser = common.make_parser(__doc__)
    parser.add_argument("--export-side", type=int, default=9700, help="40,401 cells at 9,700")
    parser.add_argument(
        "--predict-side", type=int, default=12_000,
        help="side of the slide that is segmented, in pixels",
    )  # fmt: skip
    parser.add_argument("--folder", type=Path, help="scratch folder with room for the slides")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    results = {}
    for name, side, measure in (
        ("export", args.export_side, measure_exports),
        ("predict", args.predict_side, measure_predict),
    ):
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            results[name] = measure(SlideScene(side, side), Path(folder))
        common.write_report(args.output, common.metadata(), results)


if __name__ == "__main__":
    main()
