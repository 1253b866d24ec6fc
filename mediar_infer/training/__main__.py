"""Command line of the training module: ``python -m mediar_infer.training COMMAND …``."""

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final

from mediar_infer.cli import (
    EXIT_USAGE,
    add_logging_options,
    run_command,
    run_process,
    set_up_logging,
)
from mediar_infer.commands.parser import CommandParser
from mediar_infer.process import keep_large_blocks
from mediar_infer.training.commands import TRAINING_PROGRAM

_EXTRA_PACKAGES: Final = frozenset(
    {
        "einops",
        "lightning_fabric",
        "matplotlib",
        "monai",
        "nncf",
        "segmentation_models_pytorch",
        "tensorboard",
        "torch",
        "torchvision",
    }
)
"""Packages of the extra ``training``, under the names by which they are imported."""
_WITHOUT_EXTRA: Final = frozenset({"index", "convert", "generate", "select", "export"})
"""Commands that need none of these packages, or torch alone, which they name as they start."""
_MODULES: Final = "mediar_infer.training.commands"

COMMANDS: Final = {
    "index": (f"{_MODULES}.index", "check images and labels and list them in a data table"),
    "convert": (f"{_MODULES}.convert", "convert a public data set to the layout of this package"),
    "generate": (f"{_MODULES}.generate", "generate synthetic images with ground truth"),
    "stats": (f"{_MODULES}.stats", "measure the shape and size of labelled cells"),
    "sheet": (f"{_MODULES}.sheet", "draw crops before and after each augmentation"),
    "train": (f"{_MODULES}.train", "train all stages of a recipe, or some of them"),
    "pretrain": (f"{_MODULES}.pretrain", "train one of the recipe's pretraining phases"),
    "finetune": (f"{_MODULES}.finetune", "fine-tune from a pretraining phase"),
    "tune": (f"{_MODULES}.tune", "fine-tune the weights on a folder of your own images"),
    "discover": (f"{_MODULES}.discover", "cluster images that look alike"),
    "relabel": (f"{_MODULES}.relabel", "replace labels that disagree with a prediction"),
    "ablate": (f"{_MODULES}.ablate", "run one of the paper's comparisons (Tables 5 to 8)"),
    "select": (f"{_MODULES}.select", "rank several weight files"),
    "export": (f"{_MODULES}.export", "export trained weights for the inference engine"),
    "quantize": (f"{_MODULES}.quantize", "calibrate weights for prediction in int8 on CPUs"),
    "curves": (f"{_MODULES}.curves", "plot the losses and scores of runs"),
}
"""Command → module with ``add_arguments(parser)`` and ``run(args) -> exit code``, and its help."""


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Build the parser; only the named command's module is imported, as imports cost seconds."""
    parser = CommandParser(
        prog=TRAINING_PROGRAM,
        description="Train MEDIAR-Former networks: images and labels in, weights out.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, help_text) in COMMANDS.items():
        child = commands.add_parser(name, help=help_text, description=help_text)
        add_logging_options(child)
        if command == name:
            importlib.import_module(module).add_arguments(child)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        0 all done, 1 data or training failed, 2 wrong use, or a package is missing.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = next((each for each in arguments if each in COMMANDS), None)
    try:
        args = build_parser(command).parse_args(arguments)
        missing = [name for name in _EXTRA_PACKAGES if find_spec(name) is None]
        if missing and args.command not in _WITHOUT_EXTRA:  # now, not after hours of training
            return _refuse(missing)
        stopped = "stopped; rerun with --resume to continue from the last checkpoint"
        return run_command(COMMANDS[args.command][0], args, stopped)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRA_PACKAGES:
            raise
        return _refuse([package])


def _refuse(missing: Sequence[str]) -> int:
    set_up_logging(logging.ERROR)
    logging.getLogger(__name__).error(
        "found no package %s, which this command needs; install the training packages:"
        " pip install 'mediar-infer[training]'",
        ", ".join(sorted(missing)),
    )
    return EXIT_USAGE


if __name__ == "__main__":
    keep_large_blocks()
    run_process(main)
