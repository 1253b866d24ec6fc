r"""F1 on labelled images that were resized: as they are, at the true scale, by cell size, by auto.

Each image is resized by each factor, its labels with it, and cut to ``--side`` pixels around its
middle. It is segmented without a scale, with ``--scale 1/factor``, with ``--cell-size`` (the median
diameter of its true cells) and with ``--scale auto``. Scores are the challenge's at IoU 0.5.

    python benchmarks/bench_scale.py --data DIR [DIR …] --output benchmarks/results/scale.json

Images come from split ``val``; ``--split train`` is for choosing rules. Results are kept in the
output after each image, and a second run goes on from there.
"""

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import common
import cv2
import numpy as np

from mediar_infer import CellSize, EngineConfig, Segmenter, evaluate_labels, read_labels
from mediar_infer.arrays import AnyArray
from mediar_infer.config import PLANS
from mediar_infer.engine.resampling import scaled_length
from mediar_infer.image_trace import Trace
from mediar_infer.images.sources import ArraySource

FACTORS = (1.0, 0.33, 0.5, 2.0, 3.0)
METHODS = ("as it is", "true scale", "auto", "cell size")


def load(row: dict[str, str], folder: Path, factor: float, side: int) -> tuple[AnyArray, AnyArray]:
    """Image and labels, resized and cut."""
    image = common.read_image(folder / row["image"])
    labels = read_labels(folder / row["label"])
    if factor != 1:
        width, height = (scaled_length(n, factor) for n in labels.shape[::-1])
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        image = cv2.resize(image, (width, height), interpolation=method)
        labels = cv2.resize(
            labels.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST_EXACT
        ).astype(np.int32)
    top, left = (max((n - side) // 2, 0) for n in labels.shape)
    return image[top : top + side, left : left + side], labels[top : top + side, left : left + side]


def median_diameter(labels: AnyArray) -> float:
    """Of the true cells; 0 without any."""
    areas = np.unique(labels[labels > 0], return_counts=True)[1]
    return float(2 * np.sqrt(np.median(areas) / np.pi)) if areas.size else 0.0


def segment(segmenter: Segmenter, image: AnyArray) -> tuple[AnyArray, float, float]:
    """Labels, the scale that was used, and seconds."""
    started, trace = time.perf_counter(), Trace()
    with segmenter.begin(ArraySource(image), trace) as work:
        labels = np.concatenate(list(work.labels()))
    return labels, trace.scale, time.perf_counter() - started


def score_image(
    base: Segmenter, image: AnyArray, true: AnyArray, factor: float, methods: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Method → F1, scale and seconds."""
    diameter = median_diameter(true)
    configs = {
        "as it is": base.config,
        "true scale": replace(base.config, scale=1 / factor),
        "auto": replace(base.config, scale="auto"),
        "cell size": replace(base.config, cell_size=CellSize(max(diameter, 5.0))),
    }
    results: dict[str, dict[str, float]] = {}
    for name in methods:
        config = configs[name]
        if name == "true scale" and factor == 1:
            results[name] = results["as it is"]
            continue
        segmenter = Segmenter(
            base.members, config, base.digests, base.cell_diameter, base.flow_threshold
        )
        labels, scale, seconds = segment(segmenter, image)
        f1 = evaluate_labels(true, labels, (0.5,))[0].f1
        results[name] = {"f1": f1, "scale": scale, "seconds": round(seconds, 2)}
    return results


def summarise(images: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, object]]:
    """Factor → number of images and mean F1 of each method, over all images and per set."""
    groups: dict[str, list[dict[str, dict[str, float]]]] = defaultdict(list)
    for key, results in images.items():
        data, _, factor = key.split("|")
        groups[f"{factor}, all"].append(results)
        groups[f"{factor}, {data}"].append(results)
    return {
        group: {"n_images": len(rows)}
        | {name: round(fmean(row[name]["f1"] for row in rows), 4) for name in rows[0]}
        for group, rows in sorted(groups.items())
    }


def main() -> None:
    parser = common.make_parser(__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="with manifest.csv")
    parser.add_argument(
        "--weights", type=Path, nargs="+", default=[],
        help="one or two weight files, or their folder; by default the shipped pair",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument(
        "--split", default="val", help="split of the manifest whose images are used"
    )
    parser.add_argument("--plan", default="fast", choices=PLANS, help="plan of the engine")
    parser.add_argument("--side", type=int, default=1024, help="largest part that is segmented")
    parser.add_argument(
        "--methods", nargs="+", default=METHODS, choices=METHODS, help="ways to choose the scale"
    )
    parser.add_argument("--every", type=int, default=1, help="take every Nth image")
    parser.add_argument("--first", type=int, default=0, help="of these, to share the work")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after these")
    args = parser.parse_args()
    started = time.perf_counter()
    segmenter = Segmenter.from_weights(args.weights, EngineConfig(plan=PLANS[args.plan]))
    images = json.loads(args.output.read_text())["images"] if args.output.exists() else {}
    metadata = common.metadata(
        split=args.split, plan=args.plan, side=args.side, every=args.every,
        weights=segmenter.digests, cell_diameter=segmenter.cell_diameter,
    )  # fmt: skip
    for folder in args.data:
        rows = common.read_rows(folder, args.split)
        for row in rows[args.first :: args.every]:
            for factor in FACTORS:
                key = f"{folder.name}|{row['id']}|{factor:g}"
                if key in images or time.perf_counter() - started > args.seconds:
                    continue
                image, true = load(row, folder, factor, args.side)
                images[key] = score_image(segmenter, image, true, factor, args.methods)
                common.write_report(args.output, metadata, summarise(images), images=images)


if __name__ == "__main__":
    main()
