"""The ``train`` command: a recipe and a data table → a run folder with trained weights."""

import argparse

from mediar_infer.training.commands.run_options import add_run_arguments, train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``train`` command."""
    add_run_arguments(parser)
    parser.add_argument(
        "--stage", nargs="+", default=[], metavar="NAME", help="only these stages of the recipe"
    )


def run(args: argparse.Namespace) -> int:
    """Train; 0."""
    return train(args, args.stage)
