"""The ``export`` command: label files of any run for ImageJ, QuPath, tables and OME-Zarr."""

import argparse
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import get_args

from mediar_infer.commands.arguments import add_examples
from mediar_infer.commands.options import (
    add_pixel_size_argument,
    add_result_arguments,
    to_export_options,
)
from mediar_infer.errors import DataError, ImageReadError, ShapeError, UsageError
from mediar_infer.exports.export import check_exports, export_labels
from mediar_infer.exports.options import GEOJSON_DIR, ROI_DIR, ExportOptions
from mediar_infer.exports.table import GatheredTable
from mediar_infer.images.limits import ReadOptions, check_pixel_size
from mediar_infer.images.listing import list_images
from mediar_infer.images.open import open_image
from mediar_infer.images.scenes import list_scenes
from mediar_infer.images.sources import ImageSource
from mediar_infer.labels.naming import LabelNames, group_label_files, label_path
from mediar_infer.labels.scoring import list_label_files
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
    add_result_arguments(parser)
    parser.add_argument(
        "--images", type=Path, metavar="PATH",
        help="folder of the images, or one image: the table gets mean and largest intensity of"
        " every channel",
    )  # fmt: skip
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
    )


def run(args: argparse.Namespace) -> int:
    """Export every label file.

    Returns:
        0 if all were exported, 1 if one was not or there was none.

    Raises:
        UsageError: if nothing is asked for or a value is out of its range.
        ExportError: if a package is missing.
        OutputError: if the table cannot be written.
    """
    options = to_export_options(args)
    check_pixel_size(args.pixel_size)
    if not options:
        raise UsageError(
            "found nothing to export, expected one or more of --rois, --geojson, --zarr and --table"
        )
    check_exports(options)
    files = _list_files(args.labels)
    if not files:
        logger.error("%s: found no label file, expected NAME_label.tiff files", args.labels)
        return 1
    for folder in (args.output, args.output / ROI_DIR, args.output / GEOJSON_DIR):
        remove_stale_parts(folder)
    images = _find_images(args.images, options)
    n_failed = 0
    with _gathering(options, args.output) as table:
        for name, path in files:
            try:
                with _open_image(images, name) as image:
                    exported = export_labels(
                        path, name, options, args.output, image=image, pixel_size_um=args.pixel_size
                    )
            except (DataError, ShapeError) as error:
                logger.error("%s", error)
                n_failed += 1
                continue
            if table is not None and exported.columns is not None:
                table.add(name, exported.columns)
            logger.info("%s: %d cells", path.name, len(exported.areas))
        if table is not None:
            table.write(name for name, _ in files)
    logger.info("%d label files exported to %s", len(files) - n_failed, args.output)
    return 1 if n_failed else 0


def _gathering(
    options: ExportOptions, output_dir: Path
) -> AbstractContextManager[GatheredTable | None]:
    path = options.table_path(output_dir)
    return nullcontext() if path is None else GatheredTable(path)


def _list_files(labels: Path) -> list[tuple[str, Path]]:
    """Name of the image and label file, for each label file of a folder or the one given."""
    if labels.is_file():
        (name,) = group_label_files([labels]) or [labels.stem]
        return [(name, labels)]
    if not labels.exists():
        raise UsageError(f"{labels}: found nothing there, expected label files; check the path")
    files = []
    for name, paths in list_label_files(labels).items():
        if len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            raise DataError(f"{labels}: found {names}, expected one label file per image; move one")
        files.append((name, paths[0]))
    return files


def _find_images(folder: Path | None, options: ExportOptions) -> dict[str, dict[Path, ReadOptions]]:
    """Name in the label file → images that it may be of, and how each is read.

    An image's labels may be named by either rule. Empty unless intensities are asked for.
    """
    if folder is None:
        return {}
    if options.table is None:
        raise UsageError("found --images without --table, expected both; add --table cells.csv")
    found: dict[str, dict[Path, ReadOptions]] = {}
    for path in list_images(folder)[0]:
        for scene in (None, *range(_count_scenes(path))):
            reading = ReadOptions(all_channels=True, scene=scene)
            for names in get_args(LabelNames):
                (name,) = group_label_files([label_path(Path(), path, scene, names)])
                found.setdefault(name, {})[path] = reading
    return found


def _count_scenes(path: Path) -> int:
    """Scenes of a file that has several; 0 of a plain image, and of one that cannot be read."""
    try:
        n_scenes = len(list_scenes(path))
    except ImageReadError:  # said when labels ask for it
        return 0
    return n_scenes if n_scenes > 1 else 0


def _open_image(
    images: Mapping[str, Mapping[Path, ReadOptions]], name: str
) -> AbstractContextManager[ImageSource | None]:
    """The image of a label file, or nothing where no images are given."""
    if not images:
        return nullcontext()
    if name not in images:
        raise DataError(
            f"{name}: found labels without an image, expected an image of that name in --images"
        )
    if len(images[name]) > 1:
        paths = " and ".join(path.name for path in images[name])
        raise DataError(
            f"{name}: found labels for {paths}, expected one image of that name; move one"
        )
    [(path, reading)] = images[name].items()
    return open_image(path, reading)
