r"""Peak memory of ``predict`` on slides of growing size, default pair, a fresh process each.

The peak is the kernel's (``ru_maxrss`` of the child), reported next to that of ``import torch``
alone. It grows with the width; beyond about 1,500 rows the height adds nothing. One pass of one
model is quick. With ``--cell-columns`` the rest of the slide is blank, so few of its windows are
predicted and the full plan is quick too; the rows in memory are as wide as ever.

    python benchmarks/bench_memory.py --sizes 8415x10496 --output benchmarks/results/memory.json
    python benchmarks/bench_memory.py --sizes 2000x40000 \
        --output benchmarks/results/memory_wide.json
    python benchmarks/bench_memory.py --sizes 1600x40000 --cell-columns 1500 \
        --output benchmarks/results/memory_paper.json -- --plan paper
    python benchmarks/bench_memory.py --sizes 40000x40000 --cell-columns 3000 \
        --output benchmarks/results/memory_40000.json
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import common
import numpy as np
from bench_slide import write_slide
from slides import SlideScene

CHEAP = ["--models", "1", "--flips", "none", "--overlap", "0"]
LIMIT_BYTES = 1.5e9
"""Target: this and what a bare ``import torch`` holds."""


@dataclass(frozen=True)
class PartOfScene(SlideScene):
    """A slide with cells in its first columns only."""

    cell_columns: int = 0

    def render_rows(self, top: int, bottom: int) -> np.ndarray:
        rows = super().render_rows(top, bottom)
        rows[:, self.cell_columns :] = rows[:, :1]  # no cell touches the slide's edge
        return rows


def run_child(command: list[str]) -> tuple[float, int]:
    """Run a command to its end; seconds and the peak of its resident memory in bytes."""
    started = time.perf_counter()
    child = subprocess.Popen(command, cwd=common.ROOT)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit code {child.returncode}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024


def measure(scene: PartOfScene, folder: Path, options: list[str]) -> dict[str, object]:
    """Write one slide and segment it."""
    slide, labels, height, width = (
        folder / "slide.tif",
        folder / "labels",
        scene.height,
        scene.width,
    )
    write_slide(slide, scene)
    command = [sys.executable, "predict.py", "--quiet", "-i", str(slide), "-o", str(labels)]
    meter = common.Meter()
    seconds, peak_bytes = run_child([*command, *options])
    record = json.loads((labels / "ledger.jsonl").read_text().splitlines()[-1])
    result = {
        "height": height,
        "width": width,
        "megapixels": height * width / 1e6,
        "process_s": seconds,
        "others_cores": meter.others_cores(),
        "stages_s": record["stages_s"],
        "tolerance_s": record["tolerance_s"],
        "plan": record["plan"],
        "cell_columns": scene.cell_columns,
        "n_cells": record["n_cells"],
        "peak_bytes": peak_bytes,
        "raw_image_bytes": 3 * height * width,
        "image_file_bytes": slide.stat().st_size,
        "raw_label_bytes": 4 * height * width,
        "label_file_bytes": (labels / record["output"]).stat().st_size,
    }
    slide.unlink()
    return result


def main() -> None:
    parser = common.make_parser(__doc__)
    parser.add_argument(
        "--sizes", nargs="+", default=["8415x10496", "2000x40000"],
        help="heights and widths of the slides in pixels",
    )  # fmt: skip
    parser.add_argument("--cell-columns", type=int, help="the rest is blank; by default all")
    parser.add_argument("--folder", type=Path, help="scratch folder with room for the slide")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("options", nargs="*", help=f"options of predict, after -- ({CHEAP})")
    args = parser.parse_args()
    _, torch_bytes = run_child([sys.executable, "-c", "import torch"])
    results: dict[str, object] = {
        "import_torch_bytes": torch_bytes,
        "limit_bytes": LIMIT_BYTES + torch_bytes,
        "slides": (slides := []),
    }
    for size in args.sizes:
        height, width = map(int, size.split("x"))
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            scene = PartOfScene(height, width, cell_columns=args.cell_columns or width)
            slides.append(measure(scene, Path(folder), args.options or CHEAP))
        print(json.dumps(slides[-1], indent=2), flush=True)
        common.write_report(args.output, common.metadata(), results)


if __name__ == "__main__":
    main()
