r"""What the trials of ``--scale auto`` measure on resized training images, and what follows.

Images of every source and modality are resized by five factors, their labels with them. At every
scale that is tried, the trial is kept with the F1 of its own cells; so other rules can be judged
from the results without the network.

    python benchmarks/scale_trials.py --data DIR [DIR …] --output FILE
    python benchmarks/scale_trials.py --output FILE         # only the table

Results are kept after each image, and a second run goes on from there.
"""

import csv
import json
import math
import random
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import bench_scale
import common
import cv2
import numpy as np

from mediar_infer import EngineConfig, Segmenter, evaluate_labels
from mediar_infer.arrays import AnyArray
from mediar_infer.engine.preprocess import compute_scaling
from mediar_infer.images.sources import ArraySource
from mediar_infer.scales.parts import PartPrediction, PartPredictor
from mediar_infer.scales.places import choose_places, find_part
from mediar_infer.scales.trials import (
    N_PLACES,
    SCALES,
    TYPICAL_DIAMETER,
    Trial,
    judge,
    list_scales,
    make_trial,
)

SEED = 3
SIDE = 640
LOSS = 0.05


def draw_images(folders: list[Path], n_per_kind: int) -> list[tuple[Path, dict[str, str]]]:
    """Training images of every source and modality."""
    rng, drawn = random.Random(SEED), []
    for folder in folders:
        kinds: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
        with (folder / "manifest.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                if row["split"] != "val":
                    kinds[row["source_repo"], row["modality"]].append(row)
        for kind in sorted(kinds):
            rows = sorted(kinds[kind], key=lambda row: row["id"])
            drawn += [(folder, row) for row in rng.sample(rows, min(n_per_kind, len(rows)))]
    return drawn


def score_part(
    part: PartPrediction, true: AnyArray, place: tuple[int, int], scale: float, size: int
) -> tuple[float, int]:
    """F1 of the cells that pass the flow check, and the number of true ones."""
    (top, bottom), (left, right) = find_part(true.shape, place, math.ceil(size / scale))
    kept = np.concatenate([[False], part.is_kept])[part.labels]
    found = np.where(kept, part.labels, 0).astype(np.int32)
    shown = cv2.resize(
        true[top:bottom, left:right].astype(np.float32),
        found.shape[::-1],
        interpolation=cv2.INTER_NEAREST_EXACT,
    ).astype(np.int32)
    return evaluate_labels(shown, found, (0.5,))[0].f1, len(np.unique(shown[shown > 0]))


def try_image(segmenter: Segmenter, image: AnyArray, true: AnyArray) -> list[dict[str, Any]]:
    """Trials at all scales, each with its F1."""
    config, source = segmenter.config, ArraySource(image)
    scaling = compute_scaling(source)
    places = choose_places(source, scaling, config.roi_size, N_PLACES)
    predictor = PartPredictor(source, scaling, segmenter.members[0], config)
    trials = []
    for scale in list_scales(source.height, source.width):
        parts = [predictor.predict(place, scale) for place in places]
        scores = [
            score_part(part, true, place, scale, config.roi_size)
            for part, place in zip(parts, places, strict=True)
        ]
        n_true = sum(n for _, n in scores)
        f1 = sum(f1 * n for f1, n in scores) / n_true if n_true else None
        trials.append(asdict(make_trial(scale, parts)) | {"f1": f1})
    return trials


def summarise(images: dict[str, list[dict[str, Any]]], typical: float) -> dict[str, Any]:
    """Factor → mean F1 as it is, with ``auto``, at the true scale and at the best; losses."""
    factors: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    for key, tried in images.items():
        factor = key.rpartition("|")[2]
        rows = [row for row in tried if row["scale"] in SCALES]  # more may have been tried
        scored = {row["scale"]: row["f1"] for row in rows if row["f1"] is not None}
        if 1.0 not in scored:
            continue
        trials = [Trial(**{k: v for k, v in row.items() if k != "f1"}) for row in rows]
        is_enough = trials[0].is_convincing(typical)
        chosen = judge(trials[:1] if is_enough else trials, typical).scale
        true = min(scored, key=lambda scale: abs(math.log(scale * float(factor))))
        factors[factor].append(
            (scored[1.0], scored.get(chosen, scored[1.0]), scored[true], max(scored.values()))
        )
    names = ("as it is", "auto", "true scale", "best scale")
    return {
        factor: {"n_images": len(rows)}
        | {name: round(fmean(row[i] for row in rows), 3) for i, name in enumerate(names)}
        | {"n_lost": sum(row[1] < row[0] - LOSS for row in rows)}
        for factor, rows in sorted(factors.items(), key=lambda item: float(item[0]))
    }


def main() -> None:
    parser = common.make_parser(__doc__)
    parser.add_argument("--data", type=Path, nargs="+", default=[], help="with manifest.csv")
    parser.add_argument(
        "--weights", type=Path, nargs="+", default=[],
        help="one or two weight files, or their folder; by default the shipped pair",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--per-kind", type=int, default=3, help="images of a source and modality")
    args = parser.parse_args()
    segmenter = Segmenter.from_weights(args.weights, EngineConfig())
    typical = segmenter.cell_diameter or TYPICAL_DIAMETER
    images = json.loads(args.output.read_text())["images"] if args.output.exists() else {}
    metadata = common.metadata(
        per_kind=args.per_kind, side=SIDE, weights=segmenter.digests, cell_diameter=typical
    )
    for folder, row in draw_images(args.data, args.per_kind):
        for factor in bench_scale.FACTORS:
            key = f"{row['id']}|{factor:g}"
            if key not in images:
                image, true = bench_scale.load(row, folder, factor, SIDE)
                images[key] = try_image(segmenter, image, true)
        results = {"metadata": metadata, "results": summarise(images, typical), "images": images}
        args.output.write_text(json.dumps(results) + "\n")
    print(json.dumps(summarise(images, typical), indent=1))


if __name__ == "__main__":
    main()
