r"""Fine-tuning on ten images of a source that a network has not seen: F1 there and elsewhere.

    python -m mediar_infer.training index DATA -o table.csv --hold-out 0 \
        --role-of dsb=public bbbc039=public omnipose=public yeastvision=public
    python -m mediar_infer.training train benchmarks/tune_start.toml --table table.csv --run START
    python benchmarks/bench_tune.py --table table.csv --start START/windows/weights.safetensors \
        --source oist/Usiigaci --work WORK --json benchmarks/results/tune.json

The start weights have the shipped size and were trained on all training images except those of one
source. Ten of that source are drawn for the command that users run, with the other training images
as memory and without any; all others of it, and the held-out images of all other sources, are
scored before and after, and decide nothing on the way.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import common
import numpy as np

from mediar_infer.network.weight_files import compute_digest
from mediar_infer.training.data.table import (
    LABELLED_ROLES,
    TrainingImage,
    read_table,
    select_records,
    write_table,
)
from mediar_infer.training.stages.scoring import ImageScore, score_weights

_HOLD_OUT = 10
"""One image of the memory in so many is held out."""


def write_user_folder(records: list[TrainingImage], folder: Path) -> None:
    """Write the ten images as a user has them: NAME.png with NAME_label.tiff beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for record in records:
        assert record.label_path is not None
        shutil.copy(record.image_path, folder)
        shutil.copy(record.label_path, folder)


def run_tune(
    folder: Path, start: Path, output: Path, more: list[str], *, is_resumed: bool
) -> dict[str, object]:
    """Run the command; return how long it trained and what it printed."""
    run_path = output.with_suffix(".run")
    output.unlink(missing_ok=True)
    if run_path.exists() and is_resumed:
        more = [*more, "--resume", "--replace"]
    else:
        shutil.rmtree(run_path, ignore_errors=True)
    command = ["tune", str(folder), "-o", str(output), "--weights", str(start), "--no-graph", *more]
    done = subprocess.run(
        [sys.executable, "-m", "mediar_infer.training", *command], capture_output=True, text=True
    )
    print(done.stderr[-2000:] if done.returncode else done.stdout, flush=True)
    summary = json.loads((run_path / "tune" / "summary.json").read_text())
    return {
        "train_s": round(summary["seconds"], 1),
        "n_steps": summary["n_steps"],
        "blends": json.loads((run_path / "candidates.json").read_text()),
        "exit_code": done.returncode,
        "printed": done.stdout.splitlines()[-1:] or done.stderr.splitlines()[-1:],
    }


def summarise(scores: list[ImageScore]) -> dict[str, object]:
    """Mean F1 at IoU 0.5 of all images, and of each modality."""
    groups: dict[str, list[float]] = defaultdict(list)
    for score in scores:
        groups[score.record.modality].append(score.f1)
    return {
        "n_images": len(scores),
        "f1": round(fmean(score.f1 for score in scores), 4),
        "f1_of_modality": {name: round(fmean(f1s), 4) for name, f1s in sorted(groups.items())},
    }


def write_data(
    records: list[TrainingImage], args: argparse.Namespace, folder: Path, memory: Path
) -> list[TrainingImage]:
    """Write the user's folder and the memory's table; the images in the folder.

    The held-out images are used only at the end: the memory holds out some of its own.
    """
    own, others = split_by_source(records, args.source)
    trained = select_records(own, LABELLED_ROLES, "train")
    picked = np.random.default_rng(args.seed).permutation(len(trained))[: args.images]
    chosen = [trained[index] for index in sorted(picked)]
    write_user_folder(chosen, folder)
    replayed = select_records(others, LABELLED_ROLES, "train")
    write_table(
        [replace(r, split="val") if i % _HOLD_OUT == 0 else r for i, r in enumerate(replayed)],
        memory,
    )
    return chosen


def split_by_source(
    records: list[TrainingImage], source: str
) -> tuple[list[TrainingImage], list[TrainingImage]]:
    """Images of a source, and all others."""
    own = [record for record in records if record.source == source]
    return own, [record for record in records if record.source != source]


def score(
    weights: Path, rest: list[TrainingImage], known: list[TrainingImage]
) -> dict[str, object]:
    """Scores on the source's other images, and on held-out ones of the sources trained on."""
    result = {
        "other images of the source": summarise(score_weights(weights, rest)),
        "held-out images of other sources": summarise(score_weights(weights, known)),
    }
    print(weights.name, {name: value["f1"] for name, value in result.items()}, flush=True)
    return result


def main() -> None:
    parser = common.make_parser(__doc__)
    parser.add_argument("--table", type=Path, required=True, help="data table made by index")
    parser.add_argument(
        "--start", type=Path, required=True, help="weights that have not seen the source"
    )
    parser.add_argument("--source", required=True, help="source name in the table")
    parser.add_argument("--images", type=int, default=10, help="images of the source to tune on")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of images")
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads; 0 is the choice of torch"
    )
    parser.add_argument("--recipe", default="finetune", help="recipe of the command")
    parser.add_argument("--work", type=Path, required=True, help="folder for weights and runs")
    parser.add_argument("--resume", action="store_true", help="continue with what WORK holds")
    parser.add_argument("--json", type=Path, help="JSON file to write")
    args = parser.parse_args()
    records = read_table(args.table)
    folder, memory = args.work / "images", args.work / "memory.csv"
    chosen = write_data(records, args, folder, memory)
    own, others = split_by_source(records, args.source)
    rest = [record for record in own if record not in chosen]
    known = select_records(others, LABELLED_ROLES, "val")
    results: dict[str, object] = {"before": score(args.start, rest, known)}
    threads = ["--threads", str(args.threads), "--recipe", args.recipe]
    for name, more in (("with memory", ["--memory", str(memory)]), ("without memory", [])):
        output = args.work / f"{name.replace(' ', '_')}.safetensors"
        told = run_tune(folder, args.start, output, [*more, *threads], is_resumed=args.resume)
        results[name] = told | (score(output, rest, known) if output.exists() else {})
    metadata = common.metadata(
        source=args.source,
        n_images=len(chosen),
        seed=args.seed,
        recipe=args.recipe,
        start=compute_digest(args.start),
    )
    common.write_report(args.json, metadata, results)


if __name__ == "__main__":
    main()
