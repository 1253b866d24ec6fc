"""The ``export`` command: label files of any run for ImageJ, QuPath, tables and OME-Zarr."""

import argparse
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from mediar_infer.commands.arguments import add_examples, add_option
from mediar_infer.commands.export_inputs import LabelledImages, find_label_inputs
from mediar_infer.commands.options import (
    add_pixel_size_argument,
    add_result_arguments,
    to_export_options,
)
from mediar_infer.errors import DataError, ShapeError, UsageError
from mediar_infer.exports.export import check_exports, export_labels
from mediar_infer.exports.options import ExportOptions, list_export_files
from mediar_infer.exports.table import GatheredTable
from mediar_infer.images.limits import ReadOptions, check_pixel_size
from mediar_infer.output_files import remove_stale_parts

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``export`` command."""
    parser.add_argument(
        "labels", type=Path, metavar="PATH", help="folder of NAME_label.tiff, or one label file"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR",
        help="folder of all results; made if need be",
    )  # fmt: skip
    parser.add_argument(
        "-r", "--recursive", action="store_true",
        help="also export the label files of the folders below, as predict --recursive writes them,"
        " and write results into folders of the same names; --images is searched likewise",
    )  # fmt: skip
    add_result_arguments(parser)
    parser.add_argument(
        "--images", type=Path, metavar="PATH",
        help="folder of the images, or one image: the table gets mean and largest intensity of"
        " every channel",
    )  # fmt: skip
    reading = parser.add_argument_group(
        "images (with --images: how they are read where label files do not say it)"
    )
    add_option(reading, ReadOptions, "plane")
    add_option(reading, ReadOptions, "project", choices=("max",))
    reading.add_argument(
        "--scene", type=int, metavar="N",
        help="scene to read from files that hold several images, from 0",
    )  # fmt: skip
    add_option(reading, ReadOptions, "max_pixels")
    add_pixel_size_argument(parser)
    add_examples(
        parser,
        (
            "for ImageJ, QuPath and a spreadsheet",
            "mediar-infer export labels -o exported --rois --geojson --table cells.csv",
        ),
        (
            "one slide, areas in µm²",
            "mediar-infer export labels/slide_label.tiff -o exported --geojson --gzip"
            " --pixel-size 0.5",
        ),
        (
            "all plates of a run with --recursive",
            "mediar-infer export labels -o exported --recursive --table cells.csv",
        ),
    )


def run(args: argparse.Namespace) -> int:
    """Export every label file.

    Returns:
        0 if all were exported, 1 if one was not, a folder cannot be listed, or there was none.

    Raises:
        UsageError: if nothing is asked for or a value is out of its range.
        ExportError: if a package is missing.
        OutputError: if the table cannot be written.
    """
    options, reading = _check_options(args)
    found = find_label_inputs(args.labels, recursive=args.recursive, output_dir=args.output)
    files = found.files
    for problem in found.unreadable:
        logger.error("%s", problem)
    if not files:
        below = "" if args.recursive else "; add --recursive to search the folders below"
        logger.error(
            "%s: found no label file, expected NAME_label.tiff files%s", args.labels, below
        )
        return 1
    _remove_leftovers(args.output, [name for name, _ in files])
    images = LabelledImages.find(args.images, recursive=args.recursive, reading=reading)
    n_failed = 0
    with _gathering(options, args.output) as table:
        for name, path in files:
            try:
                with images.open(name, path) as image:
                    exported = export_labels(
                        path, name, options, args.output, image=image, pixel_size_um=args.pixel_size
                    )
            except (DataError, ShapeError) as error:
                logger.error("%s", error)
                n_failed += 1
                continue
            if table is not None and exported.columns is not None:
                table.add(name, exported.columns)
            logger.info("%s: %d cells", name, len(exported.areas))
        if table is not None:
            table.write(name for name, _ in files)
    logger.info("%d label files exported to %s", len(files) - n_failed, args.output)
    return 1 if n_failed or found.unreadable else 0


def _check_options(args: argparse.Namespace) -> tuple[ExportOptions, ReadOptions]:
    """What is asked for, and how images are read, once it is known to be possible.

    Raises:
        UsageError: if nothing is asked for or a value is out of its range.
        ExportError: if a package is missing.
    """
    options = to_export_options(args)
    check_pixel_size(args.pixel_size)
    reading = ReadOptions(
        plane=args.plane, project=args.project, scene=args.scene, max_pixels=args.max_pixels
    )
    if not options:
        raise UsageError(
            "found nothing to export, expected one or more of --rois, --geojson, --gzip, --zarr and"
            " --table"
        )
    check_exports(options)
    if args.images is not None and options.table is None:
        raise UsageError("found --images without --table, expected both; add --table cells.csv")
    if args.images is None and reading != ReadOptions():
        raise UsageError(
            "found --plane, --project, --scene or --max-pixels without --images, expected both; add"
            " --images and --table cells.csv"
        )
    return options, reading


def _remove_leftovers(output_dir: Path, names: Sequence[str]) -> None:
    """Remove unfinished files of processes that were killed, from all folders of results."""
    results = (path for name in names for path in list_export_files(output_dir, name))
    for folder in dict.fromkeys([output_dir, *(path.parent for path in results)]):
        remove_stale_parts(folder)


def _gathering(
    options: ExportOptions, output_dir: Path
) -> AbstractContextManager[GatheredTable | None]:
    path = options.table_path(output_dir)
    return nullcontext() if path is None else GatheredTable(path)
