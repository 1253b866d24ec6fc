"""The ``predict`` command: the main job."""

import argparse
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mediar_infer.commands.arguments import add_examples, add_option
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
from mediar_infer.folder.inputs import RunInputs
from mediar_infer.folder.options import RunOptions
from mediar_infer.folder.parts import RunPart
from mediar_infer.folder.run_image import RunImage
from mediar_infer.folder.selection import Selection
from mediar_infer.images.listing import find_unreadable

if TYPE_CHECKING:
    from mediar_infer.folder.ledger import LedgerEntry

logger = logging.getLogger(__name__)

DEFAULT_INPUT: Final = Path("/workspace/inputs")
DEFAULT_OUTPUT: Final = Path("/workspace/outputs")
"""Folders that the challenge mounts into a container."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``predict`` command."""
    _add_folder_arguments(parser)
    _add_output_arguments(parser)
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
        (
            "segment one channel of all plates",
            "mediar-infer predict -i plates -o labels --recursive --pattern '*_ch1.tif'",
        ),
        ("continue an interrupted run", "mediar-infer predict -i images -o labels --resume"),
        (
            "stay within the challenge's time",
            "mediar-infer predict -i images -o labels --fit-budget",
        ),
        ("use your own weights", "mediar-infer predict -i images -o labels --weights mine"),
    )


def _add_folder_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which images are segmented, and where results go."""
    parser.add_argument(
        "-i", "--input", type=Path, nargs="+", action="extend", metavar="PATH",
        help="folders of images, images, or @LIST: a text file with the path of one image per line"
        f" (default: {DEFAULT_INPUT})",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=Path, default=DEFAULT_OUTPUT, metavar="DIR",
        help="folder of results (default: %(default)s)",
    )  # fmt: skip
    add_option(parser, Selection, "recursive", "-r", "--recursive")
    add_option(
        parser, Selection, "patterns", "--pattern", nargs="+", action="extend", metavar="GLOB",
        default=[], note="; such as '*_ch1.tif' or 'plate1/**/*.tif'",
    )  # fmt: skip
    add_option(parser, Selection, "names")
    add_option(parser, Selection, "part", metavar="I/N")
    add_ledger_argument(parser)


def _add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which results are written."""
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


def run(args: argparse.Namespace) -> int:
    """Segment the folder; see :func:`mediar_infer.cli.main` for the exit code."""
    config = to_engine_config(args)
    config = replace(config, fit_budget=to_budget_scale(args), outside_s=args.budget_outside)
    options = _to_run_options(args)
    options.check_packages()
    found = options.find_inputs()
    images = options.selection.choose(found.images)
    errors = find_unreadable(image.path for image in images)
    if errors is not None and not (args.resume and _has_labels(options, images)):
        from mediar_infer.folder.runner import fail_folder

        return _finish(fail_folder(errors, options, found), found, args, options)
    if args.dask is not None:
        from mediar_infer.cluster.client import run_on_cluster

        entries = run_on_cluster(args.dask, args.weights, config, options, found=found)
        return _finish(entries, found, args, options)
    segmenter = load_for_process(args.weights, config)
    from mediar_infer.folder.runner import run_folder

    for name, digest in segmenter.digests.items():
        logger.info("weights %s, SHA-256 %s", name, digest[:16])
    return _finish(run_folder(segmenter, options, found), found, args, options)


def _has_labels(options: RunOptions, images: Iterable[RunImage]) -> bool:
    """Whether an earlier run may have done one of the images."""
    # Unlike Path.exists, False for a name that the file system refuses.
    return any(os.path.exists(options.label_path(image)) for image in images)  # noqa: PTH110


def _to_run_options(args: argparse.Namespace) -> RunOptions:
    selection, exports = _to_selection(args), to_export_options(args)
    if selection.part and exports.table:
        name = selection.part.rename(exports.table.name)
        exports = replace(exports, table=exports.table.with_name(name))
    return RunOptions(
        selection=selection,
        output_dir=args.output,
        ledger_dir=to_ledger_dir(args),
        reading=to_read_options(args),
        resume=args.resume,
        overlays=args.overlays,
        exports=exports,
        report=args.report,
        with_budget=args.fit_budget or args.strict_budget,
        show_progress=sys.stderr.isatty() and not args.quiet,
    )


def _to_selection(args: argparse.Namespace) -> Selection:
    selection = Selection(
        inputs=tuple(args.input or [DEFAULT_INPUT]),
        recursive=args.recursive,
        patterns=tuple(args.pattern),
        names=args.names,
        part=args.part and RunPart.parse(args.part),
    )
    for path in selection.list_paths():
        try:
            path.stat()
        except FileNotFoundError as error:
            raise UsageError(f"{path}: no such folder or file; name it with --input") from error
        except OSError as error:
            raise UsageError(
                f"{path}: cannot be read ({error.strerror}), expected a folder or an image; check"
                " its name and permissions"
            ) from error
    return selection


def _finish(
    entries: "Sequence[LedgerEntry]",
    found: RunInputs,
    args: argparse.Namespace,
    options: RunOptions,
) -> int:
    """Print the table of a run and return its exit code."""
    from mediar_infer.folder.console import console_table, describe_results
    from mediar_infer.folder.runner import compute_exit_code

    if not args.quiet:
        table = console_table(entries, with_budget=options.with_budget)
        print_summary(f"{table}\n\n{describe_results(entries, options)}")
    # There may be more parts than images.
    may_be_empty = args.part is not None and bool(found.images)
    return compute_exit_code(entries, strict_budget=args.strict_budget, may_be_empty=may_be_empty)
