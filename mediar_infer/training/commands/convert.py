"""The ``convert`` command: a downloaded data set → images, labels and a manifest for ``index``."""

import argparse
import logging
from pathlib import Path

from mediar_infer.errors import UsageError
from mediar_infer.training.converters import DATA_SETS
from mediar_infer.training.converters.source_images import exclude_images, write_converted
from mediar_infer.training.data.candidates import DATA_MANIFEST_NAME, read_data_manifest
from mediar_infer.training.data.problems import log_problems, write_problems
from mediar_infer.training.data.table import LABELLED_ROLES

logger = logging.getLogger(__name__)

PROBLEMS_NAME = "problems.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``convert`` command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "what the folder holds, at any depth:\n" + "\n".join(
        f"  {name:10} {data_set.layout}" for name, data_set in DATA_SETS.items()
    )
    parser.add_argument(
        "data_set", choices=DATA_SETS, metavar="SET", help=f"data set: {', '.join(DATA_SETS)}"
    )
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="folder of the unpacked download"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR",
        help="folder to create, one per data set",
    )  # fmt: skip
    parser.add_argument(
        "--exclude", type=Path, metavar="FILE",
        help="text file of images to exclude, one per line",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        0 if images were converted, 1 if there were none.

    Raises:
        UsageError: if the folder does not hold the data set, if an excluded image is not in it, or
            if the output folder holds another data set.
        OutputError: if the results cannot be written.
    """
    data_set = DATA_SETS[args.data_set]
    _check_output(args.output, args.data_set)
    found = data_set.find_images(args.folder)
    images = (
        exclude_images(found.images, _read_names(args.exclude)) if args.exclude else found.images
    )
    lines, problems = write_converted(images, args.output, args.data_set)
    problems = found.problems + problems
    log_problems(problems)
    write_problems(problems, args.output / PROBLEMS_NAME)
    n_left_out = found.n_left_out + len(found.images) - len(images)
    if n_left_out:
        logger.info("%d images excluded", n_left_out)
    if not lines:
        logger.error(
            "%s: found no image of %s to convert, expected the unpacked download: %s%s",
            *(args.folder, args.data_set, data_set.layout),
            f"; see {args.output / PROBLEMS_NAME}" if problems else "",
        )
        return 1
    n_labelled = sum(line.role in LABELLED_ROLES for line in lines)
    logger.info("wrote %s: %d images", args.output, len(lines))
    if n_labelled != data_set.n_images:
        note = f", without {data_set.left_out}" if data_set.left_out else ""
        logger.warning(
            "%d labelled images; the paper uses %d%s", n_labelled, data_set.n_images, note
        )
    return 0


def _check_output(folder: Path, name: str) -> None:
    manifest = folder / DATA_MANIFEST_NAME
    if not manifest.is_file():
        return
    found = {each.source or "images of no named set" for each in read_data_manifest(manifest)}
    others = found - {name}
    if others:
        raise UsageError(
            f"{manifest}: found {', '.join(sorted(others))}, expected {name} or no manifest;"
            " choose a separate folder for each data set"
        )


def _read_names(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path}: cannot be read ({error}); expected a text file with one image per line"
        ) from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
