"""The ``ablate`` command: one of the paper's Tables 5 to 8, run with a recipe of any size."""

import argparse
import sys
from pathlib import Path
from typing import Final

from mediar_infer.training.commands.run_options import (
    add_execution_arguments,
    add_scale_argument,
    add_table_argument,
    to_execution,
)
from mediar_infer.training.comparisons.ablation import Setting, hide_labels, run_table
from mediar_infer.training.comparisons.ablation_report import write_report
from mediar_infer.training.comparisons.ablation_table import find_table, read_ablation
from mediar_infer.training.data.table import read_table
from mediar_infer.training.stages.recipe_files import (
    find_recipe,
    list_recipes,
    merge_values,
    read_values,
)

RECIPE: Final = "comparison"
"""Recipe that the rows of a table vary by default: an hour or less of CPU time each."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``ablate`` command."""
    parser.add_argument(
        "ablation", metavar="TABLE", help="table of the paper, table5 to table8, or a TOML file"
    )
    parser.add_argument(
        "--recipe", default=RECIPE, metavar="RECIPE",
        help=f"recipe that the rows vary: {', '.join(list_recipes())} or a TOML file"
        " (default: %(default)s)",
    )  # fmt: skip
    add_table_argument(parser)
    parser.add_argument(
        "--run", type=Path, required=True, metavar="DIR",
        help="folder of all runs and results; finished runs in it are kept",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", type=int, default=2, metavar="N", help="runs per row (default: %(default)s)"
    )
    add_scale_argument(parser)
    parser.add_argument(
        "--crop-size", type=int, metavar="PX",
        help="side of the crops in all stages (default: that of the recipe)",
    )  # fmt: skip
    parser.add_argument(
        "--rows", nargs="+", default=[], metavar="KEY",
        help="run only these rows and those they need (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--hide-labels", type=float, default=0.0, metavar="X",
        help="treat this fraction of the target images as unlabelled, for Table 8 where none"
        " are unlabelled (default: %(default)s)",
    )  # fmt: skip
    add_execution_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the rows that are not finished, write the results and print their files; 0.

    Raises:
        UsageError: if recipe, table and images do not fit together.
        MediarError: anything that training and scoring raise.
    """
    table, recipe_path = read_ablation(find_table(args.ablation)), find_recipe(args.recipe)
    values = read_values(recipe_path)
    if args.crop_size is not None:
        sizes = {name: {"crop_size": args.crop_size} for name in values["stages"]}
        values = merge_values(values, {"stages": sizes})
    records = read_table(args.table)
    if args.hide_labels:
        records = hide_labels(records, args.hide_labels, int(values.get("seed", 0)))
    setting = Setting(
        recipe=values,
        where=str(recipe_path),
        records=records,
        run_path=args.run,
        scale=args.scale,
        execution=to_execution(args, resume=True),
    )
    results = run_table(table, setting, args.seeds, args.rows)
    metadata = {
        "recipe": values.get("name"),
        "scale": args.scale,
        "crop size": args.crop_size or "of the recipe",
        "seeds": args.seeds,
        "images": len(records),
        "hidden labels": args.hide_labels,
        "device": args.device,
    }
    for path in write_report(args.run, table, results, metadata):
        sys.stdout.write(f"{path}\n")
    return 0
