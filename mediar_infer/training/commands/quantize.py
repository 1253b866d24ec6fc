"""The ``quantize`` command: weights and training images → ranges for prediction in int8."""

import argparse
import sys
from pathlib import Path

from mediar_infer.commands.arguments import add_examples, add_option
from mediar_infer.network.weight_files import find_weights
from mediar_infer.training.commands import TRAINING_PROGRAM
from mediar_infer.training.commands.run_options import add_table_argument
from mediar_infer.training.data.table import read_table
from mediar_infer.training.quantisation import Calibration, quantise_weights


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``quantize`` command."""
    parser.add_argument(
        "weights", type=Path, nargs="*", metavar="WEIGHTS",
        help="folder of weights, or one or two weight files (default: the shipped pair)",
    )  # fmt: skip
    add_table_argument(parser)
    add_option(parser, Calibration, "windows")
    add_option(parser, Calibration, "seed")
    add_examples(
        parser,
        (
            "calibrate a pair, then predict in int8",
            f"{TRAINING_PROGRAM} quantize weights/ --table table.csv\n"
            "  mediar-infer predict -i images/ -o labels/ --weights weights/ --precision int8",
        ),
    )


def run(args: argparse.Namespace) -> int:
    """Calibrate and print the files that were written; 0."""
    paths = find_weights(args.weights)
    records = read_table(args.table)
    calibration = Calibration(args.windows, args.seed)
    for path in quantise_weights(paths, records, calibration):
        sys.stdout.write(f"{path}\n")
    return 0
