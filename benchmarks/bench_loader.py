"""Augmented crops with targets per second, compared with what a training step uses.

    python -m mediar_infer.training index FOLDER -o table.csv
    python benchmarks/bench_loader.py table.csv --step-s 256=1.4 512=6.0 --json loader.json

``--step-s`` is the time of one training step (``--batch`` crops) of a mit_b0 on this machine, per
crop size, as a training run reports it; slower loading starves the network. Times exclude the start
of the workers and the first reading of the files.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import common
import numpy as np
import torch

from mediar_infer.training.augmentation.loader import CropMaker, Draw, iterate_batches
from mediar_infer.training.augmentation.settings import Augmentation
from mediar_infer.training.augmentation.targets import compute_targets
from mediar_infer.training.data.samples import SampleStore
from mediar_infer.training.data.table import read_table


def draw_steps(n_images: int, batch_size: int, seed: int) -> Callable[[int], list[Draw]]:
    """Draw eight crops with all changes for each one from memory, as fine-tuning does."""

    def draw(step: int) -> list[Draw]:
        rng = np.random.default_rng((seed, step))
        return [
            Draw(int(index), excludes_boundary=slot % 9 == 8, intensity=slot % 9 != 8)
            for slot, index in enumerate(rng.integers(n_images, size=batch_size))
        ]

    return draw


def time_batches(
    store: SampleStore, crop_size: int, n_workers: int, batch_size: int, n_steps: int
) -> dict:
    """Seconds from batch to batch when nothing else runs, and crops per second overall."""
    n_warm = 2 + 4 * n_workers
    batches = iterate_batches(
        store,
        draw_steps(len(store), batch_size, seed=1),
        Augmentation(),
        crop_size=crop_size,
        seed=1,
        first_step=0,
        n_steps=n_warm + n_steps,
        n_workers=n_workers,
    )
    for _ in range(n_warm):
        next(batches)
    meter, times = common.Meter(), [time.perf_counter()]
    times.extend(time.perf_counter() for _ in batches)
    others = meter.others_cores()
    total = times[-1] - times[0]
    return {
        "crop_size": crop_size,
        "n_workers": n_workers,
        "batch_size": batch_size,
        "crops_per_s": round(n_steps * batch_size / total, 2),
        "batch_s": common.spread([b - a for a, b in itertools.pairwise(times)]),
        # Worker processes run on: nothing waits for them yet.
        "others_cores": round(others, 2) if n_workers == 0 else None,
    }


def time_parts(store: SampleStore, crop_size: int, n_crops: int) -> dict:
    """Milliseconds for each part of making a crop, in this thread."""
    maker = CropMaker(Augmentation(), crop_size=crop_size, seed=1)
    draw = draw_steps(len(store), n_crops, seed=2)(0)
    crop_ms, target_ms = [], []
    for slot, one in enumerate(draw):
        sample = store[one.index]
        started = time.perf_counter()
        _, labels = maker.make(sample, one, 0, slot)
        changed = time.perf_counter()
        compute_targets(labels)
        crop_ms.append((changed - started) * 1e3)
        target_ms.append((time.perf_counter() - changed) * 1e3)
    parts = {"transforms_ms": crop_ms, "targets_ms": target_ms}
    return {"crop_size": crop_size} | {
        name: common.spread(times) | {"mean": sum(times) / len(times)}
        for name, times in parts.items()
    }


def parse_step_times(values: Sequence[str]) -> dict[int, float]:
    """``256=1.4`` → {256: 1.4}."""
    return {int(size): float(seconds) for size, seconds in (v.split("=") for v in values)}


def measure(store: SampleStore, args: argparse.Namespace) -> tuple[list[dict], list[dict]]:
    """Parts of making a crop, and batches with each number of workers, for each size of crops."""
    parts, results, step_s = [], [], parse_step_times(args.step_s)
    for crop_size in args.crops:
        parts.append(time_parts(store, crop_size, 10 * args.batch))
        print(
            f"crop {crop_size}: transforms {parts[-1]['transforms_ms']['mean']:.1f} ms, "
            f"targets {parts[-1]['targets_ms']['mean']:.1f} ms a crop"
        )
        for n_workers in args.workers:
            result = time_batches(store, crop_size, n_workers, args.batch, args.steps)
            if crop_size in step_s:
                used = args.batch / step_s[crop_size]
                result |= {"step_s": step_s[crop_size], "crops_per_s_used": round(used, 2)}
                result["times_faster_than_step"] = round(result["crops_per_s"] / used, 2)
            results.append(result)
            print({key: value for key, value in result.items() if key != "batch_s"})
    return parts, results


def main() -> None:
    parser = common.make_parser(__doc__)
    parser.add_argument("table", type=Path, help="data table made by index")
    parser.add_argument(
        "--crops", type=int, nargs="+", default=[256, 512], metavar="PIXELS",
        help="sides of the crops",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[0, 2],
        help="numbers of loader processes; 0 is a thread",
    )  # fmt: skip
    parser.add_argument("--batch", type=int, default=8, help="crops per batch")
    parser.add_argument("--steps", type=int, default=30, help="batches that are timed")
    parser.add_argument("--images", type=int, default=80, help="of the table, evenly spread")
    parser.add_argument(
        "--step-s", nargs="+", default=[], metavar="PIXELS=SECONDS",
        help="time of a training step by size of its crops",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, help="JSON file to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    records = [r for r in read_table(args.table) if r.label_path and r.split == "train"]
    store = SampleStore(records[:: max(1, len(records) // args.images)])
    for _ in store:
        pass
    parts, results = measure(store, args)
    metadata = common.metadata(
        table=args.table.name, n_images=len(store), crops="Table 1 of the paper, 1 of 9 memory"
    )
    common.write_report(args.json, metadata, {"loader": results, "parts": parts})


if __name__ == "__main__":
    main()
