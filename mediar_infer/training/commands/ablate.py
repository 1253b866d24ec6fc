"""The ``ablate`` command: one of the paper's Tables 5 to 8, run with a recipe of any scale."""

import argparse
import sys
from pathlib import Path

from mediar_infer.training.commands.run_options import add_execution_arguments, execution_of
from mediar_infer.training.comparisons.ablation import Setting, hide_labels, run_table
from mediar_infer.training.comparisons.ablation_report import write_report
from mediar_infer.training.comparisons.ablation_table import find_table, read_ablation
from mediar_infer.training.data.table import read_table
from mediar_infer.training.stages.recipe_files import find_recipe, merge_values, read_values


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``ablate`` command."""
    parser.add_argument("ablation", metavar="TABLE", help="table5 … table8, or a TOML file")
    parser.add_argument("--recipe", default="comparison", help="X")
    parser.add_argument("--table", type=Path, required=True, help="data table made by 'index'")
    parser.add_argument(
        "--run", type=Path, required=True, metavar="DIR",
        help="folder of all runs and results; what it holds is kept",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="default: 2")
    parser.add_argument(
        "--scale", type=float, default=1.0, metavar="FACTOR", help="of all lengths; 0.01 is a trial"
    )
    parser.add_argument(
        "--crop-size", type=int, metavar="PX", help="of all stages (default: that of the recipe)"
    )
    parser.add_argument("--rows", nargs="+", default=[], metavar="KEY", help="only these rows")
    parser.add_argument(
        "--hide-labels", type=float, default=0.0, metavar="SHARE",
        help="make this share of the target images unlabelled, where there are none (Table 8)",
    )  # fmt: skip
    add_execution_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the rows that are not finished, write the results and print their files; 0.

    Raises:
        UsageError: if recipe, table and images do not fit together.
        MediarError: whatever training and scoring raise.
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
        execution=execution_of(args, resume=True),
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
