"""The ledger: one record per image as it finishes, a summary at the end, a table for the eye."""

import dataclasses
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import NoneType
from typing import Any, Final, Literal, get_args

from mediar_infer.errors import OutputError
from mediar_infer.output_files import refuse_link_as_root, to_output_error, write_bytes
from mediar_infer.tolerance import counted_s, tolerance_s

Status = Literal["done", "failed", "skipped", "resumed"]
"""``skipped``: not an image; ``resumed``: done by an earlier run with the same weights and plan."""

LEDGER_NAME: Final = "ledger.jsonl"
SUMMARY_NAME: Final = "summary.json"

_N_SLOWEST = 5
_NAME_COLUMNS = 40
_DERIVED = ("tolerance_s", "margin_s", "counted_s", "within_tolerance")
_FIELD_TYPES: Final = {
    **dict.fromkeys(("file", "status", "started_at"), (str,)),
    **dict.fromkeys(("height", "width", "n_cells"), (int, NoneType)),
    **dict.fromkeys(("dtype", "error", "device", "worker", "output"), (str, NoneType)),
    **dict.fromkeys(("plan", "stages_s", "weights", "versions", "peak_memory_bytes"), (dict,)),
    "pixel_size_mm": (list, NoneType),
    "wall_s": (int, float),
    "budget": (dict, NoneType),
    "warnings": (list,),
}
"""Types of the fields of a line of JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """What happened to one input file; a line of the ledger."""

    file: str
    """Name of the input file."""
    status: Status
    """How it ended."""
    started_at: str
    """ISO 8601 time with zone at which work on the file began."""
    height: int | None = None
    """Rows in pixels; unknown when the file could not be read."""
    width: int | None = None
    """Columns in pixels."""
    dtype: str | None = None
    """Pixel type as stored."""
    pixel_size_mm: Sequence[float] | None = None
    """Height and width of a pixel; none if the file states no size: its label file states 1 mm."""
    plan: Mapping[str, Any] = field(default_factory=dict)
    """Models, flips, overlap, precision, … that made the labels."""
    stages_s: Mapping[str, float] = field(default_factory=dict)
    """Exclusive seconds per stage."""
    wall_s: float = 0.0
    """Seconds from start to written labels; for the first image from the start of the process."""
    budget: Mapping[str, Any] | None = None
    """Under a time budget: the plan that was chosen, predicted seconds, why, and what changed."""
    n_cells: int | None = None
    """Cells in the labels; none unless done or resumed."""
    warnings: Sequence[str] = ()
    """What may make the result differ from what the user expects."""
    error: str | None = None
    """Why there is no result, or why the file was skipped."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Weight file → SHA-256."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package → version."""
    device: str | None = None
    """Where the network ran."""
    worker: str | None = None
    """On a Dask cluster: name of the worker that did it, or names of those that shared it."""
    peak_memory_bytes: Mapping[str, int] = field(default_factory=dict)
    """``host`` and, on an accelerator, ``gpu``: peaks of the process so far."""
    output: str | None = None
    """Name of the label file; none unless done or resumed."""

    @property
    def tolerance_s(self) -> float | None:
        """Seconds that the challenge grants; none for an unknown size."""
        if self.height is None or self.width is None:
            return None
        return tolerance_s(self.height, self.width)

    @property
    def margin_s(self) -> float | None:
        """Seconds left of the tolerance; negative when it was missed."""
        return None if self.tolerance_s is None else self.tolerance_s - self.wall_s

    @property
    def counted_s(self) -> float | None:
        """Seconds beyond the tolerance."""
        if self.height is None or self.width is None:
            return None
        return counted_s(self.wall_s, self.height, self.width)

    @property
    def within_tolerance(self) -> bool | None:
        """Whether the image was in time."""
        return None if self.margin_s is None else self.margin_s >= 0

    def to_dict(self) -> dict[str, Any]:
        """Give all fields and the derived times, ready for JSON."""
        fields = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        plain = {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in fields.items()
        }
        plain["warnings"] = list(self.warnings)
        return plain | {name: getattr(self, name) for name in _DERIVED}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "ImageRecord":
        """Rebuild a record from ``to_dict``; derived times are computed again.

        Raises:
            ValueError: if a required field is missing, one is unknown or of another type, or the
                status is unknown.
        """
        given = {name: value for name, value in fields.items() if name not in _DERIVED}
        for name, value in given.items():
            expected = _FIELD_TYPES.get(name, (object,))
            if not isinstance(value, expected):
                names = " or ".join(each.__name__ for each in expected)
                raise ValueError(f"{name} is of type {type(value).__name__}, not {names}")
        try:
            record = cls(**given)
        except TypeError as error:
            raise ValueError(str(error)) from error
        if record.status not in get_args(Status):
            raise ValueError(f"status {record.status!r} is none of {', '.join(get_args(Status))}")
        size = record.pixel_size_mm
        return dataclasses.replace(
            record,
            warnings=tuple(record.warnings),
            pixel_size_mm=None if size is None else tuple(size),
        )


@dataclass(frozen=True, slots=True)
class LedgerContent:
    """A ledger read back."""

    records: tuple[ImageRecord, ...]
    """Readable lines in the order of writing."""
    problems: tuple[str, ...]
    """One message per line that cannot be read, such as the last one of a killed run."""

    @property
    def latest(self) -> dict[str, ImageRecord]:
        """The last record of each input file, by its name."""
        return {record.file: record for record in self.records}


class Ledger:
    """``ledger.jsonl`` in an output folder: appended line by line, never rewritten."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LEDGER_NAME

    def append(self, record: ImageRecord) -> None:
        """Add one line that survives a kill right after this call.

        The line is one write at the end of the file, synced: a kill in the middle leaves at most
        one torn last line, which the next append closes with a newline.

        Raises:
            OutputError: if the folder cannot be written or is full.
        """
        line = json.dumps(record.to_dict(), allow_nan=False).encode("ascii") + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            refuse_link_as_root(self.path)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                if self._is_torn(descriptor):
                    line = b"\n" + line
                n_written = os.write(descriptor, line)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise to_output_error(self.path, error) from error
        if n_written != len(line):
            raise OutputError(
                f"{self.path}: {n_written} of {len(line)} bytes of a record were written; expected "
                "all; free some space or choose another output folder"
            )

    def read(self) -> LedgerContent:
        """Read all records; a missing ledger is an empty one.

        Raises:
            OutputError: if the file exists but cannot be read.
        """
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return LedgerContent((), ())
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be read ({error.strerror or error}); expected the ledger of "
                "an earlier run; allow reading it or choose another output folder"
            ) from error
        records, problems = [], []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                records.append(_parse_line(line))
            except ValueError as error:
                problems.append(
                    f"{self.path}: line {number} is not a record ({error}); expected one JSON "
                    "object per line; the line is ignored, its image counts as not done"
                )
        return LedgerContent(tuple(records), tuple(problems))

    @staticmethod
    def _is_torn(descriptor: int) -> bool:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        if size == 0:
            return False
        os.lseek(descriptor, size - 1, os.SEEK_SET)
        return os.read(descriptor, 1) != b"\n"


def _parse_line(line: bytes) -> ImageRecord:
    fields = json.loads(line)
    if not isinstance(fields, dict):
        raise ValueError(f"a JSON {type(fields).__name__} was found")
    return ImageRecord.from_dict(fields)


def timestamp() -> str:
    """The time now, as in the ledger: ISO 8601 with zone and milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def summarise(
    records: Sequence[ImageRecord],
    *,
    config: Mapping[str, Any],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """Compute the summary of a run.

    Args:
        records: one record per input file.
        config: the full configuration of the run, ready for JSON.
        versions: package → version.

    Returns:
        Counts per status, totals, the slowest images, the images that missed their tolerance or
        failed, configuration and versions; ready for JSON.
    """
    timed = [record for record in records if record.status in ("done", "failed")]
    slowest = sorted(timed, key=lambda record: record.wall_s, reverse=True)[:_N_SLOWEST]
    counts = Counter(record.status for record in records)
    pixels = sum(
        record.height * record.width
        for record in timed
        if record.height is not None and record.width is not None
    )
    return {
        "n_files": len(records),
        "status": {status: counts[status] for status in get_args(Status)},
        "n_cells": sum(record.n_cells or 0 for record in records),
        "megapixels": pixels / 1e6,
        "wall_s": sum(record.wall_s for record in timed),
        "counted_s": sum(record.counted_s or 0.0 for record in timed),
        "slowest": [{"file": record.file, "wall_s": record.wall_s} for record in slowest],
        "missed_tolerance": [
            {"file": record.file, "wall_s": record.wall_s, "tolerance_s": record.tolerance_s}
            for record in timed
            if record.within_tolerance is False
        ],
        "failed": [
            {"file": record.file, "error": record.error}
            for record in records
            if record.status == "failed"
        ],
        "config": dict(config),
        "versions": dict(versions),
    }


def write_summary(folder: Path, summary: Mapping[str, Any]) -> Path:
    """Write ``summary.json`` at once and return its path.

    Raises:
        OutputError: if the folder cannot be written or is full.
    """
    path = folder / SUMMARY_NAME
    write_bytes(path, json.dumps(summary, indent=2, allow_nan=False).encode("ascii") + b"\n")
    return path


def console_table(records: Sequence[ImageRecord]) -> str:
    """Lay out records as an aligned plain-text table with a line of totals.

    Args:
        records: one row each, in this order.

    Returns:
        Lines without a newline at the end. Size is height×width in pixels, times are seconds.
    """
    header = ("file", "size", "cells", "seconds", "tolerance", "margin", "status")
    rows = [_table_row(record) for record in records]
    n_late = sum(record.within_tolerance is False for record in records)
    counts = Counter(record.status for record in records)
    statuses = ", ".join(f"{counts[name]} {name}" for name in get_args(Status) if counts[name])
    totals = (
        f"{len(records)} file{'' if len(records) == 1 else 's'}",
        "",
        str(sum(record.n_cells or 0 for record in records)),
        f"{sum(record.wall_s for record in records):.1f}",
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
    """Give a file's name as one short line: it may hold line breaks, or bytes that no one shows."""
    plain = "".join(each if each.isprintable() else "?" for each in name)
    return plain if len(plain) <= max_columns else plain[: max_columns - 1] + "…"


def _table_row(record: ImageRecord) -> tuple[str, ...]:
    unknown = record.height is None or record.width is None
    return (
        printable_name(record.file),
        "-" if unknown else f"{record.height}×{record.width}",
        "-" if record.n_cells is None else str(record.n_cells),
        f"{record.wall_s:.1f}",
        "-" if record.tolerance_s is None else f"{record.tolerance_s:.1f}",
        "-" if record.margin_s is None else f"{record.margin_s:.1f}",
        record.status,
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
