"""The label stage side by side with Cellpose's on the same flows and the same device.

    pip install cellpose
    python benchmarks/bench_labels.py --output benchmarks/results/labels.json
    python benchmarks/bench_labels.py --device cuda --output benchmarks/results/labels_gpu.json

Flows are the unit flows of generated touching cells, smoothed and with noise, times five.
Everything runs in one process with the same number of threads. On a GPU our labels are also
compared with those of the compiled loops, pixel by pixel.
"""

import json
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import common
import cv2
import numpy as np
import torch

from mediar_infer.arrays import CELLPROB, FLOW_SCALE
from mediar_infer.demo.scenes import Placement, place_cells
from mediar_infer.devices import describe_device, usable_cores
from mediar_infer.folder.provenance import package_versions
from mediar_infer.labels.flows import compute_unit_flow
from mediar_infer.labels.holes import fill_rows
from mediar_infer.labels.kernels import Frame, LabelKernels
from mediar_infer.labels.kernels.compiled import CompiledKernels, load_library
from mediar_infer.labels.kernels.tensors import TorchKernels
from mediar_infer.labels.masks import compute_labels, foreground_of, remove_small
from mediar_infer.labels.metrics import evaluate_labels

T = TypeVar("T")


def make_maps(side: int, seed: int, giant: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw labels and maps ``(3, side, side)``; ``giant`` is the radius of one extra large cell."""
    rng = np.random.default_rng(seed)
    labels, _ = place_cells(side, side, Placement((8, 16), (1.0, 1.8), 700, 0), rng)
    if giant:
        y, x = np.mgrid[:side, :side] - side // 2
        inside = y**2 + x**2 < giant**2
        labels[np.isin(labels, np.unique(labels[inside]))] = 0
        labels[inside] = labels.max() + 1
    flow = [cv2.GaussianBlur(each, (0, 0), 0.7) for each in compute_unit_flow(labels)]
    flow = FLOW_SCALE * np.stack(flow) + rng.normal(0, 0.3, (2, side, side))
    logits = np.where(labels > 0, 6.0, -6.0) + rng.normal(0, 1, labels.shape)
    return labels, np.concatenate([flow, logits[None]]).astype(np.float32)


def best_of(n: int, run: Callable[[], T]) -> tuple[float, T]:
    """Return the shortest time in seconds, and the last result."""
    seconds = []
    for _ in range(n):
        started = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - started)
    return min(seconds), result


def time_steps(maps: np.ndarray, kernels: LabelKernels) -> dict[str, float]:
    """Time the steps of the label stage one by one."""
    steps: dict[str, float] = {}

    def timed(name: str, run: Callable[[], T]) -> T:
        steps[name], result = best_of(3, run)
        return result

    height, width = maps.shape[1:]
    is_cell = timed("clean", lambda: remove_small(foreground_of(maps[CELLPROB], 0.5), 16))
    flow = np.ascontiguousarray(maps[:CELLPROB])
    ends, n = timed("track", lambda: kernels.track(flow, is_cell, Frame(0, 0, height, width)))
    steps["track_ns_per_point_step"] = steps["track"] / n / 200 * 1e9
    hits = np.zeros((height, width), np.int32)
    kernels.add_hits(ends, hits)
    seeds, basins = timed("seeds and basins", lambda: kernels.find_basins(hits, 0, height, 1))
    labels = timed("look-up", lambda: basins.ravel()[ends])
    warmth = timed("diffuse", lambda: kernels.diffuse(labels, len(seeds), same_iterations=True))
    errors = np.zeros(len(seeds) + 1)
    timed("flow errors", lambda: kernels.add_flow_errors(labels, warmth, flow, errors))
    timed("fill holes", lambda: fill_rows(labels.copy(), is_bottom=True))
    return steps


def our_labels(maps: np.ndarray, kernels: LabelKernels) -> np.ndarray:
    """Run our label stage with its defaults."""
    return compute_labels(maps, None, kernels)[0]


def cellpose_labels(maps: np.ndarray, device: torch.device) -> np.ndarray:
    """Run Cellpose's label stage with its defaults."""
    from cellpose import dynamics

    return dynamics.resize_and_compute_masks(
        maps[:CELLPROB], maps[CELLPROB], niter=200, device=device
    )


def compare(
    true: np.ndarray, maps: np.ndarray, repeats: int, device: torch.device, *, with_torch: bool
) -> dict[str, Any]:
    """Time ours on one and on all cores, our torch loops and Cellpose on the device."""
    library = load_library()
    assert library is not None, "install the package with a C compiler first"
    cores = usable_cores()
    ours: dict[str, LabelKernels] = {
        f"ours, {n} thread(s)": CompiledKernels(library, n) for n in sorted({1, cores})
    }
    if with_torch or device.type != "cpu":
        ours[f"ours in torch on {device}"] = TorchKernels(device)
    rivals: dict[str, Callable[[], np.ndarray]] = {
        name: partial(our_labels, maps, kernels) for name, kernels in ours.items()
    }
    rivals["cellpose"] = partial(cellpose_labels, maps, device)
    result: dict[str, Any] = {}
    reference = compute_labels(maps, None, CompiledKernels(library, cores))[0]
    for name, run in rivals.items():
        on_gpu = device.type != "cpu" and "thread" not in name
        if on_gpu:
            run()  # the first call loads kernels
        seconds, labels = best_of(repeats if on_gpu or "thread" in name else 1, run)
        score = evaluate_labels(true, labels.astype(np.int32), (0.5, 0.9))
        result[name] = {
            "seconds": round(seconds, 3),
            "cells": int(labels.max()),
            "f1": {str(s.threshold): round(s.f1, 4) for s in score},
        }
        if name.startswith("ours in torch"):
            result[name]["pixels_equal_to_compiled"] = float((labels == reference).mean())
        print(name, result[name], flush=True)
    peer = result["cellpose"]["seconds"]
    for entry in result.values():
        entry["times_faster_than_cellpose"] = round(peer / entry["seconds"], 1)
    return result


def main() -> None:
    parser = common.make_parser(__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument(
        "--side", type=int, default=2048, help="side of the generated image in pixels"
    )
    parser.add_argument("--giant", type=int, default=300, help="radius of the giant cell")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each kind")
    parser.add_argument(
        "--device", type=torch.device, default=torch.device("cpu"),
        help="device of the loops in torch, and of Cellpose",
    )  # fmt: skip
    parser.add_argument("--torch", action="store_true", help="also time our loops in torch")
    args = parser.parse_args()
    torch.set_num_threads(usable_cores())
    true, maps = make_maps(args.side, 0)
    library = load_library()
    assert library is not None
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.platform(),
        "cores": usable_cores(),
        "versions": package_versions(),
        "side": args.side,
        "cells": int(true.max()),
        "foreground": round(float((true > 0).mean()), 3),
        "steps_one_thread_s": {
            name: round(value, 4)
            for name, value in time_steps(maps, CompiledKernels(library, 1)).items()
        },
    }
    print(json.dumps(report, indent=1), flush=True)
    report["device"] = describe_device(args.device)
    report["label stage"] = compare(true, maps, args.repeats, args.device, with_torch=args.torch)
    if args.giant:
        true, maps = make_maps(args.side, 0, args.giant)
        kernels = CompiledKernels(library, usable_cores())
        seconds, (labels, _) = best_of(1, lambda: compute_labels(maps, None, kernels))
        report["with one giant cell"] = {
            "radius": args.giant, "seconds": round(seconds, 3), "cells": int(labels.max()),
        }  # fmt: skip
        print(report["with one giant cell"])
    args.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
