"""The ``curves`` command: logs of runs → a plot of losses and scores."""

import argparse
import sys
from pathlib import Path

from mediar_infer.training.stages.curves import draw_curves


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``curves`` command."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="DIR", help="run folders to compare")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="CURVES.png", help="plot to write"
    )
    parser.add_argument(
        "--stage", nargs="+", default=[], metavar="NAME", help="plot only these stages"
    )


def run(args: argparse.Namespace) -> int:
    """Draw; 0."""
    draw_curves(args.runs, args.output, args.stage)
    sys.stdout.write(f"{args.output}\n")
    return 0
