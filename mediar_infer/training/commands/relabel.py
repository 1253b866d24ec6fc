"""The ``relabel`` command: predictions instead of labels that disagree or are missing."""

import argparse
import logging
from collections import Counter
from pathlib import Path

from mediar_infer.commands.arguments import add_option
from mediar_infer.config import PLANS
from mediar_infer.training.commands.run_options import add_table_argument
from mediar_infer.training.data.table import ROLES, read_table, select_records, write_table
from mediar_infer.training.stages.execution import Execution
from mediar_infer.training.stages.recipe import RelabellingConfig

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``relabel`` command."""
    add_table_argument(parser)
    parser.add_argument(
        "--weights", type=Path, nargs="+", required=True, metavar="PATH",
        help="one or two weight files",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR",
        help="folder for labels/, the log relabelling.csv, and table.csv, which is the data table"
        " with the new labels",
    )  # fmt: skip
    parser.add_argument(
        "--roles", nargs="+", choices=ROLES, default=["target"],
        help="roles of the images to relabel; unlabelled images get pseudo-labels and become"
        " targets (default: target)",
    )  # fmt: skip
    add_option(parser, RelabellingConfig, "min_f1")
    parser.add_argument(
        "--plan",
        choices=PLANS,
        default="single",
        help="plan of the prediction (default: %(default)s)",
    )
    parser.add_argument("--overlays", action="store_true", help="draw old labels beside new ones")
    add_option(parser, Execution, "device")


def run(args: argparse.Namespace) -> int:
    """Run the command; 0 when all files are written.

    Raises:
        UsageError: if there is no such image, or the output would replace a file of the data.
        CheckpointError: if the weights are not those of a MEDIAR-Former.
        ImageReadError: if an image or its labels cannot be read.
        OutputError: if a file cannot be written.
    """
    # Importing networks takes seconds, which --help need not.
    from mediar_infer.training.stages.relabelling import find_label_paths, relabel, replace_labels
    from mediar_infer.training.stages.scoring import load_for_scoring

    table = read_table(args.table)
    decisions = relabel(
        load_for_scoring(args.weights, args.device, args.plan),
        select_records(table, args.roles, "train"),
        args.output,
        min_f1=args.min_f1,
        with_overlays=args.overlays,
    )
    label_paths = find_label_paths(args.output, decisions)
    write_table(replace_labels(table, label_paths), args.output / "table.csv")
    for action, number in Counter(decision.action for decision in decisions).most_common():
        logger.info("%s: %d of %d images", action, number, len(decisions))
    return 0
