"""The ``submission`` command: a flat zip archive of a checked set of label files."""

import argparse
import hashlib
from pathlib import Path

from mediar_infer.challenge.submission import check_submission, write_submission
from mediar_infer.commands.arguments import add_examples
from mediar_infer.commands.printing import print_result, print_summary
from mediar_infer.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``submission`` command."""
    parser.add_argument("archive", type=Path, metavar="FILE", help="archive to write, NAME.zip")
    parser.add_argument(
        "-l", "--labels", type=Path, required=True, metavar="DIR",
        help="folder of NAME_label.tiff files",
    )  # fmt: skip
    parser.add_argument(
        "-i", "--input", type=Path, metavar="DIR",
        help="folder of images to check names and sizes against",
    )  # fmt: skip
    add_examples(
        parser, ("zip a checked set of labels", "mediar-infer submission a.zip -l labels -i images")
    )


def run(args: argparse.Namespace) -> int:
    """Write the archive if nothing is wrong with the set; 1 if something is.

    Raises:
        UsageError: if the archive's name does not end with ``.zip`` or a folder does not exist.
        OutputError: if it cannot be written.
    """
    if args.archive.suffix.lower() != ".zip":
        raise UsageError(f"found archive {args.archive}, expected a name that ends with .zip")
    files, findings = check_submission(args.labels, args.input)
    if findings:
        lines = [*map(str, findings), f"REFUSED: {len(findings)} findings, nothing was written"]
        print_result("\n".join(lines))
        return 1
    write_submission(args.archive, files)
    data = args.archive.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    print_summary(f"{args.archive}: {len(files)} label files, {len(data)} bytes, SHA-256 {digest}")
    return 0
