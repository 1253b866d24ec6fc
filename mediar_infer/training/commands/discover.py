"""The ``discover`` command: target images → clusters, contact sheets and a projection."""

import argparse
import logging
from pathlib import Path

from mediar_infer.commands.arguments import add_option
from mediar_infer.training.commands.run_options import add_table_argument
from mediar_infer.training.data.table import ROLES, read_table, select_records
from mediar_infer.training.stages.execution import Execution
from mediar_infer.training.stages.recipe import DiscoveryConfig

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``discover`` command."""
    add_table_argument(parser)
    parser.add_argument(
        "--weights", type=Path, required=True, metavar="PATH", help="weights of the phase-1 model"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR",
        help="folder for the cluster table, contact sheets and projection",
    )  # fmt: skip
    parser.add_argument(
        "--roles", nargs="+", choices=ROLES, default=["target"],
        help="roles of the images to cluster (default: target)",
    )  # fmt: skip
    add_option(parser, DiscoveryConfig, "n_clusters", "-k", "--clusters", dest="clusters")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of k-means (default: %(default)s)"
    )
    add_option(parser, Execution, "device")


def run(args: argparse.Namespace) -> int:
    """Run the command; 0 when all files are written.

    Raises:
        UsageError: if the table holds no such image, or the device does not exist.
        CheckpointError: if the weights are not those of a MEDIAR-Former.
        ImageReadError: if an image cannot be read.
        OutputError: if a file cannot be written.
    """
    # Importing networks takes seconds, which --help need not.
    from mediar_infer.training.stages.discovery import discover

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
