"""The ``export`` command: trained weights → a folder that ``predict --weights`` takes."""

import argparse
import sys
from pathlib import Path

from mediar_infer.training.commands.run_options import add_export_arguments
from mediar_infer.training.export import export_weights


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``export`` command."""
    parser.add_argument(
        "weights", type=Path, metavar="WEIGHTS", help="weight file of a stage or blend of a run"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="NAME.safetensors",
        help="weight file to write; manifest.json and a model card are written beside it",
    )  # fmt: skip
    parser.add_argument(
        "--flow-threshold", type=float, metavar="X",
        help="flow error above which predict removes cells of these weights by default, noted in"
        " the manifest (default: that of the source if its manifest states one)",
    )  # fmt: skip
    add_export_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Export and print what was written; 0."""
    written = export_weights(
        args.weights,
        args.output,
        replaces=args.replace,
        has_graph=not args.no_graph,
        flow_threshold=args.flow_threshold,
    )
    for path in written:
        sys.stdout.write(f"{path}\n")
    return 0
