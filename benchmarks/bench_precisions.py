r"""int8 and bfloat16 against float32 on a CPU: F1, difference of the maps, speed.

All precisions segment the same labelled images with the same plan; scores are the challenge's (IoU
0.5). The images are a sample of ``manifest.csv``, the kinds in turn. Speed is that of one member,
the precisions alternating in one process, with one thread and with two: seconds of wall and of CPU
time per window, and their ratios. On a machine that others use, the ratios of CPU time count.
bfloat16 is left out where the CPU has no instructions for it; where it has, int8 is mixed with it.

    python -m mediar_infer.training quantize weights --table table.csv
    python benchmarks/bench_precisions.py --data data/cells data/cells2 --images 60 \
        --output benchmarks/results/precisions.json

``--images 0`` leaves only the speed, for instance for a machine with VNNI.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import common
import numpy as np
import tifffile

from mediar_infer import EngineConfig, RuntimeConfig, Segmenter
from mediar_infer.config import PLANS
from mediar_infer.demo.scenes import make_scene
from mediar_infer.labels.metrics import evaluate_labels
from mediar_infer.network.backends import Backend
from mediar_infer.network.backends.openvino_graph import has_bfloat16

EXACT = "float32"
MOST_MEAN_LOSS = 0.003
MOST_LOSS = 0.1
FEWEST_CELLS = 3
"""Images with fewer cells may lose more: one cell is much of their F1."""


def find_reduced() -> list[str]:
    """Precisions below float32 that this CPU computes in."""
    return ["bfloat16", "int8"] if has_bfloat16() else ["int8"]


class Recorder:
    """A member whose logits are kept."""

    def __init__(self, member: Backend) -> None:
        self._member = member
        self.name, self.precision = member.name, member.precision
        self.device, self.batch = member.device, member.batch
        self.logits: list[np.ndarray] = []

    def start(self, inputs: np.ndarray) -> Callable[[], np.ndarray]:
        finish = self._member.start(inputs)

        def finish_and_keep() -> np.ndarray:
            logits = finish()
            self.logits += [window.copy() for window in logits]
            return logits

        return finish_and_keep


@dataclass
class Differences:
    """Differences of logits, summed up over windows."""

    n_windows: int = 0
    means: list[np.ndarray] = field(default_factory=list)
    largest: np.ndarray = field(default_factory=lambda: np.zeros(3))
    flipped: list[float] = field(default_factory=list)

    def add(self, exact: np.ndarray, rounded: np.ndarray) -> None:
        difference = np.abs(rounded - exact)
        self.n_windows += 1
        self.means.append(difference.mean(axis=(1, 2)))
        self.largest = np.maximum(self.largest, difference.max(axis=(1, 2)))
        self.flipped.append(float(((rounded[2] > 0) != (exact[2] > 0)).mean()))

    def summary(self) -> dict[str, Any]:
        names = ("flow_y", "flow_x", "cellprob_logit")
        means = np.mean(self.means, axis=0)
        return {
            "windows": self.n_windows,
            "mean_difference": dict(zip(names, means.tolist(), strict=True)),
            "largest_difference": dict(zip(names, self.largest.tolist(), strict=True)),
            "foreground_pixels_changed": fmean(self.flipped),
        }


def load(weights: list[Path], plan: str, precision: str, threads: int = 0) -> Segmenter:
    runtime = RuntimeConfig(device="cpu", precision=precision, threads=threads)
    return Segmenter.from_weights(weights, EngineConfig(plan=PLANS[plan], runtime=runtime))


def choose_rows(folders: list[Path], split: str, n_images: int) -> list[dict[str, str]]:
    """Rows of the manifests, the kinds of images in turn."""
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    for folder in folders:
        for row in common.read_rows(folder, split):
            groups[row["modality"]].append(row | {"folder": str(folder)})
    for _, rows in sorted(groups.items()):
        Random(0).shuffle(rows)
    longest = max(map(len, groups.values()), default=0)
    turns = [rows[i] for i in range(longest) for _, rows in sorted(groups.items()) if i < len(rows)]
    return turns[:n_images]


def score(
    weights: list[Path], plan: str, rows: list[dict[str, str]], reduced: list[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """F1 of all precisions on each image, and how far their maps are from those of float32."""
    recorders: dict[str, list[Recorder]] = {}
    segmenters: dict[str, Segmenter] = {}
    for precision in (EXACT, *reduced):
        loaded = load(weights, plan, precision)
        recorders[precision] = [Recorder(member) for member in loaded.members]
        segmenters[precision] = Segmenter(recorders[precision], loaded.config)
    differences, images = {each: Differences() for each in reduced}, []
    for row in rows:
        folder = Path(row["folder"])
        image = common.read_image(folder / row["image"])
        true = tifffile.imread(folder / row["label"])
        entry: dict[str, Any] = {
            "id": row["id"], "modality": row["modality"], "n_cells": int(row["n_cells"]),
        }  # fmt: skip
        for precision, segmenter in segmenters.items():
            labels = segmenter.segment(image).labels
            entry[precision] = evaluate_labels(true, labels)[0].f1
        for precision, difference in differences.items():
            for exact, rounded in zip(recorders[EXACT], recorders[precision], strict=True):
                for pair in zip(exact.logits, rounded.logits, strict=True):
                    difference.add(*pair)
                rounded.logits.clear()
        for exact in recorders[EXACT]:
            exact.logits.clear()
        images.append(entry)
        print(row["id"], *(f"{entry[each]:.4f}" for each in segmenters), flush=True)
    return {each: difference.summary() for each, difference in differences.items()}, images


def group_scores(images: list[dict[str, Any]], reduced: list[str]) -> dict[str, dict[str, float]]:
    """Mean F1 of all images and of each kind."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in images:
        groups["all"].append(entry)
        groups[entry["modality"]].append(entry)
    return {
        name: {"n_images": len(rows)}
        | {p: fmean(row[p] for row in rows) for p in (EXACT, *reduced)}
        for name, rows in sorted(groups.items())
    }


def compute_losses(images: list[dict[str, Any]], precision: str) -> dict[str, Any]:
    """What a precision loses of the F1 of float32, and whether the targets are met."""
    losses = {entry["id"]: entry[EXACT] - entry[precision] for entry in images}
    counted = [entry["id"] for entry in images if entry["n_cells"] >= FEWEST_CELLS]
    worst = max(counted, key=lambda name: losses[name])
    mean_loss = fmean(losses.values())
    return {
        "mean_loss": mean_loss,
        "worst": {"id": worst, "loss": losses[worst]},
        "images_changed_by_0.02": sum(abs(loss) > 0.02 for loss in losses.values()),
        "meets_targets": mean_loss <= MOST_MEAN_LOSS and losses[worst] <= MOST_LOSS,
    }


def measure_speed(
    weights: list[Path], threads: int, repeats: int, reduced: list[str]
) -> dict[str, Any]:
    """Seconds per window of all precisions, alternating."""
    precisions = (EXACT, *reduced)
    members = {each: load(weights, "fast", each, threads).members[0] for each in precisions}
    scene, _ = make_scene("stained", 512, 512, seed=0)
    window = scene.transpose(2, 0, 1).astype(np.float32) / 255
    windows = np.stack([window] * threads)
    wall: dict[str, list[float]] = defaultdict(list)
    cpu: dict[str, list[float]] = defaultdict(list)
    busy = common.Meter()
    for i in range(repeats + 1):
        for precision, member in members.items():
            started, used = time.perf_counter(), time.process_time()
            member.start(windows)()
            if i:  # the first allocates
                wall[precision].append((time.perf_counter() - started) / threads)
                cpu[precision].append((time.process_time() - used) / threads)
    result: dict[str, Any] = {"threads": threads, "others_cores": busy.others_cores()}
    for name, seconds in (("wall_s", wall), ("cpu_s", cpu)):
        spreads = {each: common.spread(seconds[each]) for each in precisions}
        result[name] = spreads
        result[f"{name}_ratio"] = {
            precision: {
                which: spreads[EXACT][which] / spreads[precision][which]
                for which in ("median", "min")
            }
            for precision in reduced
        }
    return result


def main() -> None:
    parser = common.make_parser(__doc__)
    parser.add_argument("--data", type=Path, nargs="+", default=[], help="folders of manifest.csv")
    parser.add_argument(
        "--split", default="train", choices=("train", "val"),
        help="split of the manifest whose images are used",
    )  # fmt: skip
    parser.add_argument("--images", type=int, default=60, help="at most as many")
    parser.add_argument("--plan", default="fast", choices=list(PLANS), help="plan of the engine")
    parser.add_argument(
        "--weights", type=Path, nargs="+", default=[],
        help="one or two weight files, or their folder; by default the shipped pair",
    )  # fmt: skip
    parser.add_argument(
        "--repeats", type=int, default=15, help="windows per precision; 0: no speed"
    )
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    reduced = find_reduced()
    results: dict[str, Any] = {"plan": args.plan, "split": args.split}
    if args.data and args.images:
        rows = choose_rows(args.data, args.split, args.images)
        results["maps"], images = score(args.weights, args.plan, rows, reduced)
        results["groups"] = group_scores(images, reduced)
        results["losses"] = {each: compute_losses(images, each) for each in reduced}
    if args.repeats:
        results["speed"] = [measure_speed(args.weights, n, args.repeats, reduced) for n in (1, 2)]
    print(json.dumps(results, indent=2))
    if args.data and args.images:
        results["images"] = images
    digests = load(args.weights, args.plan, "int8").digests
    common.write_report(args.output, common.metadata(weights=digests), results)
    missed = [
        f"{precision}: found a mean loss of {loss['mean_loss']:.4f} and one of"
        f" {loss['worst']['loss']:.3f}, expected at most {MOST_MEAN_LOSS} and {MOST_LOSS}"
        for precision, loss in results.get("losses", {}).items()
        if not loss["meets_targets"]
    ]
    if missed:
        raise SystemExit("\n".join(missed))


if __name__ == "__main__":
    main()
