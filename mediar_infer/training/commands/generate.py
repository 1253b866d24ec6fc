"""The ``generate`` command: synthetic images with known cells, ready for ``index``."""

import argparse
from pathlib import Path

from mediar_infer.training.data.generated import write_generated

_SEED = 19940819


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``generate`` command."""
    parser.add_argument("number", type=int, metavar="N", help="number of images")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="folder to create"
    )
    parser.add_argument(
        "--seed", type=int, default=_SEED, metavar="N", help="random seed (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        0.

    Raises:
        UsageError: if fewer than one image is requested.
        OutputError: if a file cannot be written.
    """
    write_generated(args.number, args.output, args.seed)
    return 0
