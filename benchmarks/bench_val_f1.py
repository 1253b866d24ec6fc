r"""F1 of the shipped pair on labelled images it has not seen: the paper's Table 4 ladder.

Rows: one model, + flips, + ensemble, and Otsu threshold with a distance-transform watershed as the
floor. Scores are the challenge's (IoU 0.5, border cells removed), mean over images, per modality.

    python benchmarks/bench_val_f1.py --data DIR --weights weights/from_phase1.safetensors \
        weights/from_phase2.safetensors --output benchmarks/results/val_f1.json

``--before`` names another pair to list next to it; ``--rows`` takes only some rows.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median

import common
import numpy as np
import tifffile
from fakes import normalise_image
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.measure import label as connected_components
from skimage.morphology import remove_small_objects
from skimage.segmentation import watershed

from mediar_infer import EngineConfig, Plan, RuntimeConfig, Segmenter
from mediar_infer.errors import CheckpointError, UsageError
from mediar_infer.labels.metrics import THRESHOLDS, evaluate_labels
from mediar_infer.network.weight_files import compute_digest

Method = Callable[[np.ndarray], np.ndarray]
"""Image → labels."""


def otsu_watershed(image: np.ndarray) -> np.ndarray:
    """The floor: grey, Otsu, the smaller side is foreground, watershed from distance peaks."""
    grey = normalise_image(image).mean(axis=2)
    if grey.max() == grey.min():
        return np.zeros(grey.shape, np.int32)
    foreground = grey > threshold_otsu(grey)
    if foreground.mean() > 0.5:
        foreground = ~foreground
    foreground = remove_small_objects(ndimage.binary_fill_holes(foreground), max_size=15)
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(foreground), 1.0)
    peaks = peak_local_max(distance, min_distance=7, labels=connected_components(foreground))
    markers = np.zeros(grey.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-distance, markers, mask=foreground)


def build_ladder(weights: list[Path], prefix: str = "") -> dict[str, Method]:
    """Name → function from image to labels, for each row of the ladder of a pair."""
    single, flips = Plan("single", 1, ("identity",)), Plan("flips", 1)
    methods: dict[str, Method] = {}
    pair = Segmenter.from_weights(weights, EngineConfig(plan=Plan()))
    for path, member in zip(weights, pair.members, strict=True):
        for plan in (single, flips):
            segmenter = Segmenter([member], replace(pair.config, plan=plan))
            methods[f"{prefix}{path.stem}, {plan.name}"] = labels_of(segmenter)
    methods[f"{prefix}ensemble, flips"] = labels_of(pair)
    return methods


def build_methods(weights: list[Path], before: list[Path]) -> dict[str, Method]:
    """The floor, the ladder, the ensemble in lower precisions, the ladder of the previous pair."""
    methods = {"otsu + watershed": otsu_watershed} | build_ladder(weights)
    for precision in ("bfloat16", "int8"):
        config = EngineConfig(plan=Plan(), runtime=RuntimeConfig(precision=precision))
        try:
            segmenter = Segmenter.from_weights(weights, config)
        except (UsageError, CheckpointError) as error:
            print(f"left out: {error}", flush=True)
        else:
            methods[f"ensemble, flips, {precision}"] = labels_of(segmenter)
    return methods | (build_ladder(before, "before: ") if before else {})


def labels_of(segmenter: Segmenter) -> Method:
    """A segmenter as a method."""
    return lambda image: segmenter.segment(image).labels


def summarise(f1s: dict[str, list[list[float]]]) -> dict[str, dict[str, object]]:
    """Per group: number of images, mean and median F1 at 0.5, mean at the other thresholds."""
    return {
        group: {
            "n_images": len(rows),
            "mean_f1": fmean(row[0] for row in rows),
            "median_f1": median(row[0] for row in rows),
            "mean_f1_by_threshold": {
                str(t): fmean(row[i] for row in rows) for i, t in enumerate(THRESHOLDS)
            },
        }
        for group, rows in sorted(f1s.items())
    }


def score_methods(
    methods: dict[str, Method], data: Path, rows: list[dict[str, str]]
) -> tuple[dict[str, dict[str, object]], dict[str, dict[str, float]]]:
    """Per method seconds and scores of each group of images; per image F1 of each method."""
    results: dict[str, dict[str, object]] = {}
    per_image: dict[str, dict[str, float]] = defaultdict(dict)
    for name, method in methods.items():
        f1s: dict[str, list[list[float]]] = defaultdict(list)
        started = time.perf_counter()
        for row in rows:
            image = common.read_image(data / row["image"])
            true = tifffile.imread(data / row["label"])
            scores = [score.f1 for score in evaluate_labels(true, method(image))]
            f1s["all"].append(scores)
            f1s[row["modality"]].append(scores)
            per_image[row["id"]][name] = scores[0]
        groups = summarise(f1s)
        results[name] = {"seconds": time.perf_counter() - started, "groups": groups}
        print(f"{name}: {groups['all']['mean_f1']:.4f}", flush=True)
    return results, per_image


def main() -> None:
    parser = common.make_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="images/, labels/, manifest.csv")
    parser.add_argument(
        "--weights", type=Path, nargs=2, required=True, help="the two weight files of the pair"
    )
    parser.add_argument("--before", type=Path, nargs=2, default=[], help="another pair to compare")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--rows", nargs="+", help="only these rows, e.g. 'ensemble, flips'")
    parser.add_argument("--limit", type=int, help="only the first images, for a trial")
    args = parser.parse_args()
    methods = build_methods(args.weights, args.before)
    unknown = sorted(set(args.rows or ()) - set(methods))
    if unknown:
        parser.error(f"rows {unknown}; expected some of {', '.join(methods)}")
    results, per_image = score_methods(
        {name: methods[name] for name in args.rows or methods},
        args.data,
        common.read_rows(args.data, limit=args.limit),
    )
    digests = {path.name: compute_digest(path) for path in args.weights}
    before = {path.name: compute_digest(path) for path in args.before}
    metadata = common.metadata(split="val", weights=digests, before=before)
    common.write_report(args.output, metadata, results, images=per_image)


if __name__ == "__main__":
    main()
