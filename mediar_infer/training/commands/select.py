"""The ``select`` command: several weight files → a ranking on held-out images."""

import argparse
import logging
import math
import sys
from pathlib import Path

from mediar_infer.commands.arguments import add_option
from mediar_infer.errors import UsageError
from mediar_infer.training.commands.run_options import add_table_argument
from mediar_infer.training.data.csv_files import write_rows
from mediar_infer.training.data.table import LABELLED_ROLES, read_table, select_records
from mediar_infer.training.stages.execution import Execution
from mediar_infer.training.stages.scoring import (
    ImageScore,
    compute_mean_f1,
    count_cells,
    score_weights,
)

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``select`` command."""
    parser.add_argument(
        "weights", type=Path, nargs="+", metavar="WEIGHTS", help="weight files to compare"
    )
    add_table_argument(parser)
    parser.add_argument(
        "--by", choices=("f1", "count"), default="f1",
        help="mean F1 at IoU 0.5 on the held-out images, or number of cells found on the tuning"
        " images (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--roles", nargs="+", choices=LABELLED_ROLES, default=list(LABELLED_ROLES),
        help=f"roles of the held-out images (default: {' '.join(LABELLED_ROLES)})",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=Path, metavar="SCORES.csv", help="also write the score of each image"
    )
    add_option(parser, Execution, "device")


def run(args: argparse.Namespace) -> int:
    """Score all files and print them, the best first; 0.

    Raises:
        UsageError: if the table has no image to score.
    """
    records = read_table(args.table)
    by_f1 = args.by == "f1"
    chosen = select_records(
        records, args.roles if by_f1 else ("tuning",), "val" if by_f1 else "train"
    )
    if not chosen:
        expected = "held-out images (split val)" if by_f1 else "tuning images"
        raise UsageError(
            f"{args.table}: found no {expected}, expected at least one; see 'index --help'"
        )
    scores = {path: score_weights(path, chosen, args.device) for path in args.weights}
    compute = compute_mean_f1 if by_f1 else count_cells
    values = {path: compute(each) for path, each in scores.items()}
    measure = "mean F1 at IoU 0.5 on held-out" if by_f1 else "cells found on tuning"
    logger.info("best first: %s images (%d)", measure, len(chosen))
    for path in sorted(values, key=lambda path: -values[path]):
        shown = f"{values[path]:.4f}" if by_f1 else str(values[path])
        sys.stdout.write(f"{shown}  {path}\n")
    if args.output:
        _write(scores, args.output)
    return 0


def _write(scores: dict[Path, list[ImageScore]], path: Path) -> None:
    rows = []
    for weights, image_scores in scores.items():
        for score in image_scores:
            record = score.record
            f1 = f"{score.f1:.6f}" if score.f1s and not math.isnan(score.f1) else ""
            rows.append((weights, record.image_id, record.modality, score.n_cells, f1))
    write_rows(path, ("weights", "image_id", "modality", "n_cells", "f1"), rows)
