"""A generated slide with known cells through the whole path: memory, ids, whole cells.

The real reader, normalisation, windows, flips, merge, stitching and writer; only the network is a
cheap deterministic one that reads flow and cells off the slide's colours. Each run is a separate
process, so its peak memory is its own.

    python benchmarks/bench_slide.py --output benchmarks/results/slide.json
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import common
import numpy as np
import tifffile
import torch
from fakes import FunctionBackend
from slides import SlideScene, decode_scene

from mediar_infer import EngineConfig, MaskConfig, Plan
from mediar_infer.config import ALL_FLIPS, LARGE_IMAGE_BLOCK
from mediar_infer.devices import usable_cores
from mediar_infer.exports.label_rows import open_label_rows
from mediar_infer.image_trace import Trace
from mediar_infer.images.open import open_image
from mediar_infer.labels.files import write_labels
from mediar_infer.process import peak_memory_bytes, return_large_blocks
from mediar_infer.segmenter import Segmenter
from mediar_infer.tolerance import tolerance_s

ROWS = 512


def write_slide(path: Path, scene: SlideScene) -> None:
    """Write the slide as a tiled, deflated RGB TIFF, row of tiles by row of tiles."""

    def tiles() -> Iterator[np.ndarray]:
        for top in range(0, scene.height, ROWS):
            rows = scene.render_rows(top, min(top + ROWS, scene.height))
            padded = np.zeros((ROWS, -(-scene.width // ROWS) * ROWS, 3), np.uint8)
            padded[: len(rows), : scene.width] = rows
            for left in range(0, padded.shape[1], ROWS):
                yield padded[:, left : left + ROWS]

    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(
            tiles(), shape=(scene.height, scene.width, 3), dtype=np.uint8, tile=(ROWS, ROWS),
            compression="zlib", photometric="rgb",
        )  # fmt: skip


def compare(labels_path: Path, scene: SlideScene) -> dict[str, float]:
    """Match true and found cells by their IoU; labels are read in bands of rows."""
    n_true = scene.n_cells
    true_size = np.zeros(n_true + 1, np.int64)
    found_size = np.zeros(1, np.int64)
    pairs: dict[int, int] = {}
    with open_label_rows(labels_path) as rows:
        for top in range(0, rows.height, ROWS):
            labels = rows.read(top, min(top + ROWS, rows.height)).astype(np.int64)
            true = scene.label_rows(top, top + len(labels)).astype(np.int64)
            true_size += np.bincount(true.ravel(), minlength=n_true + 1)
            counts = np.bincount(labels.ravel(), minlength=len(found_size))
            counts[: len(found_size)] += found_size
            found_size = counts
            both = (true > 0) & (labels > 0)
            keys, n = np.unique((true[both] << 32) | labels[both], return_counts=True)
            for key, count in zip(keys.tolist(), n.tolist(), strict=True):
                pairs[key] = pairs.get(key, 0) + count
    keys = np.fromiter(pairs.keys(), np.int64, len(pairs))
    shared = np.fromiter(pairs.values(), np.int64, len(pairs))
    true_id, found_id = keys >> 32, keys & 0xFFFFFFFF
    iou = shared / (true_size[true_id] + found_size[found_id] - shared)
    n_found = int(np.count_nonzero(found_size[1:]))
    hits = int(np.count_nonzero(iou >= 0.9))  # above 0.5 no other pair has either cell
    return {
        "n_true": n_true,
        "n_found": n_found,
        "max_id": len(found_size) - 1,
        "ids_consecutive": bool(n_found == len(found_size) - 1),
        "whole_cells": hits / n_true,
        "f1_at_0.9": 2 * hits / (n_true + n_found),
        "identical_cells": int(np.count_nonzero(iou == 1)) / n_true,
    }


def run_one(
    slide: Path, labels: Path, blocks: str, block_size: int, n_flips: int
) -> dict[str, object]:
    """Segment the slide in this process."""
    return_large_blocks()  # as the commands do
    before = peak_memory_bytes()["host"]
    config = EngineConfig(
        plan=Plan(max_members=1, flips=ALL_FLIPS[:n_flips]),
        masks=MaskConfig(blocks=blocks, block_size=block_size),
    )
    torch.set_num_threads(usable_cores())
    segmenter, trace = Segmenter([FunctionBackend(decode_scene, batch=8)], config), Trace()
    started = time.perf_counter()
    with open_image(slide) as source, segmenter.begin(source, trace) as work:
        write_labels(labels, work.labels(), height=source.height, width=source.width)
        wall_s = time.perf_counter() - started
        limit_s = tolerance_s(source.height, source.width)
    return {
        "wall_s": wall_s,
        "tolerance_s": limit_s,
        "stages_s": trace.stages_s,
        "start_rss_bytes": before,
        "peak_rss_bytes": peak_memory_bytes()["host"],
        "label_file_bytes": labels.stat().st_size,
    }


def write_report(args: argparse.Namespace, results: list[dict[str, object]]) -> None:
    """Write the results so far; a slide takes minutes."""
    metadata = common.metadata(
        touching=args.touching, network="deterministic decoder, one member, overlap 0.6"
    )
    common.write_report(args.output, metadata, results)


def run_all(args: argparse.Namespace, folder: Path) -> list[dict[str, object]]:
    results = []
    for side in args.sides:
        scene = SlideScene(side, side, touching=args.touching)
        slide = folder / f"slide_{side}.tif"
        write_slide(slide, scene)
        first_labels = None
        for mode in args.modes:
            blocks, _, size = mode.partition(":")
            labels = folder / f"labels_{side}_{blocks}_{size}.tiff"
            command = [sys.executable, __file__, "--one", str(slide), str(labels), mode]
            command += ["--flips", str(args.flips)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            result = {
                "side": side,
                "blocks": blocks,
                "block_size": int(size or 0),
                "flips": args.flips,
            }
            result |= json.loads(output.splitlines()[-1]) | compare(labels, scene)
            if blocks == "stitched":
                found = tifffile.imread(labels)
                first_labels = found if first_labels is None else first_labels
                result["equal_to_first_block_size"] = bool(np.array_equal(found, first_labels))
            results.append(result)
            print(json.dumps(result), flush=True)
            write_report(args, results)
        slide.unlink()
    return results


def main() -> None:
    parser = common.make_parser(__doc__)
    parser.add_argument(
        "--one", nargs=3, metavar=("SLIDE", "LABELS", "MODE"),
        help="segment one slide in this process, as the benchmark calls itself",
    )  # fmt: skip
    parser.add_argument(
        "--sides", type=int, nargs="+", default=[6000, 12000], help="sides of the slides in pixels"
    )
    parser.add_argument(
        "--modes", nargs="+",
        default=["stitched:1000", "stitched:2000", f"paper:{LARGE_IMAGE_BLOCK}"],
    )  # fmt: skip
    parser.add_argument("--flips", type=int, default=3, choices=(1, 2, 3), help="number of passes")
    parser.add_argument("--touching", action="store_true", help="cells without gaps between them")
    parser.add_argument("--folder", type=Path, help="scratch folder with room for the slide")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    if args.one:
        blocks, _, size = args.one[2].partition(":")
        print(json.dumps(run_one(*map(Path, args.one[:2]), blocks, int(size or 0), args.flips)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        run_all(args, Path(folder))


if __name__ == "__main__":
    main()
