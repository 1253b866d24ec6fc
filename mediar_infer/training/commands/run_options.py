"""Options that train, pretrain and finetune share, and the run that follows from them."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mediar_infer.training.data.table import read_table
from mediar_infer.training.stages.recipe_files import find_recipe, list_recipes, read_recipe

if TYPE_CHECKING:
    from mediar_infer.training.stages.execution import Execution


def add_execution_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where and how to compute."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="share every batch")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads of each")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add recipe, table, run folder, and where and how to compute."""
    parser.add_argument(
        "recipe", metavar="RECIPE", help=f"a TOML file, or one of {', '.join(list_recipes())}"
    )
    parser.add_argument("--table", type=Path, required=True, help="data table made by 'index'")
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on with what the folder holds")
    parser.add_argument(
        "--scale", type=float, default=1.0, metavar="FACTOR", help="of all lengths; 0.01 is a trial"
    )
    parser.add_argument("--clusters", type=Path, help="cluster table in place of DIR/discovery")
    add_execution_arguments(parser)


def execution_of(args: argparse.Namespace, *, resume: bool) -> "Execution":
    """Take where and how to compute from the options."""
    from mediar_infer.training.stages.execution import Execution

    return Execution(args.device, args.processes, args.threads, resume)


def train(args: argparse.Namespace, stage_names: Sequence[str]) -> int:
    """Train stages of the recipe and print the weights they made; 0.

    Args:
        args: options of ``add_run_arguments``.
        stage_names: stages to train; none are all.
    """
    recipe = read_recipe(find_recipe(args.recipe)).scaled(args.scale)
    # Networks and transforms take seconds to import: not for --help, nor for a misspelt recipe.
    from mediar_infer.training.stages.runner import run_recipe

    made = run_recipe(
        recipe,
        read_table(args.table),
        args.run,
        stage_names=stage_names,
        execution=execution_of(args, resume=args.resume),
        clusters_path=args.clusters,
    )
    for name, path in made.items():
        sys.stdout.write(f"{name}  {path}\n")
    return 0
