"""The ``tune`` command: a folder of labelled images → weights that do better on them."""

import argparse
import sys
from pathlib import Path

from mediar_infer.commands.arguments import add_examples, add_option
from mediar_infer.training.commands import TRAINING_PROGRAM
from mediar_infer.training.commands.run_options import (
    add_execution_arguments,
    add_export_arguments,
    to_execution,
)
from mediar_infer.training.tuning.options import TuneOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``tune`` command."""
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER",
        help="images with NAME_label.tiff beside each, or images/ and labels/",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="NAME.safetensors",
        help="weight file to write; the run is kept in NAME.run",
    )  # fmt: skip
    add_option(parser, TuneOptions, "weights", type=Path, nargs="+", default=[], metavar="PATH")
    add_option(parser, TuneOptions, "memory")
    add_option(parser, TuneOptions, "recipe")
    add_option(parser, TuneOptions, "steps")
    add_option(parser, TuneOptions, "hold_out")
    add_option(parser, TuneOptions, "max_loss")
    add_option(parser, TuneOptions, "accept_predictions")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run")
    add_export_arguments(parser)
    add_execution_arguments(parser)
    add_examples(
        parser,
        (
            "fine-tune on a folder",
            f"{TRAINING_PROGRAM} tune my_images -o mine.safetensors",
        ),
        (
            "keep the quality on other images",
            f"{TRAINING_PROGRAM} tune my_images --memory table.csv -o mine.safetensors",
        ),
    )


def run(args: argparse.Namespace) -> int:
    """Fine-tune, and print scores before and after; 0."""
    # Importing networks importing it takes seconds, which --help need not.
    from mediar_infer.training.tuning.blends import describe_blend
    from mediar_infer.training.tuning.tune import tune

    options = TuneOptions(
        weights=tuple(args.weights),
        memory=args.memory,
        recipe=args.recipe,
        steps=args.steps,
        hold_out=args.hold_out,
        max_loss=args.max_loss,
        accept_predictions=args.accept_predictions,
        replaces=args.replace,
        has_graph=not args.no_graph,
        execution=to_execution(args, resume=args.resume),
    )
    result = tune(args.folder, args.output, options)
    sys.stdout.write(f"{result.start_path}\n{describe_blend(result.start)}\n")
    sys.stdout.write(f"{result.written[0]}\n{describe_blend(result.chosen)}\n")
    return 0
