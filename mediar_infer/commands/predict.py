"""The ``predict`` command: the main job."""

import argparse
import logging
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mediar_infer.commands.arguments import add_examples
from mediar_infer.commands.options import (
    add_budget_arguments,
    add_engine_arguments,
    add_ledger_argument,
    add_reading_arguments,
    add_result_arguments,
    to_budget_scale,
    to_engine_config,
    to_export_options,
    to_ledger_dir,
    to_read_options,
)
from mediar_infer.commands.printing import print_summary
from mediar_infer.commands.start import load_for_process
from mediar_infer.errors import UsageError
from mediar_infer.images.listing import find_unreadable

if TYPE_CHECKING:
    from mediar_infer.folder.ledger import LedgerEntry
    from mediar_infer.folder.options import RunOptions

logger = logging.getLogger(__name__)

DEFAULT_INPUT: Final = Path("/workspace/inputs")
DEFAULT_OUTPUT: Final = Path("/workspace/outputs")
"""Folders that the challenge mounts into a container."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``predict`` command."""
    parser.add_argument(
        "-i", "--input", type=Path, default=DEFAULT_INPUT, metavar="PATH",
        help="folder of images, or one image (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=Path, default=DEFAULT_OUTPUT, metavar="DIR",
        help="folder of results (default: %(default)s)",
    )  # fmt: skip
    add_ledger_argument(parser)
    parser.add_argument(
        "--resume", action="store_true",
        help="skip images that are done with the same weights and settings",
    )  # fmt: skip
    parser.add_argument(
        "--overlays", action="store_true", help="also write outlines over each image as PNG"
    )
    add_result_arguments(parser)
    parser.add_argument(
        "--report", action="store_true",
        help="also write report.html, a page that shows the cells of every image, how many and how"
        " large they are, and what went wrong",
    )  # fmt: skip
    parser.add_argument(
        "--strict-budget", action="store_true",
        help="exit with 1 if an image misses its time tolerance",
    )  # fmt: skip
    add_budget_arguments(parser)
    parser.add_argument(
        "--dask", metavar="SCHEDULER",
        help="spread the work over a Dask cluster: address of its scheduler, or local:N for N"
        " processes on this machine",
    )  # fmt: skip
    add_reading_arguments(parser)
    add_engine_arguments(parser)
    add_examples(
        parser,
        (
            "segment a folder, measure its cells and look at them",
            "mediar-infer predict -i images -o labels --table cells.csv --report",
        ),
        ("continue an interrupted run", "mediar-infer predict -i images -o labels --resume"),
        (
            "stay within the challenge's time",
            "mediar-infer predict -i images -o labels --fit-budget",
        ),
        ("use your own weights", "mediar-infer predict -i images -o labels --weights mine"),
    )


def run(args: argparse.Namespace) -> int:
    """Segment the folder; see :func:`mediar_infer.cli.main` for the exit code."""
    config = replace(to_engine_config(args), fit_budget=to_budget_scale(args))
    if not args.input.exists():
        raise UsageError(f"{args.input}: no such folder or file; name it with --input")
    exports = to_export_options(args)
    if exports or args.report:
        from mediar_infer.exports.export import check_exports

        check_exports(exports)
    errors = find_unreadable(args.input)
    if errors is not None and not (args.resume and _has_labels(args.output, errors)):
        from mediar_infer.folder.runner import fail_folder

        options = _to_run_options(args)
        return _finish(fail_folder(errors, options), args, options)
    segmenter = load_for_process(args.weights, config) if args.dask is None else None
    options = _to_run_options(args)
    if segmenter is None:
        from mediar_infer.cluster.client import run_on_cluster

        return _finish(run_on_cluster(args.dask, args.weights, config, options), args, options)
    from mediar_infer.folder.runner import run_folder

    for name, digest in segmenter.digests.items():
        logger.info("weights %s, SHA-256 %s", name, digest[:16])
    return _finish(run_folder(segmenter, options), args, options)


def _has_labels(output: Path, images: Iterable[Path]) -> bool:
    """Whether an earlier run may have done one of the images."""
    from mediar_infer.labels.files import label_path

    return any(label_path(output, image).exists() for image in images)


def _to_run_options(args: argparse.Namespace) -> "RunOptions":
    from mediar_infer.folder.options import RunOptions

    return RunOptions(
        input_path=args.input,
        output_dir=args.output,
        ledger_dir=to_ledger_dir(args),
        reading=to_read_options(args),
        resume=args.resume,
        overlays=args.overlays,
        exports=to_export_options(args),
        report=args.report,
        with_budget=args.fit_budget or args.strict_budget,
        show_progress=sys.stderr.isatty() and not args.quiet,
    )


def _finish(
    entries: "Sequence[LedgerEntry]", args: argparse.Namespace, options: "RunOptions"
) -> int:
    """Print the table of a run and return its exit code."""
    from mediar_infer.folder.console import console_table, describe_results
    from mediar_infer.folder.runner import compute_exit_code

    if not args.quiet:
        table = console_table(entries, with_budget=options.with_budget)
        print_summary(f"{table}\n\n{describe_results(entries, options)}")
    return compute_exit_code(entries, strict_budget=args.strict_budget)
