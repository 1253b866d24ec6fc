"""Command line of the training module: ``python -m mediar_infer.training --data DIR RECIPE``."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from mediar_infer.errors import MediarError
from mediar_infer.training.data import load_samples, make_generated_samples, read_manifest
from mediar_infer.training.recipes import RECIPES, build_recipe, run_recipe

logger = logging.getLogger(__name__)

_GENERATED_SEED = 19940819


def build_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(
        prog="python -m mediar_infer.training", description="Train one small MEDIAR-Former."
    )
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="parent of run folders")
    parser.add_argument("--name", help="name of the run folder; default: the recipe's name")
    parser.add_argument("--cache", type=Path, help="unit flows; default: RUNS/cache")
    parser.add_argument("--pretraining-steps", type=int, default=600)
    parser.add_argument("--finetuning-steps", type=int, default=1400)
    parser.add_argument("--broadening-steps", type=int, default=2300)
    parser.add_argument("--settling-steps", type=int, default=400)
    parser.add_argument(
        "--generated", type=int, default=160, metavar="N", help="generated images beside the data"
    )
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Train; return the exit code: 0, or 1 after an error that says what to do."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    try:
        _train(args)
    except MediarError as error:
        logger.error("%s", error)
        return 1
    return 0


def _train(args: argparse.Namespace) -> None:
    if args.threads:
        torch.set_num_threads(args.threads)
    recipe = build_recipe(
        args.recipe,
        pretraining_steps=args.pretraining_steps,
        finetuning_steps=args.finetuning_steps,
        broadening_steps=args.broadening_steps,
        settling_steps=args.settling_steps,
    )
    cache_dir = args.cache or args.runs / "cache"
    samples = load_samples(read_manifest(args.data, "train"), cache_dir)
    samples += make_generated_samples(args.generated, _GENERATED_SEED, cache_dir)
    run_recipe(
        recipe,
        samples,
        args.runs / (args.name or recipe.name),
        resume=args.resume,
        device=args.device,
    )


if __name__ == "__main__":
    raise SystemExit(main())
