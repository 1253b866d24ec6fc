"""The ``pretrain`` command: the recipe's stage ``pretrain_phase1`` or ``pretrain_phase2``."""

import argparse

from mediar_infer.training.commands.run_options import add_run_arguments, train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``pretrain`` command."""
    add_run_arguments(parser)
    parser.add_argument(
        "--phase", type=int, choices=(1, 2), required=True,
        help="1: public images; 2: public and target images, starting from phase 1",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Train; 0."""
    return train(args, [f"pretrain_phase{args.phase}"])
