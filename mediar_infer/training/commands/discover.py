"""The ``discover`` command: target images → clusters, contact sheets and a projection."""

import argparse
import logging
from pathlib import Path

from mediar_infer.training.data.table import ROLES, read_table, select_records
from mediar_infer.training.stages.clustering import N_CLUSTERS
from mediar_infer.training.stages.discovery import discover

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``discover`` command."""
    parser.add_argument("--table", type=Path, required=True, help="data table made by 'index'")
    parser.add_argument("--weights", type=Path, required=True, help="weights of the phase-1 model")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument(
        "--roles", nargs="+", choices=ROLES, default=["target"], help="default: target"
    )
    parser.add_argument("-k", "--clusters", type=int, default=N_CLUSTERS, help="default: 40")
    parser.add_argument("--seed", type=int, default=0, help="of the starts of k-means")
    parser.add_argument("--device", default="auto")


def run(args: argparse.Namespace) -> int:
    """Carry out the command; 0 when all files are written.

    Raises:
        UsageError: if the table holds no such image, or the device is not there.
        CheckpointError: if the weights are no MEDIAR-Former.
        ImageReadError: if an image cannot be read.
        OutputError: if a file cannot be written.
    """
    records = select_records(read_table(args.table), args.roles, "train")
    clusters = discover(
        args.weights,
        records,
        args.output,
        n_clusters=args.clusters,
        seed=args.seed,
        device=args.device,
    )
    logger.info("wrote %s: %d images", args.output, len(clusters))
    return 0
