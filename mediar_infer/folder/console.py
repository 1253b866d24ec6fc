"""What a run shows on the console: a table of all files, and lines about single ones."""

import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, get_args

from mediar_infer.folder.ledger import LedgerEntry, Status
from mediar_infer.images.listing import SkippedFile
from mediar_infer.labels.files import UNKNOWN_PIXEL_MM

logger = logging.getLogger(__name__)

_NAME_COLUMNS: Final = 40
_LISTED: Final = 3
"""Names that a warning about several files lists."""


def console_table(entries: Sequence[LedgerEntry]) -> str:
    """Lay out entries as an aligned plain-text table with a line of totals.

    Args:
        entries: one row each, in this order.

    Returns:
        Lines without a newline at the end. Size is height×width in pixels, times are seconds.
    """
    header = ("file", "size", "cells", "seconds", "tolerance", "margin", "status")
    rows = [_table_row(entry) for entry in entries]
    n_late = sum(entry.within_tolerance is False for entry in entries)
    counts = Counter(entry.status for entry in entries)
    statuses = ", ".join(f"{counts[name]} {name}" for name in get_args(Status) if counts[name])
    totals = (
        f"{len(entries)} file{'' if len(entries) == 1 else 's'}",
        "",
        str(sum(entry.n_cells or 0 for entry in entries)),
        f"{sum(entry.wall_s for entry in entries):.1f}",
        "",
        f"{n_late} late",
        statuses or "none",
    )
    return lay_out_table(header, rows, totals)


def lay_out_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], totals: Sequence[str]
) -> str:
    """Align the cells of a plain-text table: first and last column left, all others right.

    Args:
        header: names of the columns.
        rows: cells of each row.
        totals: cells of the last row, below a rule.

    Returns:
        Lines without a newline at the end.
    """
    table = [header, *rows, totals]
    widths = [max(_columns(row[column]) for row in table) for column in range(len(header))]
    rule = "  ".join("-" * width for width in widths)
    lines = [_table_line(row, widths) for row in table]
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def printable_name(name: str, max_columns: int = _NAME_COLUMNS) -> str:
    """Shorten a file name to one printable line: it may contain line breaks or odd bytes."""
    plain = "".join(character if character.isprintable() else "?" for character in name)
    return plain if len(plain) <= max_columns else plain[: max_columns - 1] + "…"


def _table_row(entry: LedgerEntry) -> tuple[str, ...]:
    unknown = entry.height is None or entry.width is None
    return (
        printable_name(entry.file),
        "-" if unknown else f"{entry.height}×{entry.width}",
        "-" if entry.n_cells is None else str(entry.n_cells),
        f"{entry.wall_s:.1f}",
        "-" if entry.tolerance_s is None else f"{entry.tolerance_s:.1f}",
        "-" if entry.margin_s is None else f"{entry.margin_s:.1f}",
        entry.status,
    )


def _columns(text: str) -> int:
    """Count terminal columns: wide East Asian characters take two."""
    return sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in text)


def _table_line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = []
    for index, (text, width) in enumerate(zip(row, widths, strict=True)):
        space = " " * (width - _columns(text))
        # Names and the status read from the left, numbers align on the right.
        cells.append(text + space if index in (0, len(row) - 1) else space + text)
    return "  ".join(cells).rstrip()


def log_entry(entry: LedgerEntry) -> None:
    """Log what became of an image: an error, or warnings and one line."""
    if entry.status == "failed":
        logger.error("%s", entry.error)
        return
    for warning in entry.warnings:
        logger.warning("%s: %s", entry.file, warning)
    logger.info(
        "%s: %sx%s, %s cells, %.1f s of %.1f s (%s)",
        entry.file,
        entry.height,
        entry.width,
        entry.n_cells,
        entry.wall_s,
        entry.tolerance_s or 0.0,
        entry.status,
    )


def log_unknown_pixel_sizes(entries: Iterable[LedgerEntry]) -> None:
    """Log once which pixel size label files state where the images state none."""
    done = [entry for entry in entries if entry.status == "done"]
    if n_unknown := sum(entry.pixel_size_mm is None for entry in done):
        logger.info(
            "%d of %d images state no pixel size; their label files state %g mm",
            n_unknown, len(done), UNKNOWN_PIXEL_MM,
        )  # fmt: skip


def log_skipped(folder: Path, skipped: Sequence[SkippedFile]) -> None:
    """Warn of files that are not segmented although they hold an image, or labels of one."""
    for file in skipped:
        if file.is_image:
            logger.warning("%s: skipped: %s", file.path.name, file.reason)
    names = [file.path.name for file in skipped if file.is_labels]
    if names:
        listed = names if len(names) <= _LISTED else [*names[:_LISTED], "…"]
        logger.warning("%s: skipped %d label file(s): %s", folder, len(names), ", ".join(listed))
