"""The ``tune`` command: a folder of one's own labelled images → weights that do better on them."""

import argparse
import sys
from pathlib import Path

from mediar_infer.training.commands.run_options import add_execution_arguments, execution_of
from mediar_infer.training.tuning.blends import describe_blend
from mediar_infer.training.tuning.tune import TuneOptions, tune


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``tune`` command."""
    defaults = TuneOptions()
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="images with NAME_label.tiff beside each"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="NAME.safetensors")
    parser.add_argument(
        "--weights", type=Path, nargs="+", default=[], help="start weights (default: ours)"
    )
    parser.add_argument(
        "--memory",
        type=Path,
        metavar="FOLDER",
        help="labelled images, or a data table, of what must not be forgotten",
    )
    parser.add_argument("--recipe", default=defaults.recipe, help=f"default: {defaults.recipe}")
    parser.add_argument(
        "--steps", type=int, default=0, metavar="N", help="at most (default: that of the recipe)"
    )
    parser.add_argument(
        "--hold-out",
        type=float,
        default=defaults.hold_out,
        metavar="SHARE",
        help=f"of the images, which only judge (default: {defaults.hold_out})",
    )
    parser.add_argument(
        "--accept-predictions",
        action="store_true",
        help="train on labels that this package predicted, as they are",
    )
    parser.add_argument("--resume", action="store_true", help="go on with a stopped run")
    parser.add_argument("--replace", action="store_true", help="replace a file of this name")
    parser.add_argument(
        "--no-graph", action="store_true", help="leave out the graph for fast prediction on CPUs"
    )
    add_execution_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Fine-tune, and print scores before and after; 0."""
    options = TuneOptions(
        weights=tuple(args.weights),
        memory=args.memory,
        recipe=args.recipe,
        steps=args.steps,
        hold_out=args.hold_out,
        accept_predictions=args.accept_predictions,
        replaces=args.replace,
        has_graph=not args.no_graph,
        execution=execution_of(args, resume=args.resume),
    )
    result = tune(args.folder, args.output, options)
    sys.stdout.write(f"{result.start_path}\n{describe_blend(result.start)}\n")
    sys.stdout.write(f"{result.written[0]}\n{describe_blend(result.chosen)}\n")
    return 0
