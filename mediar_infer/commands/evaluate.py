"""The ``evaluate`` command: a folder of predicted labels against a folder of true ones."""

import argparse
import csv
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from mediar_infer.commands.arguments import add_examples
from mediar_infer.errors import DataError, UsageError, list_some
from mediar_infer.labels.metrics import THRESHOLDS
from mediar_infer.labels.scoring import evaluate_folders, write_evaluation

logger = logging.getLogger(__name__)

_LISTED = 4


def read_image_manifest(path: Path) -> dict[str, dict[str, str]]:
    """Read a CSV table with one row per image.

    Args:
        path: file with a header; the column ``id`` holds the stem of the image.

    Returns:
        Stem → row.

    Raises:
        UsageError: if there is no such file.
        DataError: if the file cannot be read, has no column ``id``, two rows for one image, or a
            row of another length than the header.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise UsageError(
            f"{path}: found no such file, expected a CSV table; check --manifest"
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path}: found a file that cannot be read ({error}), expected a CSV table in UTF-8"
            " with a column 'id'"
        ) from error
    _check_rows(path, rows)
    return {row["id"]: row for row in rows}


def _check_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Refuse rows of several lengths, rows without an id, and several of one image.

    Raises:
        DataError: if there are any, or no rows at all.
    """
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():  # the marks of csv for too many and too few cells
            raise DataError(
                f"{path}: row {number} below the header has too many or too few cells, expected one"
                " per column; correct the row"
            )
    if not rows or "id" not in rows[0]:
        found = f"the columns {', '.join(rows[0])}" if rows else "no rows"
        raise DataError(
            f"{path}: found {found}, expected a column 'id' that holds NAME of each NAME_label.tiff"
        )
    stem, n_rows = Counter(row["id"] for row in rows).most_common(1)[0]
    if n_rows > 1:
        raise DataError(
            f"{path}: found {n_rows} rows for {stem}, expected one per image; remove the others"
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``evaluate`` command."""
    parser.add_argument(
        "predicted", type=Path, metavar="PREDICTED", help="folder of NAME_label.tiff to score"
    )
    parser.add_argument(
        "true", type=Path, metavar="TRUE", help="folder of true label files of the same names"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="folder for tables and plot"
    )
    parser.add_argument(
        "--thresholds", type=float, nargs="+", default=list(THRESHOLDS), metavar="X",
        help=f"IoU thresholds (default: {' '.join(map(str, THRESHOLDS))})",
    )  # fmt: skip
    parser.add_argument(
        "--manifest", type=Path, metavar="FILE",
        help="CSV table with one row per image; column 'id' holds NAME",
    )  # fmt: skip
    parser.add_argument(
        "--group", metavar="COLUMN", help="column of the manifest to average scores by"
    )
    parser.add_argument(
        "--where", metavar="COLUMN=VALUE", help="score only these rows of the manifest"
    )
    add_examples(
        parser,
        ("score a folder", "mediar-infer evaluate labels truth -o scores"),
        (
            "average by modality",
            "mediar-infer evaluate labels truth -o scores --manifest images.csv --group modality",
        ),
    )


def run(args: argparse.Namespace) -> int:
    """Carry out the command.

    Returns:
        0 if every image was scored, 1 if one was not or there was none.

    Raises:
        UsageError: if the options do not fit together.
        OutputError: if the results cannot be written.
    """
    groups, images = _read_selection(args)
    evaluation = evaluate_folders(
        args.predicted, args.true, thresholds=args.thresholds, groups=groups, images=images
    )
    if groups is not None:
        _warn_of_ungrouped(args.manifest, [scores.image for scores in evaluation.images], groups)
    paths = write_evaluation(args.output, evaluation)
    for row in evaluation.groups:
        if row.pooled.threshold == args.thresholds[0]:
            message = "%s: %d images, F1 at IoU %g: mean %.4f, median %.4f, pooled %.4f"
            f1 = (row.mean["f1"], row.median_f1, row.pooled.f1)
            logger.info(message, row.group, row.n_images, row.pooled.threshold, *f1)
    if evaluation.errors:
        logger.error("%d images were not scored", len(evaluation.errors))
    if not evaluation.images:
        logger.error("%s: no image was scored; expected files NAME_label.tiff", args.predicted)
    logger.info("wrote %s", ", ".join(str(path) for path in paths))
    return 0 if evaluation.images and not evaluation.errors else 1


def _warn_of_ungrouped(manifest: Path, scored: Sequence[str], groups: Mapping[str, str]) -> None:
    without = [stem for stem in scored if stem not in groups]
    if without:
        logger.warning(
            "%s: found no row for %d of %d scored images (%s), which are in no group; expected"
            " their names as id, without _label and extension",
            *(manifest, len(without), len(scored), list_some(without, _LISTED)),
        )


def _read_selection(args: argparse.Namespace) -> tuple[dict[str, str] | None, list[str] | None]:
    """Stem → group, and the stems that are scored; None where the options do not say.

    Raises:
        UsageError: if the options do not fit together or the manifest.
        DataError: if the manifest cannot be used.
    """
    if args.manifest is None:
        if args.group or args.where:
            raise UsageError(
                "found --group or --where, expected --manifest with them; name the manifest"
            )
        return None, None
    manifest = read_image_manifest(args.manifest)
    column, separator, value = (args.where or "").partition("=")
    if args.where and not separator:
        raise UsageError(f"found --where {args.where}, expected COLUMN=VALUE, such as split=val")
    known = next(iter(manifest.values()))
    for name in filter(None, (args.group, column)):
        if name not in known:
            raise UsageError(
                f"{args.manifest}: found no column {name!r}, expected one of {', '.join(known)}"
            )
    groups = {stem: row[args.group] for stem, row in manifest.items()} if args.group else None
    if not column:
        return groups, None
    images = [stem for stem, row in manifest.items() if row[column] == value]
    if not images:
        values = list_some(sorted({row[column] for row in manifest.values()}), _LISTED)
        raise UsageError(
            f"{args.manifest}: found no row whose {column} is {value!r}, expected one of {values};"
            " check --where"
        )
    return groups, images
