r"""F1 of the shipped pair at other thresholds than the released ones, on training images.

Maps are predicted once per image, with all models and no flips, and labelled with each pair of
thresholds. Mean F1 over images at IoU 0.5 to 0.9, and by how much the area of a found cell differs
from that of the true one: thresholds that fit the contours better would show there. The networks
have seen these images, so only differences between thresholds count.

    python benchmarks/bench_thresholds.py --data CELLS CELLS2 \
        --output benchmarks/results/thresholds.json
"""

from collections import defaultdict
from pathlib import Path
from statistics import fmean, median
from typing import Any

import common
import numpy as np
import tifffile
from bench_holes import predict_maps
from bench_thin import choose_rows

from mediar_infer import EngineConfig, MaskConfig, Plan, RuntimeConfig, Segmenter
from mediar_infer.image_trace import Trace
from mediar_infer.labels.holes import fill_holes
from mediar_infer.labels.masks import compute_labels
from mediar_infer.labels.metrics import THRESHOLDS, evaluate_labels

CELLPROB = (0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7)
FLOW = (0.3, 0.4, 0.5, 0.6, 0.8)
PAIRS = [(c, 0.4) for c in CELLPROB] + [(0.5, f) for f in FLOW if f != 0.4]
"""Thresholds of cell probability and flow: one of the two is always the released one."""
MOST_PIXELS = 1_500_000


def area_ratios(true: np.ndarray, found: np.ndarray) -> list[float]:
    """Area of each found cell over that of the true cell with which it shares most of its area."""
    ratios = []
    pairs, counts = np.unique(np.stack([true.ravel(), found.ravel()]), axis=1, return_counts=True)
    n_true, n_found = np.bincount(true.ravel()), np.bincount(found.ravel())
    for (cell, label), shared in zip(pairs.T, counts, strict=True):
        if cell and label and 2 * shared > max(n_true[cell], n_found[label]):
            ratios.append(float(n_found[label] / n_true[cell]))
    return ratios


class ThresholdBench:
    """Scores of the labels that each pair of thresholds gives for the same maps."""

    def __init__(self) -> None:
        self.f1s: dict[tuple[float, float], dict[str, list[list[float]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        self.ratios: dict[tuple[float, float], list[float]] = defaultdict(list)

    def add(self, maps: np.ndarray, true: np.ndarray, modality: str) -> None:
        """Label the maps of an image, ``(3, H, W)``, with each pair of thresholds."""
        for cellprob, flow in PAIRS:
            masks = MaskConfig(cellprob_threshold=cellprob, flow_threshold=flow)
            labels, _ = compute_labels(maps, masks)
            (labels,) = fill_holes([labels], len(labels), Trace())
            scores = [score.f1 for score in evaluate_labels(true, labels)]
            for group in ("all", modality):
                self.f1s[cellprob, flow][group].append(scores)
            self.ratios[cellprob, flow] += area_ratios(true, labels)

    def results(self) -> list[dict[str, Any]]:
        """One entry per pair of thresholds."""
        return [
            {
                "cellprob_threshold": cellprob,
                "flow_threshold": flow,
                "median_area_ratio": median(self.ratios[cellprob, flow]),
                "n_images": len(groups["all"]),
                "f1": {
                    group: {str(t): fmean(r[i] for r in rows) for i, t in enumerate(THRESHOLDS)}
                    for group, rows in sorted(groups.items())
                },
            }
            for (cellprob, flow), groups in self.f1s.items()
        ]


def main() -> None:
    parser = common.make_parser(__doc__)
    parser.add_argument(
        "--data", type=Path, nargs="+", required=True, help="folders with manifest.csv"
    )
    parser.add_argument("--per-modality", type=int, default=6, help="images of each modality")
    parser.add_argument("--precision", default="float32", help="as for predict")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    config = EngineConfig(
        plan=Plan(flips=("identity",), overlap=0.25),
        runtime=RuntimeConfig(precision=args.precision),
    )
    segmenter = Segmenter.from_weights(config=config)
    bench = ThresholdBench()
    for data in args.data:
        for row in choose_rows(data, args.per_modality):
            if int(row["height"]) * int(row["width"]) > MOST_PIXELS:
                continue
            maps = predict_maps(segmenter, data / row["image"])
            bench.add(maps, tifffile.imread(data / row["label"]), row["modality"])
    results = bench.results()
    for result in results:
        means = " ".join(f"{value:.3f}" for value in result["f1"]["all"].values())
        print(
            f"{result['cellprob_threshold']:.2f} {result['flow_threshold']:.1f}: {means},"
            f" area {result['median_area_ratio']:.3f}"
        )
    metadata = common.metadata(split="train", precision=args.precision, plan=str(config.plan))
    common.write_report(args.output, metadata, results)


if __name__ == "__main__":
    main()
