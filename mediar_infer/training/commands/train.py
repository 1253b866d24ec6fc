"""The ``train`` command: a recipe and a data table → a run folder with trained weights."""

import argparse

from mediar_infer.commands.arguments import add_examples
from mediar_infer.training.commands import TRAINING_PROGRAM
from mediar_infer.training.commands.run_options import add_run_arguments, train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``train`` command."""
    add_run_arguments(parser)
    parser.add_argument(
        "--stage", nargs="+", default=[], metavar="NAME",
        help="train only these stages of the recipe (default: all)",
    )  # fmt: skip
    add_examples(
        parser,
        (
            "all stages of a recipe",
            f"{TRAINING_PROGRAM} train small --table table.csv --run runs/small",
        ),
        (
            "continue after an interruption",
            f"{TRAINING_PROGRAM} train small --table table.csv --run runs/small --resume",
        ),
        (
            "a quick trial",
            f"{TRAINING_PROGRAM} train small --table table.csv --run runs/trial --scale 0.01",
        ),
    )


def run(args: argparse.Namespace) -> int:
    """Train; 0."""
    return train(args, args.stage)
