r"""``predict --fit-budget``: is every image in time, is the prediction right, what does it cost?

Images from 256x256 to 4000x4000 pixels, a fresh process each, as the challenge's organisers do. The
seconds reported are those around the whole process. With ``--slowdown 3`` every image runs once
more, and from half its time on the process is stopped for two thirds of the time, which makes all
of it three times slower: network, labels and writing alike.

    python benchmarks/bench_fit_budget.py --output benchmarks/results/fit_budget.json --slowdown 3
    python benchmarks/bench_fit_budget.py --steps --data DIR \
        --output benchmarks/results/fit_budget_steps.json

The second form gives the mean F1 of each step of the ladder on the val split of labelled images.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import common
import numpy as np
import tifffile
from bench_val_f1 import labels_of, score_methods

from mediar_infer import EngineConfig, Plan, Segmenter
from mediar_infer.demo.scenes import make_scene
from mediar_infer.engine.plans import LADDER, ladder_below
from mediar_infer.tolerance import tolerance_s

SIDES = (256, 4000)
ASPECTS = (1.0, 1.5, 0.6)
KINDS = ("fluorescence", "phase", "stained", "bacteria")
SCENE_SIDE = 1000
RUN_S = 0.02
"""A slowed process runs this long between its stops."""


def list_sizes(n_images: int) -> list[tuple[int, int]]:
    """Sizes in equal ratios from the smallest to the largest square, some wide and some tall."""
    sizes = []
    for i, side in enumerate(np.geomspace(*SIDES, n_images)):
        aspect = 1.0 if i in (0, n_images - 1) else ASPECTS[i % len(ASPECTS)]
        sizes.append((round(side / aspect**0.5), round(side * aspect**0.5)))
    return sizes


def to_size(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Crop from the corner, or continue with mirrored copies."""
    missing = [(0, max(0, n - have)) for n, have in zip((height, width), image.shape, strict=False)]
    padded = np.pad(image, missing + [(0, 0)] * (image.ndim - 2), mode="symmetric")
    return np.ascontiguousarray(padded[:height, :width])


def generate_images(n_images: int, data: Path | None) -> Iterator[np.ndarray]:
    """Images of the listed sizes: generated scenes, or parts of labelled images in ``data``."""
    rows = common.read_rows(data) if data else []
    for i, (height, width) in enumerate(list_sizes(n_images)):
        if data:
            image = common.read_image(data / rows[i % len(rows)]["image"])
        else:
            kind = KINDS[i % len(KINDS)]
            image, _ = make_scene(kind, min(height, SCENE_SIDE), min(width, SCENE_SIDE), seed=i)
        yield to_size(image, height, width)


def slow_down(process: subprocess.Popen[str], after_s: float, factor: float) -> None:
    """Alternately stop and continue a child process, from a time on until it ends."""
    time.sleep(after_s)
    while process.poll() is None:
        process.send_signal(signal.SIGSTOP)
        time.sleep(RUN_S * (factor - 1))
        process.send_signal(signal.SIGCONT)
        time.sleep(RUN_S)


def run_predict(options: list[str], slowdown: tuple[float, float] | None) -> float:
    """Run ``predict --fit-budget`` in a fresh process; seconds around it."""
    command = [sys.executable, "-m", "mediar_infer", "predict", "--quiet", "--fit-budget", *options]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if slowdown:
        threading.Thread(target=slow_down, args=(process, *slowdown), daemon=True).start()
    _, errors = process.communicate()
    real_s = time.perf_counter() - started
    if process.returncode != 0:
        raise RuntimeError(f"{options}: exit code {process.returncode}: {errors[-500:]}")
    return real_s


def time_image(
    path: Path, options: list[str], slowdown: tuple[float, float] | None = None
) -> dict[str, object]:
    """One fresh process: seconds around it and what its ledger says.

    Args:
        path: the image.
        options: further options of ``predict``.
        slowdown: seconds from which the process is slowed, and how many times.
    """
    with tempfile.TemporaryDirectory() as folder:
        load = os.getloadavg()[0]
        real_s = run_predict(["-i", str(path), "-o", folder, *options], slowdown)
        record = json.loads((Path(folder) / "ledger.jsonl").read_text().splitlines()[-1])
    budget, limit_s = record["budget"], tolerance_s(record["height"], record["width"])
    return {
        "plan": budget["plan"]["name"],
        "last_plan": (budget["changes"] or [budget])[-1]["plan"]["name"],
        "predicted_s": budget["predicted_s"],
        "real_s": real_s,
        "ledger_s": record["wall_s"],
        "tolerance_s": limit_s,
        "within": real_s <= limit_s,
        "load_average": load,
        "budget": budget,
        "stages_s": record["stages_s"],
        "n_cells": record["n_cells"],
        "warnings": record["warnings"],
    }


def run_images(args: argparse.Namespace) -> None:
    """Time every image, and write the results so far after each."""
    results: list[dict[str, object]] = []
    for i, image in enumerate(generate_images(args.images, args.data)):
        height, width = image.shape[:2]
        if args.max_side and max(height, width) > args.max_side:
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"image_{i:02d}.tif"
            tifffile.imwrite(path, image)
            result = {"height": height, "width": width, **time_image(path, args.options)}
            if args.slowdown:
                half_way = (result["real_s"] / 2, args.slowdown)
                result["slowed"] = time_image(path, args.options, half_way)
        results.append(result)
        for name, each in (("", result), ("slowed ", result.get("slowed"))):
            if each:
                print(
                    f"{height}x{width} {name}{each['plan']} → {each['last_plan']}:"
                    f" {each['predicted_s']:.1f} s predicted, {each['real_s']:.1f} s of"
                    f" {each['tolerance_s']:.1f} s{'' if each['within'] else ', LATE'}",
                    flush=True,
                )
        late = {
            "plain": sum(not result["within"] for result in results),
            "slowed": sum(not result["slowed"]["within"] for result in results if args.slowdown),
        }
        metadata = common.metadata(slowdown=args.slowdown, options=args.options)
        common.write_report(args.output, metadata, results, n_late=late)


def run_steps(args: argparse.Namespace) -> None:
    """Mean F1 at 0.5 of each step on the val split."""
    pair = Segmenter.from_weights(config=EngineConfig(plan=Plan()))
    methods = {
        plan.name: labels_of(Segmenter(pair.members, replace(pair.config, plan=plan)))
        for plan in ladder_below(Plan(), len(pair.members))
    }
    results, per_image = score_methods(
        methods, args.data, common.read_rows(args.data, limit=args.limit)
    )
    best = results[LADDER[0].name]["groups"]["all"]["mean_f1"]
    for result in results.values():
        result["f1_given_up"] = best - result["groups"]["all"]["mean_f1"]
    common.write_report(args.output, common.metadata(split="val"), results, images=per_image)


def main() -> None:
    parser = common.make_parser(__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--images", type=int, default=40, help="number of sizes")
    parser.add_argument("--max-side", type=int, help="omit larger images, for a trial")
    parser.add_argument("--slowdown", type=float, help="also run slowed so many times half-way")
    parser.add_argument("--data", type=Path, help="images/, labels/, manifest.csv")
    parser.add_argument("--steps", action="store_true", help="F1 of each step instead of times")
    parser.add_argument("--limit", type=int, help="with --steps: only the first images")
    parser.add_argument("options", nargs="*", metavar="-- OPTIONS", help="passed on to predict")
    args = parser.parse_args()
    if args.steps and not args.data:
        parser.error("--steps needs --data")
    if args.steps:
        run_steps(args)
    else:
        run_images(args)


if __name__ == "__main__":
    main()
