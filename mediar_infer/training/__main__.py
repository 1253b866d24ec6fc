"""Command line of the training module: ``python -m mediar_infer.training COMMAND …``."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Final

from mediar_infer.cli import add_logging_options, run_command, run_process
from mediar_infer.process import keep_large_blocks

_MODULES: Final = "mediar_infer.training.commands"

COMMANDS: Final = {
    "index": (f"{_MODULES}.index", "check images and labels and list them in a data table"),
    "convert": (f"{_MODULES}.convert", "bring a public data set into our layout"),
    "generate": (f"{_MODULES}.generate", "draw images with known cells"),
    "stats": (f"{_MODULES}.stats", "measure shape and size of labelled cells"),
    "sheet": (f"{_MODULES}.sheet", "draw every augmentation before and after"),
    "train": (f"{_MODULES}.train", "train all stages of a recipe, or some of them"),
    "pretrain": (f"{_MODULES}.pretrain", "train one of the recipe's pretraining phases"),
    "finetune": (f"{_MODULES}.finetune", "fine-tune from a pretraining phase"),
    "tune": (f"{_MODULES}.tune", "fine-tune a model on a folder of your own images"),
    "discover": (f"{_MODULES}.discover", "find clusters of images that look alike"),
    "relabel": (f"{_MODULES}.relabel", "replace labels that disagree with a prediction"),
    "ablate": (f"{_MODULES}.ablate", "run a comparison of the paper, Tables 5 to 8"),
    "select": (f"{_MODULES}.select", "find the best of several weight files"),
    "export": (f"{_MODULES}.export", "make weights that the engine loads"),
    "curves": (f"{_MODULES}.curves", "plot losses and scores of a run"),
}
"""Command → module with ``add_arguments(parser)`` and ``run(args) -> exit code``, and its help."""


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Build the parser; only the named command's module is imported, as imports cost seconds."""
    parser = argparse.ArgumentParser(
        prog="python -m mediar_infer.training",
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
        0 all done, 1 data or training failed, 2 wrong use.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments[0] if arguments and arguments[0] in COMMANDS else None
    args = build_parser(command).parse_args(arguments)
    return run_command(
        COMMANDS[args.command][0], args, "stopped; a run goes on from its last checkpoint: --resume"
    )


if __name__ == "__main__":
    keep_large_blocks()
    run_process(main)
