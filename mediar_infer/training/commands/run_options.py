"""Options that several commands of training share, and the run that follows from them."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mediar_infer.commands.arguments import add_option
from mediar_infer.training.data.table import read_table
from mediar_infer.training.stages.execution import Execution
from mediar_infer.training.stages.recipe_files import find_recipe, list_recipes, read_recipe


def add_table_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--table``."""
    parser.add_argument(
        "--table", type=Path, required=True, metavar="TABLE.csv", help="data table made by 'index'"
    )


def add_scale_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--scale``."""
    parser.add_argument(
        "--scale", type=float, default=1.0, metavar="X",
        help="factor of the length of every stage; 0.01 is a trial run (default: %(default)s)",
    )  # fmt: skip


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--replace`` and ``--no-graph``."""
    parser.add_argument("--replace", action="store_true", help="replace an existing output file")
    parser.add_argument(
        "--no-graph", action="store_true", help="omit the graph for fast prediction on CPUs"
    )


def add_execution_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where and how to compute."""
    for name in ("device", "processes", "threads"):
        add_option(parser, Execution, name)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add recipe, table, run folder, and where and how to compute."""
    parser.add_argument(
        "recipe", metavar="RECIPE", help=f"recipe: {', '.join(list_recipes())} or a TOML file"
    )
    add_table_argument(parser)
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="folder of the run")
    add_option(parser, Execution, "resume")
    add_scale_argument(parser)
    parser.add_argument(
        "--clusters", type=Path, metavar="CLUSTERS.csv",
        help="cluster table made by 'discover' (default: the run makes its own)",
    )  # fmt: skip
    add_execution_arguments(parser)


def to_execution(args: argparse.Namespace, *, resume: bool) -> Execution:
    """Turn the options of ``add_execution_arguments`` into where and how to compute."""
    return Execution(args.device, args.processes, args.threads, resume)


def train(args: argparse.Namespace, stage_names: Sequence[str]) -> int:
    """Train stages of the recipe and print their weights; 0.

    Args:
        args: options of ``add_run_arguments``.
        stage_names: stages to train; all if empty.
    """
    recipe = read_recipe(find_recipe(args.recipe)).scaled(args.scale)
    # Importing networks takes seconds, which --help or a misspelt recipe need not.
    from mediar_infer.training.stages.runner import run_recipe

    made = run_recipe(
        recipe,
        read_table(args.table),
        args.run,
        stage_names=stage_names,
        execution=to_execution(args, resume=args.resume),
        clusters_path=args.clusters,
    )
    for name, path in made.items():
        sys.stdout.write(f"{name}  {path}\n")
    return 0
