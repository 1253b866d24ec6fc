"""The ledger: one entry per image as it finishes, and a summary at the end."""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import NoneType
from typing import Any, Final, Literal, get_args

from mediar_infer.errors import OutputError
from mediar_infer.folder.parts import RunPart
from mediar_infer.output_files import refuse_link_as_root, to_output_error, write_bytes
from mediar_infer.tolerance import counted_s, tolerance_s

Status = Literal["done", "failed", "skipped", "resumed"]
"""``skipped``: not an image; ``resumed``: done by an earlier run with the same weights and plan."""

LEDGER_NAME: Final = "ledger.jsonl"
SUMMARY_NAME: Final = "summary.json"
LEDGER_VARIABLE: Final = "MEDIAR_LEDGER"
"""Environment variable with the folder of ledger and summary, used where no option names one."""
NO_LEDGER: Final = "none"
"""Value of the variable, or of ``--ledger``, for neither of them."""

_N_SLOWEST = 5
_DERIVED = ("tolerance_s", "margin_s", "counted_s", "within_tolerance")
_FIELD_TYPES: Final = {
    **dict.fromkeys(("file", "status", "started_at"), (str,)),
    **dict.fromkeys(("height", "width", "n_cells"), (int, NoneType)),
    **dict.fromkeys(("dtype", "error", "device", "worker", "output"), (str, NoneType)),
    **dict.fromkeys(("plan", "stages_s", "weights", "versions", "peak_memory_bytes"), (dict,)),
    "wall_s": (int, float),
    **dict.fromkeys(("budget", "scale", "flow_check"), (dict, NoneType)),
    "warnings": (list,),
    "pixel_size_mm": (list, tuple, NoneType),
}
"""Types of the fields of a line of JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """What happened to one input file; a line of the ledger."""

    file: str
    """Path of the input file relative to the input folder."""
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
    """Height and width of a pixel; None if neither the file nor an option states a size."""
    plan: Mapping[str, Any] = field(default_factory=dict)
    """Models, flips, overlap, precision, … that made the labels."""
    stages_s: Mapping[str, float] = field(default_factory=dict)
    """Exclusive seconds per stage."""
    wall_s: float = 0.0
    """Seconds from start to written labels; for the first image from the start of the process."""
    budget: Mapping[str, Any] | None = None
    """Under a time budget: the plan that was chosen, predicted seconds, why, and what changed."""
    scale: Mapping[str, Any] | None = None
    """With a scale or a cell size: the size at which the networks saw the image, and why."""
    n_cells: int | None = None
    """Cells in the labels; None unless done or resumed."""
    flow_check: Mapping[str, Any] | None = None
    """Cells that the flow check examined and removed, and their share; None unless done."""
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
    """On a Dask cluster: name of the worker that processed it, or names of those that shared it."""
    peak_memory_bytes: Mapping[str, int] = field(default_factory=dict)
    """``host`` and, on an accelerator, ``gpu``: peaks of the process so far."""
    output: str | None = None
    """Path of the label file relative to the output folder; None unless done or resumed."""

    @property
    def tolerance_s(self) -> float | None:
        """Seconds that the challenge grants; None for an unknown size."""
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
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain = {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in fields.items()
        }
        plain["warnings"] = list(self.warnings)
        return plain | {name: getattr(self, name) for name in _DERIVED}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "LedgerEntry":
        """Rebuild an entry from ``to_dict``; derived times are computed again.

        Raises:
            ValueError: if a required field is missing, one is unknown or of another type, or the
                status is unknown.
        """
        given = {name: value for name, value in fields.items() if name not in _DERIVED}
        for name, value in given.items():
            expected = _FIELD_TYPES.get(name, (object,))
            if not isinstance(value, expected):
                names = " or ".join(kind.__name__ for kind in expected)
                raise ValueError(f"{name} is of type {type(value).__name__}, not {names}")
        try:
            entry = cls(**given)
        except TypeError as error:
            raise ValueError(str(error)) from error
        if entry.status not in get_args(Status):
            raise ValueError(f"status {entry.status!r} is none of {', '.join(get_args(Status))}")
        size = entry.pixel_size_mm
        return dataclasses.replace(
            entry,
            warnings=tuple(entry.warnings),
            pixel_size_mm=None if size is None else tuple(size),
        )


@dataclass(frozen=True, slots=True)
class LedgerContent:
    """A ledger read back."""

    entries: tuple[LedgerEntry, ...]
    """Readable lines in the order of writing."""
    problems: tuple[str, ...]
    """One message per line that cannot be read, such as the last line of a killed run."""

    @property
    def latest(self) -> dict[str, LedgerEntry]:
        """The last entry of each input file, by its name."""
        return {entry.file: entry for entry in self.entries}


class Ledger:
    """``ledger.jsonl`` in an output folder: appended line by line, never rewritten by a run."""

    def __init__(self, folder: Path, part: RunPart | None = None) -> None:
        self.path = folder / (part.rename(LEDGER_NAME) if part else LEDGER_NAME)

    def append(self, entry: LedgerEntry) -> None:
        """Add one line that survives a kill right after this call.

        The line is one write at the end of the file, synced: a kill in the middle leaves at most
        one torn last line, which the next append closes with a newline.

        Raises:
            OutputError: if the folder cannot be written or is full.
        """
        line = json.dumps(entry.to_dict(), allow_nan=False).encode("ascii") + b"\n"
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
                f"{self.path}: {n_written} of {len(line)} bytes of an entry were written; expected "
                "all; free some space or choose another output folder"
            )

    @property
    def size(self) -> int:
        """Bytes of the file; 0 if there is none."""
        try:
            return self.path.stat().st_size
        except OSError:  # reported when it is read or written
            return 0

    def read(self, start: int = 0) -> LedgerContent:
        """Read entries; a missing ledger is an empty one.

        Args:
            start: byte at which to begin.

        Raises:
            OutputError: if the file exists but cannot be read.
        """
        try:
            lines = self.path.read_bytes()[start:].split(b"\n")
        except FileNotFoundError:
            return LedgerContent((), ())
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be read ({error.strerror or error}); expected the ledger of "
                "an earlier run; allow reading it or choose another output folder"
            ) from error
        entries, problems = [], []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                entries.append(_parse_line(line))
            except ValueError as error:
                problems.append(
                    f"{self.path}: line {number} is not a ledger entry ({error}); expected one "
                    "JSON object per line; the line is ignored, its image counts as not done"
                )
        return LedgerContent(tuple(entries), tuple(problems))

    @staticmethod
    def _is_torn(descriptor: int) -> bool:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        if size == 0:
            return False
        os.lseek(descriptor, size - 1, os.SEEK_SET)
        return os.read(descriptor, 1) != b"\n"


def _parse_line(line: bytes) -> LedgerEntry:
    fields = json.loads(line)
    if not isinstance(fields, dict):
        raise ValueError(f"a JSON {type(fields).__name__} was found")
    return LedgerEntry.from_dict(fields)


def timestamp() -> str:
    """The time now, as in the ledger: ISO 8601 with zone and milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def summarise_entries(
    entries: Sequence[LedgerEntry],
    *,
    config: Mapping[str, Any],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """Compute the summary of a run.

    Args:
        entries: one entry per input file.
        config: the full configuration of the run, ready for JSON.
        versions: package → version.

    Returns:
        Counts per status, totals, the slowest images, the images that missed their tolerance or
        failed, configuration and versions; ready for JSON.
    """
    timed = [entry for entry in entries if entry.status in ("done", "failed")]
    slowest = sorted(timed, key=lambda entry: entry.wall_s, reverse=True)[:_N_SLOWEST]
    counts = Counter(entry.status for entry in entries)
    pixels = sum(
        entry.height * entry.width
        for entry in timed
        if entry.height is not None and entry.width is not None
    )
    return {
        "n_files": len(entries),
        "status": {status: counts[status] for status in get_args(Status)},
        "n_cells": sum(entry.n_cells or 0 for entry in entries),
        "megapixels": pixels / 1e6,
        "wall_s": sum(entry.wall_s for entry in timed),
        "counted_s": sum(entry.counted_s or 0.0 for entry in timed),
        "slowest": [{"file": entry.file, "wall_s": entry.wall_s} for entry in slowest],
        "missed_tolerance": [
            {"file": entry.file, "wall_s": entry.wall_s, "tolerance_s": entry.tolerance_s}
            for entry in timed
            if entry.within_tolerance is False
        ],
        "failed": [
            {"file": entry.file, "error": entry.error}
            for entry in entries
            if entry.status == "failed"
        ],
        "config": dict(config),
        "versions": dict(versions),
    }


def write_summary(folder: Path, summary: Mapping[str, Any], part: RunPart | None = None) -> Path:
    """Write ``summary.json``, or that of a part, at once and return its path.

    Raises:
        OutputError: if the folder cannot be written or is full.
    """
    path = folder / (part.rename(SUMMARY_NAME) if part else SUMMARY_NAME)
    write_bytes(path, json.dumps(summary, indent=2, allow_nan=False).encode("ascii") + b"\n")
    return path
