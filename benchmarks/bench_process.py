"""Whole processes with the full plan on a CPU: seconds by size and precision.

Every run is a process of its own, as in the challenge, without ``--fit-budget``; the precisions
alternate. One that the CPU has no instructions for is left out.

    python benchmarks/bench_process.py --output benchmarks/results/process.json
"""

import json
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import common
import cv2

from mediar_infer.demo.scenes import make_scene
from mediar_infer.network.backends.openvino_graph import has_bfloat16
from mediar_infer.tolerance import tolerance_s

PRECISIONS = ("float32", "bfloat16", "int8")


def measure_side(
    side: int, precisions: list[str], repeats: int, folder: Path
) -> list[dict[str, object]]:
    """Runs of one generated image of ``side`` × ``side`` pixels."""
    images, labels = folder / f"images_{side}", folder / f"labels_{side}"
    images.mkdir()
    cv2.imwrite(str(images / "cells.png"), make_scene("fluorescence", side, side, seed=0)[0])
    walls: dict[str, list[float]] = defaultdict(list)
    others: list[float] = []
    for _ in range(repeats):
        for precision in precisions:
            options = ["-i", str(images), "-o", str(labels), "--device", "cpu", "--quiet"]
            timed = common.run_timed(
                [sys.executable, "predict.py", *options, "--precision", precision]
            )
            walls[precision].append(timed.wall_s)
            others.append(timed.others_cores)
            print(json.dumps({"side": side, "precision": precision} | asdict(timed)), flush=True)
    return [
        {
            "side": side,
            "precision": precision,
            "wall_s": common.spread(walls[precision]),
            "tolerance_s": tolerance_s(side, side),
            "others_cores": max(others),
        }
        for precision in precisions
    ]


def main() -> None:
    parser = common.make_parser(__doc__)
    parser.add_argument(
        "--sides", type=int, nargs="+", default=[1000, 2000],
        help="sides of the generated images in pixels",
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=3, help="runs of each size and precision")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    precisions = [name for name in PRECISIONS if name != "bfloat16" or has_bfloat16()]
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        for side in args.sides:
            results += measure_side(side, precisions, args.repeats, Path(scratch))
    common.write_report(args.output, common.metadata(), results)


if __name__ == "__main__":
    main()
