r"""Container images: size, largest packages, labels, and seconds to the first label.

    python benchmarks/bench_container.py --engine podman \
        --images default=mediar:latest cpu=mediar-cpu:latest \
        --output benchmarks/results/container.json

Each run is a fresh container on one image, as in the challenge; it alternates with a container that
does nothing. Labels are compared with those of a plain process.
A file that exists keeps what it says of other images.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

from mediar_infer.demo.scenes import make_scene

SIDE = 512
N_PARTS = 12
LIST_PARTS = """
import os, site, sys
from pathlib import Path
def size(path):
    parts = [path, *path.rglob("*")] if path.is_dir() else [path]
    return sum(part.lstat().st_size for part in parts if part.is_file())
for path in Path(site.getsitepackages()[0]).iterdir():
    sys.stdout.write(f"{size(path)} {path.name}\\n")
"""


def write_scene(folder: Path) -> None:
    import cv2

    folder.mkdir()
    image, _ = make_scene("fluorescence", SIDE, SIDE, seed=0)
    cv2.imwrite(str(folder / "cells.png"), image)


def command(engine: str, image: str, folder: Path, labels: Path, *arguments: str) -> list[str]:
    return [
        engine, "run", "--rm", "--network", "none",
        "-v", f"{folder}:/workspace/inputs:ro", "-v", f"{labels}:/workspace/outputs",
        image, *arguments,
    ]  # fmt: skip


def run_fresh(started: list[str], label: Path) -> dict[str, float]:
    """Start a container that writes one label file; seconds to that file and to the end."""
    meter, begin = common.Meter(), time.perf_counter()
    process = subprocess.Popen(started)
    while not label.exists() and process.poll() is None:
        time.sleep(0.01)
    first_label_s = time.perf_counter() - begin
    if process.wait():
        raise SystemExit(f"{' '.join(started)}: exit code {process.returncode}")
    return {
        "first_label_s": first_label_s,
        "end_s": time.perf_counter() - begin,
        "others_cores": meter.others_cores(),
    }


def largest_parts(engine: str, image: str) -> dict[str, float]:
    """The largest installed packages, in MB."""
    listed = subprocess.run(
        [engine, "run", "--rm", "--network", "none", image, "python", "-I", "-c", LIST_PARTS],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    sizes = sorted((int(size), name) for size, name in map(str.split, listed.splitlines()))
    return {name: round(size / 1e6, 1) for size, name in sizes[: -N_PARTS - 1 : -1]}


def measure(engine: str, image: str, inputs: Path, expected: bytes, repeats: int) -> dict:
    inspected = subprocess.run(
        [engine, "image", "inspect", "--format", "{{.Size}}", image],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        labels = Path(folder)
        floor, runs, label, is_equal = [], [], labels / "cells_label.tiff", True
        for _ in range(repeats):
            floor.append(common.run_timed(command(engine, image, inputs, labels, "true")).wall_s)
            runs.append(run_fresh(command(engine, image, inputs, labels), label))
            is_equal &= label.read_bytes() == expected
            label.unlink()
    return {
        "mb": round(int(inspected) / 1e6),
        "largest_packages_mb": largest_parts(engine, image),
        "label_equals_plain_process": is_equal,
        "empty_container_s": common.spread(floor),
        "first_label_s": common.spread([run["first_label_s"] for run in runs]),
        "runs": runs,
    }


def plain_label(inputs: Path, labels: Path) -> bytes:
    options = ["-i", str(inputs), "-o", str(labels), "--device", "cpu", "--ledger", "none"]
    subprocess.run([sys.executable, "predict.py", *options], cwd=common.ROOT, check=True)
    return (labels / "cells_label.tiff").read_bytes()


def main() -> None:
    parser = common.make_parser(__doc__)
    parser.add_argument("--engine", default="docker", help="docker or podman")
    parser.add_argument(
        "--images", nargs="+", required=True, metavar="NAME=IMAGE",
        help="container images, each with a name for the report",
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=5, help="runs of each kind")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder, "images")
        write_scene(inputs)
        expected = plain_label(inputs, Path(folder, "labels"))
        results = {
            name: measure(args.engine, image, inputs, expected, args.repeats)
            for name, image in (each.split("=", 1) for each in args.images)
        }
    if args.output and args.output.exists():
        results = json.loads(args.output.read_text())["results"] | results
    common.write_report(args.output, common.metadata(side=SIDE, engine=args.engine), results)


if __name__ == "__main__":
    main()
