"""The ``index`` command: folders of images and labels → a checked data table."""

import argparse
import logging
from collections import Counter
from pathlib import Path

from mediar_infer.commands.arguments import add_examples, add_option
from mediar_infer.errors import UsageError
from mediar_infer.training.commands import TRAINING_PROGRAM
from mediar_infer.training.data.index import IndexOptions, index_folders
from mediar_infer.training.data.problems import log_problems, write_problems
from mediar_infer.training.data.table import LABELLED_ROLES, ROLES, Role, write_table

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``index`` command."""
    parser.add_argument(
        "folders", type=Path, nargs="*", metavar="FOLDER",
        help="images/ and labels/, images with NAME_label.tiff beside them, or a manifest.csv",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="TABLE.csv", help="data table to write"
    )
    parser.add_argument(
        "--manifest", type=Path, action="append", default=[], metavar="FILE",
        help="CSV file with the columns id and image and, where known, label, role, split, modality"
        " and source; may be repeated",
    )  # fmt: skip
    add_option(parser, IndexOptions, "role")
    add_option(
        parser, IndexOptions, "role_of", nargs="+", default=[], metavar="PREFIX=ROLE",
        help="role of the images whose id starts with PREFIX",
    )  # fmt: skip
    for name in ("hold_out", "seed", "keep_empty", "accept_predictions"):
        add_option(parser, IndexOptions, name)
    add_examples(
        parser,
        (
            "a folder of labelled images",
            f"{TRAINING_PROGRAM} index my_images -o table.csv",
        ),
        (
            "images to count cells on",
            f"{TRAINING_PROGRAM} index tuning_images --role tuning -o tuning.csv",
        ),
    )


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        0 if the table holds images, 1 if none was usable; no table is written then.

    Raises:
        UsageError: if the options do not fit together.
        OutputError: if table or list of problems cannot be written.
    """
    if not args.folders and not args.manifest:
        raise UsageError("found nothing to index, expected a FOLDER or --manifest FILE")
    options = IndexOptions(
        role=args.role,
        role_of=_parse_roles(args.role_of),
        hold_out=args.hold_out,
        seed=args.seed,
        keep_empty=args.keep_empty,
        accept_predictions=args.accept_predictions,
    )
    index = index_folders(args.folders, args.manifest, options)
    problems_path = args.output.with_suffix(".problems.csv")
    log_problems(index.problems)
    write_problems(index.problems, problems_path)
    if not index.records:
        places = ", ".join(str(place) for place in (*args.folders, *args.manifest))
        logger.error(
            "%s: found no usable image, expected at least one; see %s", places, problems_path
        )
        return 1
    write_table(index.records, args.output)
    for (role, split), number in sorted(
        Counter((record.role, record.split) for record in index.records).items()
    ):
        logger.info("%s, %s: %d images", role, split, number)
    labelled = [record for record in index.records if record.role in LABELLED_ROLES]
    if labelled and not any(record.split == "val" for record in labelled):
        logger.warning(
            "none of the %d labelled images is held out for scoring; add images, or raise"
            " --hold-out above %g",
            *(len(labelled), args.hold_out),
        )
    n_cells = sum(record.n_cells for record in index.records)
    logger.info("wrote %s: %d images, %d cells", args.output, len(index.records), n_cells)
    return 0


def _parse_roles(texts: list[str]) -> dict[str, Role]:
    roles = {}
    for text in texts:
        prefix, _, role = text.partition("=")
        if not prefix or role not in ROLES:
            raise UsageError(
                f"found --role-of {text}, expected PREFIX=ROLE with one of {', '.join(ROLES)}"
            )
        roles[prefix] = role
    return roles
