"""The ``ledger`` command: one ledger, and one table, from those of the parts of a run."""

import argparse
import logging
from collections import Counter
from pathlib import Path

from mediar_infer.commands.arguments import add_examples
from mediar_infer.commands.printing import print_summary

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``ledger`` command."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    merge = actions.add_parser(
        "merge",
        help="write ledger.jsonl and summary.json from those of all parts, and join their tables",
    )
    merge.add_argument("folder", type=Path, metavar="DIR", help="folder of the parts' ledgers")
    add_examples(
        parser,
        ("put together what an array of jobs has done", "mediar-infer ledger merge labels"),
    )


def run(args: argparse.Namespace) -> int:
    """Merge the ledgers; 0 if every image of every part is done, else 1.

    Raises:
        UsageError: if there are no ledgers of parts.
        DataError: if parts of several runs are mixed.
        OutputError: if a ledger cannot be read, or the result not be written.
    """
    from mediar_infer.folder.merging import merge_parts

    merged = merge_parts(args.folder)
    for problem in merged.problems:
        logger.error("%s", problem)
    counts = Counter(entry.status for entry in merged.entries)
    for entry in merged.entries:
        if entry.status == "failed":
            logger.error("%s", entry.error)
    if not args.quiet:
        statuses = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
        completeness = "incomplete" if merged.problems else "complete"
        table = f"\ntable: {merged.table}" if merged.table else ""
        print_summary(f"{merged.n_parts} parts, {completeness}: {statuses or 'no file'}{table}")
    return 1 if merged.problems or counts["failed"] else 0
