r"""Images per second of whole training runs, loader included, on any device in any precision.

    python benchmarks/bench_training_run.py --device cuda --precisions float32 float16 bfloat16 \
        --json benchmarks/results/training_run.json

Trains the first stage of a recipe, from random weights, on generated images: only the amount of
work matters, so no data set is needed. ``wait_share`` is the share of the time that steps waited
for their batch; if it is large, give the loader more ``--workers``.
"""

import argparse
import json
import logging
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import common

from mediar_infer.cli import set_up_logging
from mediar_infer.process import keep_large_blocks
from mediar_infer.training.data.generated import write_generated
from mediar_infer.training.data.index import IndexOptions, index_folders
from mediar_infer.training.stages.execution import Execution
from mediar_infer.training.stages.recipe import Recipe
from mediar_infer.training.stages.recipe_files import find_recipe, read_recipe
from mediar_infer.training.stages.run_folder import StageFolder, read_log
from mediar_infer.training.stages.runner import run_recipe

_WARM_UP = 5
"""Steps at the start that do not count: libraries choose their algorithms in them."""


def build_recipe(args: argparse.Namespace, precision: str) -> Recipe:
    """Build one stage of the size of the recipe's first one."""
    recipe = read_recipe(find_recipe(args.recipe))
    stage = replace(
        recipe.stages[0],
        start="random",
        roles=("public",),
        memory_roles=(),
        memory_per_batch=0,
        exclude_sources=(),
        sampling="all",
        steps=args.steps + _WARM_UP,
        epochs=0.0,
        warmup_steps=_WARM_UP,
        ema_from_step=0,
        checkpoint_every=args.steps + _WARM_UP,
        precision=precision,
    )
    data = replace(recipe.data, workers=args.workers)
    return replace(recipe, data=data, stages=(stage,), blends=())


def measure(args: argparse.Namespace, precision: str, folder: Path) -> dict[str, object]:
    """Train, and read speed and memory off the run's own logs."""
    recipe = build_recipe(args, precision)
    records = index_folders([folder / "images"], (), IndexOptions(hold_out=0)).records
    records = [replace(record, role="public") for record in records]
    run = folder / precision
    run_recipe(recipe, records, run, execution=Execution(args.device, args.processes, args.threads))
    stage, stage_folder = recipe.stages[0], StageFolder(run / recipe.stages[0].name)
    rows = read_log(stage_folder.log_path)[_WARM_UP:]
    step_s, wait_s = (fmean(float(row[key]) for row in rows) for key in ("seconds", "wait_s"))
    summary = json.loads(stage_folder.summary_path.read_text())
    return {
        "precision": precision,
        "device": summary["device"],
        "n_processes": args.processes,
        "batch_size": stage.batch_size,
        "crop_size": stage.crop_size,
        "n_steps": len(rows),
        "images_per_s": round(stage.batch_size / step_s, 2),
        "wait_share": round(wait_s / step_s, 3),
        "peak_memory_bytes": summary["peak_memory_bytes"],
    }


def main() -> None:
    parser = common.make_parser(__doc__)
    parser.add_argument("--recipe", default="pair", help="network and first stage to use")
    parser.add_argument("--device", default="auto", help="as for training")
    parser.add_argument(
        "--precisions", nargs="+", default=["float32"], help="precisions of a recipe, one run each"
    )
    parser.add_argument("--processes", type=int, default=1, help="processes that share every batch")
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads; 0 is the choice of torch"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes of the loader")
    parser.add_argument("--steps", type=int, default=50, help="steps that are timed")
    parser.add_argument("--json", type=Path, help="JSON file to write")
    args = parser.parse_args()
    keep_large_blocks()  # as the commands do
    set_up_logging(logging.INFO)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_generated(16, folder / "images", seed=0)
        results = [measure(args, precision, folder) for precision in args.precisions]
    for result in results:
        print(result, flush=True)
    common.write_report(args.json, common.metadata(recipe=args.recipe), results)


if __name__ == "__main__":
    main()
