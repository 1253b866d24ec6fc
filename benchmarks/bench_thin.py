r"""Images narrower than half a window: F1 and time of windows as released, and of packed ones.

Strips are cut from the middle of labelled images of the train split, some of each modality.
``f1`` is that against their labels, ``agreement`` the F1 of packed labels against released ones,
both over the cells of all strips. Seconds are those of the processor, all threads together.

    python benchmarks/bench_thin.py --data DIR --output benchmarks/results/thin.json

A long thin image is predicted as well, with each plan: ``windows`` counts network calls.
"""

import time
from collections import Counter, defaultdict
from pathlib import Path

import common
import numpy as np
import tifffile

from mediar_infer import EngineConfig, Plan, Segmenter
from mediar_infer.engine.bands import predict_bands
from mediar_infer.engine.packing import count_places
from mediar_infer.engine.preprocess import compute_scaling
from mediar_infer.image_trace import Trace
from mediar_infer.images.sources import ArraySource
from mediar_infer.labels.metrics import Scores, evaluate_labels, sum_scores
from mediar_infer.tolerance import tolerance_s

CONFIGS = {
    "released": EngineConfig(plan=Plan()),
    "packed": EngineConfig(plan=Plan(packed=True)),
}
LEAST_SIDE = 256


def choose_rows(data: Path, per_modality: int) -> list[dict[str, str]]:
    """Large enough images of the train split, the first of each modality, in turn."""
    by_modality: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in common.read_rows(data, "train"):
        if min(int(row["height"]), int(row["width"])) >= LEAST_SIDE:
            by_modality[row["modality"]].append(row)
    # Spread over each modality, whose images are sorted by source.
    return [
        rows[i * len(rows) // per_modality]
        for i in range(per_modality)
        for _, rows in sorted(by_modality.items())
        if i < len(rows)
    ]


def add_up(scores: list[Scores]) -> dict[str, float]:
    """F1 over the cells of all images."""
    pooled = sum_scores(scores)
    return {"f1": pooled.f1, "n_true": pooled.n_true, "n_pred": pooled.n_pred}


class StripBench:
    """Scores of strips of each height with each way to lay windows."""

    def __init__(self) -> None:
        loaded = Segmenter.from_weights(config=CONFIGS["released"])
        self.segmenters = {
            name: Segmenter(loaded.members, config, flow_threshold=loaded.flow_threshold)
            for name, config in CONFIGS.items()
        }
        self.against_truth: dict[tuple[str, int], list[Scores]] = defaultdict(list)
        self.agreement: dict[int, list[Scores]] = defaultdict(list)
        self.cpu_s: Counter[tuple[str, int]] = Counter()
        self.places: dict[int, set[int]] = defaultdict(set)

    def add(self, image: np.ndarray, true: np.ndarray, height: int) -> None:
        """Cut a strip of a height and segment it."""
        top = (image.shape[0] - height) // 2
        strip, truth = (np.ascontiguousarray(each[top : top + height]) for each in (image, true))
        packed = CONFIGS["packed"]
        self.places[height].add(count_places(*strip.shape[:2], packed.plan, packed.roi_size))
        labels = {}
        for name, segmenter in self.segmenters.items():
            started = time.process_time()
            labels[name] = segmenter.segment(strip).labels
            self.cpu_s[name, height] += time.process_time() - started
            self.against_truth[name, height].append(evaluate_labels(truth, labels[name])[0])
        self.agreement[height].append(evaluate_labels(labels["released"], labels["packed"])[0])

    def results(self) -> list[dict[str, object]]:
        """One entry per height."""
        return [
            {
                "height": height,
                "n_strips": len(scores),
                "windows_in_one": sorted(self.places[height]),
                **{
                    name: add_up(self.against_truth[name, height])
                    | {"cpu_s": self.cpu_s[name, height]}
                    for name in self.segmenters
                },
                "agreement": add_up(scores)["f1"],
            }
            for height, scores in sorted(self.agreement.items())
        ]


def time_thin(segmenter: Segmenter, height: int, width: int) -> dict[str, object]:
    """Processor seconds and network calls of the maps of a thin image of noise."""
    image = np.random.default_rng(0).integers(0, 255, (height, width), np.uint8)
    source = ArraySource(image)
    results: dict[str, object] = {"height": height, "width": width}
    for name, config in CONFIGS.items():
        trace, members = Trace(), [_Counted(member) for member in segmenter.members]
        started = time.process_time()
        for _ in predict_bands(source, compute_scaling(source), members, config, trace):
            pass
        results[name] = {
            "cpu_s": time.process_time() - started,
            "windows": sum(m.n_windows for m in members),
        }
    return results | {"tolerance_s": tolerance_s(height, width)}


class _Counted:
    """A member that counts its windows."""

    def __init__(self, member: object) -> None:
        self._member, self.n_windows = member, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._member, name)

    def start(self, inputs: object) -> object:
        self.n_windows += len(inputs)
        return self._member.start(inputs)


def main() -> None:
    parser = common.make_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="images/, labels/, manifest.csv")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument(
        "--heights", type=int, nargs="+", default=[48, 96, 160, 240],
        help="heights of the strips in pixels",
    )  # fmt: skip
    parser.add_argument("--per-modality", type=int, default=3, help="images of each modality")
    parser.add_argument(
        "--thin", type=int, nargs=2, default=[24, 6000], metavar=("H", "W"),
        help="height and width of the long thin image",
    )  # fmt: skip
    args = parser.parse_args()
    bench = StripBench()
    thin = [
        time_thin(bench.segmenters["released"], *shape) for shape in (args.thin, args.thin[::-1])
    ]
    metadata = common.metadata(split="train", overlap=Plan().overlap)
    rows = choose_rows(args.data, args.per_modality)
    for done, row in enumerate(rows, start=1):
        image = common.read_image(args.data / row["image"])
        true = tifffile.imread(args.data / row["label"])
        for height in args.heights:
            bench.add(image, true, height)
        common.write_report(args.output, metadata, {"strips": bench.results(), "thin": thin})
        print(f"{done}/{len(rows)} {row['id']}", flush=True)


if __name__ == "__main__":
    main()
