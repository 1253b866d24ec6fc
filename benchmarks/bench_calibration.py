r"""Whether the confidence of cells says which of them are right, on labelled images.

A found cell is right if it overlaps a true one by an IoU of 0.5. Cells are grouped by their mean
cell probability and by their flow error; each group has its share of right ones. The area under the
ROC curve tells how often a right cell has the better value of two, a right and a wrong one.

    python benchmarks/bench_calibration.py --data DIR [DIR …] \
        --output benchmarks/results/calibration.json --plot benchmarks/results/calibration.png
"""

import itertools
import json
from pathlib import Path

import common
import numpy as np
from scipy.stats import rankdata

from mediar_infer import EngineConfig, Segmenter, read_labels
from mediar_infer.config import PLANS
from mediar_infer.labels.metrics import compute_ious

IOU = 0.5
CELLPROB_EDGES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
FLOW_ERROR_EDGES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)


def find_right(true: np.ndarray, found: np.ndarray) -> np.ndarray:
    """``(n,)`` bool for the found cells 1 … n: whether one true cell has IoU 0.5 with it."""
    _, found_ids, ious = compute_ious(true.astype(np.int64), found.astype(np.int64))
    is_right = np.zeros(int(found.max(initial=0)) + 1, bool)
    is_right[found_ids[ious >= IOU]] = True
    return is_right[1:]


def group(
    values: np.ndarray,
    is_right: np.ndarray,
    edges: tuple[float, ...],
    *,
    low_is_better: bool = False,
) -> dict[str, object]:
    """Share of right cells between neighbouring edges, and the area under the ROC curve."""
    places = np.digitize(values, edges[1:-1])
    groups = []
    for place, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = places == place
        groups.append({
            "from": low,
            "to": high,
            "n_cells": int(inside.sum()),
            "mean": float(values[inside].mean()) if inside.any() else None,
            "right": float(is_right[inside].mean()) if inside.any() else None,
        })  # fmt: skip
    n_right, n_wrong = int(is_right.sum()), int((~is_right).sum())
    ranks = rankdata(-values if low_is_better else values)
    above = ranks[is_right].sum() - n_right * (n_right + 1) / 2
    return {"groups": groups, "roc_area": float(above / max(n_right * n_wrong, 1))}


def measure(segmenter: Segmenter, folders: list[Path], split: str) -> dict[str, object]:
    """Confidence against truth for all cells of all images."""
    cellprobs, errors, rights = [], [], []
    for folder in folders:
        for row in common.read_rows(folder, split):
            result = segmenter.segment(common.read_image(folder / row["image"]), confidence=True)
            cellprobs.append(result.confidence.mean_cellprob)
            errors.append(result.confidence.flow_error)
            rights.append(find_right(read_labels(folder / row["label"]), result.labels))
    cellprob, error, is_right = (np.concatenate(each) for each in (cellprobs, errors, rights))
    by_cellprob = group(cellprob, is_right, CELLPROB_EDGES)
    return {
        "n_images": len(rights),
        "n_cells": len(is_right),
        "right": float(is_right.mean()),
        # Its gap to the share of right cells, weighted by cells.
        "mean_gap_cellprob": expected_gap(by_cellprob["groups"]),
        "mean_cellprob": by_cellprob,
        "flow_error": group(error, is_right, FLOW_ERROR_EDGES, low_is_better=True),
    }


def expected_gap(groups: list[dict[str, float]]) -> float:
    """Expected calibration error over groups of mean cell probability."""
    gaps = [each["n_cells"] * abs(each["mean"] - each["right"]) for each in groups if each["mean"]]
    return float(sum(gaps) / max(sum(each["n_cells"] for each in groups), 1))


def plot(results: dict[str, object], path: Path) -> None:
    """Share of right cells over each measure, with the number of cells as bars."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
    for axes, name in zip(panels, ("mean_cellprob", "flow_error"), strict=True):
        shown = [each for each in results[name]["groups"] if each["n_cells"]]
        middles = [(each["from"] + each["to"]) / 2 for each in shown]
        widths = [(each["to"] - each["from"]) * 0.9 for each in shown]
        share = [each["n_cells"] / results["n_cells"] for each in shown]
        axes.bar(middles, share, widths, color="0.85", label="share of cells")
        axes.plot(middles, [each["right"] for each in shown], "o-", label="right (IoU ≥ 0.5)")
        area = results[name]["roc_area"]
        axes.set(xlabel=name.replace("_", " "), ylim=(0, 1), title=f"area under ROC {area:.2f}")
    panels[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = common.make_parser(__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="with manifest.csv")
    parser.add_argument(
        "--weights", type=Path, nargs="+", default=[],
        help="one or two weight files, or their folder; by default the shipped pair",
    )  # fmt: skip
    parser.add_argument(
        "--split", default="val", help="split of the manifest whose images are used"
    )
    parser.add_argument("--plan", default="paper", choices=PLANS, help="plan of the engine")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--plot", type=Path, help="PNG file to write")
    args = parser.parse_args()
    segmenter = Segmenter.from_weights(args.weights, EngineConfig(plan=PLANS[args.plan]))
    results = measure(segmenter, args.data, args.split)
    metadata = common.metadata(split=args.split, plan=args.plan, weights=segmenter.digests)
    common.write_report(args.output, metadata, results)
    if args.plot:
        plot(results, args.plot)
    print(json.dumps({key: results[key] for key in ("n_cells", "right", "mean_gap_cellprob")}))


if __name__ == "__main__":
    main()
