"""What a run shows on the console: a table of all files, and lines about single ones."""

import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, get_args

from mediar_infer.errors import list_some
from mediar_infer.folder.ledger import LedgerEntry, Status
from mediar_infer.folder.options import RunOptions
from mediar_infer.folder.selection import Selection
from mediar_infer.images.listing import SkippedFile

logger = logging.getLogger(__name__)

_NAME_COLUMNS: Final = 40
_LISTED: Final = 3
"""Names that a warning about several files lists."""


def console_table(entries: Sequence[LedgerEntry], *, with_budget: bool = False) -> str:
    """Lay out entries as an aligned plain-text table with a line of totals.

    Args:
        entries: one row each, in this order.
        with_budget: also show the tolerance of the challenge, and what is left of it.

    Returns:
        Lines without a newline at the end. Size is height×width in pixels, times are seconds.
    """
    n_late = sum(entry.within_tolerance is False for entry in entries)
    counts = Counter(entry.status for entry in entries)
    statuses = ", ".join(f"{counts[name]} {name}" for name in get_args(Status) if counts[name])
    budget_header = ("tolerance", "margin") if with_budget else ()
    budget_totals = ("", f"{n_late} late") if with_budget else ()
    header = ("image", "size", "cells", "seconds", *budget_header, "note")
    totals = (
        f"{len(entries)} file{'' if len(entries) == 1 else 's'}",
        "",
        str(sum(entry.n_cells or 0 for entry in entries)),
        f"{sum(entry.wall_s for entry in entries):.1f}",
        *budget_totals,
        statuses or "none",
    )
    rows = [_table_row(entry, with_budget=with_budget) for entry in entries]
    return lay_out_table(header, rows, totals)


def describe_results(entries: Sequence[LedgerEntry], options: RunOptions) -> str:
    """Say in three lines or less what a run has found, and which files to open.

    Args:
        entries: all files of the run.
        options: which results were asked for, and where they lie.

    Returns:
        Lines without a newline at the end.
    """
    images = [entry for entry in entries if entry.status != "skipped"]
    if not images:
        return f"no image in {options.selection.describe_inputs()}"
    segmented = [entry for entry in images if entry.status in ("done", "resumed")]
    n_failed = len(images) - len(segmented)
    n_cells = sum(entry.n_cells or 0 for entry in segmented)
    lines = [f"{n_cells:,} cells in {len(segmented)} of {len(images)} images"]
    if n_failed:
        lines[0] += f"; {n_failed} failed, see the errors above"
    if segmented:
        lines.append(f"labels: {options.output_dir / 'NAME_label.tiff'}")
    table = options.exports.table_path(options.output_dir)
    files = [path for path in (table, options.report_path) if path is not None]
    if files:
        lines.append(f"look at: {', '.join(map(str, files))}")
    return "\n".join(lines)


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
    """Shorten a file name to one printable line: it may contain line breaks or odd bytes.

    A path loses its beginning, a name in the input folder its end.
    """
    plain = "".join(character if character.isprintable() else "?" for character in name)
    if len(plain) <= max_columns:
        return plain
    return "…" + plain[1 - max_columns :] if "/" in plain else plain[: max_columns - 1] + "…"


def _table_row(entry: LedgerEntry, *, with_budget: bool) -> tuple[str, ...]:
    unknown = entry.height is None or entry.width is None
    times_s = (entry.tolerance_s, entry.margin_s) if with_budget else ()
    n_warnings = len(entry.warnings)
    warned = f", {n_warnings} warning{'' if n_warnings == 1 else 's'}" if n_warnings else ""
    return (
        printable_name(entry.file),
        "-" if unknown else f"{entry.height}×{entry.width}",
        "-" if entry.n_cells is None else str(entry.n_cells),
        f"{entry.wall_s:.1f}",
        *("-" if each is None else f"{each:.1f}" for each in times_s),
        f"{entry.status}{warned}",
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


def log_entry(entry: LedgerEntry, *, with_budget: bool = False) -> None:
    """Log what became of an image: an error, or warnings and one line.

    Args:
        entry: of the image.
        with_budget: also say what the challenge grants.
    """
    if entry.status == "failed":
        logger.error("%s", entry.error)
        return
    for warning in entry.warnings:
        logger.warning("%s: %s", entry.file, warning)
    granted = f" of {entry.tolerance_s or 0.0:.1f} s" if with_budget else ""
    logger.info(
        "%s: %s×%s, %s cells, %.1f s%s (%s)",
        entry.file, entry.height, entry.width, entry.n_cells, entry.wall_s, granted, entry.status,
    )  # fmt: skip


def log_unknown_pixel_sizes(entries: Iterable[LedgerEntry]) -> None:
    """Log once how many images state no pixel size, and so their label files."""
    done = [entry for entry in entries if entry.status == "done"]
    if n_unknown := sum(entry.pixel_size_mm is None for entry in done):
        logger.info(
            "%d of %d images state no pixel size, nor do their label files; name it with"
            " --pixel-size",
            n_unknown, len(done),
        )  # fmt: skip


def log_skipped(selection: Selection, skipped: Mapping[str, SkippedFile]) -> None:
    """Name folders that are not searched; warn of files that hold an image, or labels of one."""
    folders = [name for name, file in skipped.items() if file.is_folder]
    if folders:
        logger.info(
            "%d sub-folder(s) are not searched: %s; add --recursive if they hold images",
            len(folders), list_some(folders, _LISTED),
        )  # fmt: skip
    for name, file in skipped.items():
        if file.is_image:
            logger.warning("%s: skipped: %s", name, file.reason)
    names = [name for name, file in skipped.items() if file.is_labels]
    if names:
        logger.warning(
            "%s: skipped %d label file(s): %s",
            selection.describe_inputs(), len(names), list_some(names, _LISTED),
        )  # fmt: skip
