"""``predict --dask``: seconds with 1, 2, … local workers, on many small images and on one slide.

Each worker has one thread. A run is a fresh process; it reports the time from the start of the
first task to the last record, by the ledger, and that of the whole process. Labels are compared
with those of a run without a cluster, byte by byte. ``efficiency`` compares with one worker,
``speedup`` with the run without a cluster, whose one thread also makes the labels. ``cpu_s`` counts
all processes of a run, so work that is done twice shows there on a busy machine as well.

    python benchmarks/bench_dask.py --output benchmarks/results/dask.json
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

import common
import tifffile
from bench_slide import write_slide
from slides import SlideScene

from mediar_infer.demo.scenes import make_scene

KINDS = ("fluorescence", "phase", "stained", "bacteria")


def write_images(folder: Path, n_images: int, side: int) -> None:
    """Generated images of all kinds."""
    folder.mkdir()
    for i in range(n_images):
        image, _ = make_scene(KINDS[i % len(KINDS)], side, side, seed=i)
        tifffile.imwrite(folder / f"image_{i:03d}.tif", image)


def time_run(inputs: Path, outputs: Path, options: list[str]) -> dict[str, object]:
    """Run one fresh process; seconds around it, and from the first image's start to the end."""
    command = [
        sys.executable, "-m", "mediar_infer", "predict", "--quiet", "--threads", "1",
        "-i", str(inputs), "-o", str(outputs), *options,
    ]  # fmt: skip
    load, started, cpu_s = os.getloadavg()[0], time.perf_counter(), common.children_s()
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    process_s = time.perf_counter() - started
    if finished.returncode != 0:
        raise RuntimeError(f"exit code {finished.returncode}: {finished.stderr[-500:]}")
    ledger = outputs / "ledger.jsonl"
    records = [json.loads(line) for line in ledger.read_text().splitlines()]
    ended_at = datetime.fromtimestamp(ledger.stat().st_mtime, UTC)
    began_at = min(datetime.fromisoformat(record["started_at"]) for record in records)
    return {
        "process_s": process_s,
        "cpu_s": common.children_s() - cpu_s,
        "work_s": (ended_at - began_at).total_seconds(),
        "image_s": [record["wall_s"] for record in records],
        "stages_s": records[0]["stages_s"],
        "workers": sorted({record["worker"] for record in records if record["worker"]}),
        "load_average": load,
    }


def same_labels(one: Path, two: Path) -> bool:
    """Whether two folders hold the same label files."""
    files = [{path.name: path.read_bytes() for path in d.glob("*_label.tiff")} for d in (one, two)]
    return files[0] == files[1]


def bench_inputs(name: str, inputs: Path, args: argparse.Namespace) -> list[dict[str, object]]:
    """Run without a cluster, then with each number of workers in turn, several times."""
    runs: dict[int, list[dict[str, object]]] = {n: [] for n in (0, *args.workers)}
    equal = dict.fromkeys(runs, True)
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        reference = Path(scratch) / "0_0"
        for repeat in range(args.repeats):
            for n_workers, results in runs.items():
                outputs = Path(scratch) / f"{n_workers}_{repeat}"
                dask = ["--dask", f"local:{n_workers}"] if n_workers else []
                results.append(time_run(inputs, outputs, [*args.options, *dask]))
                equal[n_workers] &= same_labels(reference, outputs)
                print(name, n_workers, f"{results[-1]['work_s']:.1f} s", flush=True)
    times = {n: median(float(each["work_s"]) for each in results) for n, results in runs.items()}
    first = times[args.workers[0]] * args.workers[0]
    return [
        {
            "inputs": name,
            "workers": n_workers,
            "median_work_s": times[n_workers],
            "efficiency": first / (times[n_workers] * n_workers) if n_workers else None,
            "speedup": times[0] / times[n_workers],
            "median_cpu_s": median(float(each["cpu_s"]) for each in results),
            "labels_equal": equal[n_workers],
            "runs": results,
        }
        for n_workers, results in runs.items()
    ]


def main() -> None:
    parser = common.make_parser(__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--images", type=int, default=32, help="number of small images")
    parser.add_argument("--side", type=int, default=1000, help="their side in pixels")
    parser.add_argument("--slide-side", type=int, default=6000, help="0: no slide")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1, 2], help="numbers of local workers"
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs of each kind")
    parser.add_argument("--folder", type=Path, help="scratch folder with room for the slide")
    parser.add_argument("options", nargs="*", metavar="-- OPTIONS", help="passed on to predict")
    args = parser.parse_args()
    metadata = common.metadata(
        threads_per_worker=1, distributed=version("distributed"), options=args.options
    )
    results: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        if args.images:
            inputs = Path(folder) / "images"
            write_images(inputs, args.images, args.side)
            results += bench_inputs(f"{args.images} images of {args.side}²", inputs, args)
        if args.slide_side:
            slide = Path(folder) / "slide.tif"
            write_slide(slide, SlideScene(args.slide_side, args.slide_side))
            results += bench_inputs(f"slide of {args.slide_side}²", slide, args)
    common.write_report(args.output, metadata, results)


if __name__ == "__main__":
    main()
