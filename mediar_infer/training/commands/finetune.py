"""The ``finetune`` command: all stages that follow one of the recipe's pretraining phases."""

import argparse

from mediar_infer.errors import UsageError
from mediar_infer.training.commands.run_options import add_run_arguments, train
from mediar_infer.training.stages.recipe import Recipe
from mediar_infer.training.stages.recipe_files import find_recipe, read_recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``finetune`` command."""
    add_run_arguments(parser)
    parser.add_argument(
        "--from-phase", type=int, choices=(1, 2), required=True,
        help="pretraining phase to start from",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Train; 0."""
    recipe = read_recipe(find_recipe(args.recipe))
    return train(args, find_finetuning(recipe, args.from_phase))


def find_finetuning(recipe: Recipe, phase: int) -> list[str]:
    """Find the stages that start, one after the other, from a pretraining phase.

    Raises:
        UsageError: if it does not exist.
    """
    found = {f"pretrain_phase{phase}"}
    names = []
    for stage in recipe.stages:
        is_next = stage.start.removeprefix("stage:") in found
        if is_next and not stage.name.startswith("pretrain"):
            found.add(stage.name)
            names.append(stage.name)
    if not names:
        raise UsageError(
            f"recipe {recipe.name}: found no stage that starts from pretrain_phase{phase}, expected"
            f' one with start = "stage:pretrain_phase{phase}"'
        )
    return names
