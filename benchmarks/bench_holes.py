r"""F1 of the shipped pair with and without the holes of cells filled, on images it has not seen.

Maps are predicted once per image and labelled twice. Scores are the challenge's (border cells
removed), mean over images, per set and modality. Times are of the CPU, so that other work on the
machine does not count.

    python benchmarks/bench_holes.py --data CELLS CELLS2 --maps DIR \
        --output benchmarks/results/holes.json

``--maps`` keeps the maps: a run that was stopped goes on, and another threshold needs no network.
"""

import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import common
import numpy as np
import tifffile
from bench_labels import make_maps
from bench_val_f1 import summarise

from mediar_infer import EngineConfig, MaskConfig, Segmenter
from mediar_infer.config import BlockMode
from mediar_infer.image_trace import Trace
from mediar_infer.images.open import open_image
from mediar_infer.labels.blocks import Labelling, label_bands
from mediar_infer.labels.holes import fill_holes
from mediar_infer.labels.kernels.choice import select_kernels
from mediar_infer.labels.masks import compute_labels
from mediar_infer.labels.metrics import evaluate_labels


def predict_maps(segmenter: Segmenter, image: Path) -> np.ndarray:
    """Merged maps ``(3, H, W)`` of an image."""
    with open_image(image) as source, segmenter.begin(source, Trace()) as work:
        return np.concatenate(list(work.maps()), axis=1)


def load_maps(segmenter: Segmenter, image: Path, kept: Path) -> np.ndarray:
    """Maps of an image, from an earlier run if there was one."""
    if not kept.exists():
        maps = predict_maps(segmenter, image)
        part = kept.with_suffix(".part")
        with part.open("wb") as file:
            np.save(file, maps)
        part.rename(kept)
    return np.load(kept)


def label_twice(maps: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Labels as released and with holes filled; seconds of making and of filling."""
    started = time.process_time()
    released, _ = compute_labels(maps, MaskConfig())
    labelled = time.process_time()
    (filled,) = fill_holes([released.copy()], len(released), Trace())
    ended = time.process_time()
    seconds = {"labels": labelled - started, "holes": ended - labelled}
    return {"released": released, "filled": filled}, seconds


def time_bands(blocks: BlockMode, side: int = 2048) -> dict[str, float]:
    """CPU seconds of labelling generated touching cells, and of filling in the bands that come."""
    _, maps = make_maps(side, 0)
    rng = np.random.default_rng(0)
    maps[0][rng.random((side, side)) < 0.02] = 0
    config = MaskConfig(blocks=blocks, fill_holes=False)
    how = Labelling(config, select_kernels(), Trace())
    bands = (maps[:, top : top + 204] for top in range(0, side, 204))
    started = time.process_time()
    released = list(label_bands(bands, (side, side), how))
    labelled = time.process_time()
    filled = list(fill_holes(released, side, Trace()))
    ended = time.process_time()
    assert sum(map(len, filled)) == side
    return {"labels": labelled - started, "holes": ended - labelled}


def score(
    segmenter: Segmenter, data: Path, kept: Path, rows: Iterable[dict[str, str]]
) -> dict[str, object]:
    """Scores of both ways on one set of images, and what filling changed."""
    f1s: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    images, total_s = {}, {"labels": 0.0, "holes": 0.0}
    n_cells = n_with_holes = n_pixels = 0
    for row in rows:
        maps = load_maps(segmenter, data / row["image"], kept / f"{data.name}__{row['id']}.npy")
        true = tifffile.imread(data / row["label"])
        labels, seconds = label_twice(maps)
        changed = labels["filled"][labels["filled"] != labels["released"]]
        n_cells += int(labels["released"].max(initial=0))
        n_with_holes += np.unique(changed).size
        n_pixels += changed.size
        total_s = {stage: total_s[stage] + seconds[stage] for stage in total_s}
        images[row["id"]] = {"cells_with_holes": np.unique(changed).size}
        for way, found in labels.items():
            values = [each.f1 for each in evaluate_labels(true, found)]
            images[row["id"]][way] = values
            f1s[way]["all"].append(values)
            f1s[way][row["modality"]].append(values)
    return {
        "groups": {way: summarise(groups) for way, groups in f1s.items()},
        "cells": n_cells,
        "cells_with_holes": n_with_holes,
        "pixels_filled": n_pixels,
        "seconds": total_s,
        "images": images,
    }


def main() -> None:
    parser = common.make_parser(__doc__)
    parser.add_argument(
        "--data", type=Path, nargs="+", required=True, help="folders with manifest.csv"
    )
    parser.add_argument("--maps", type=Path, required=True, help="folder to keep the maps in")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--limit", type=int, help="only the first images of a set, for a trial")
    args = parser.parse_args()
    args.maps.mkdir(parents=True, exist_ok=True)
    segmenter = Segmenter.from_weights(config=EngineConfig())
    results = {
        data.name: score(segmenter, data, args.maps, common.read_rows(data, limit=args.limit))
        for data in args.data
    }
    speed = {mode: time_bands(mode) for mode in ("auto", "stitched")}
    print(speed)
    for name, result in results.items():
        for way, groups in result["groups"].items():
            print(name, way, groups["all"]["mean_f1_by_threshold"])
    common.write_report(
        args.output,
        common.metadata(split="val", weights=segmenter.digests),
        results | {"cpu_s_of_2048_pixels_square": speed},
    )


if __name__ == "__main__":
    main()
