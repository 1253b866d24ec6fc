"""One ledger and one summary from those of the parts of a run."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mediar_infer.errors import DataError, UsageError, list_some
from mediar_infer.exports.joined_table import join_tables
from mediar_infer.folder.inputs import order_names
from mediar_infer.folder.ledger import (
    LEDGER_NAME,
    SUMMARY_NAME,
    Ledger,
    LedgerEntry,
    summarise_entries,
    write_summary,
)
from mediar_infer.folder.parts import RunPart
from mediar_infer.output_files import write_bytes

_PART_FILE: Final = re.compile(r"(?:ledger|summary)\.(?P<number>\d+)of(?P<of>\d+)\.jsonl?")
_LISTED: Final = 5
"""Names that a message lists."""
_WITH_LABELS: Final = ("done", "resumed")


@dataclass(frozen=True, slots=True)
class MergedRun:
    """What the parts of a run come to together."""

    n_parts: int
    """How many there should be."""
    entries: tuple[LedgerEntry, ...]
    """The last entry of every file: those that were skipped, then images in their order."""
    problems: tuple[str, ...]
    """What is missing or does not fit together; empty if the run is complete."""
    table: Path | None = None
    """Table with the cells of all parts, if they wrote tables."""


@dataclass(frozen=True, slots=True)
class _PartFiles:
    """Ledger and summary of a part."""

    part: RunPart
    summary: Mapping[str, Any]
    """Empty if it is missing or damaged."""
    history: Sequence[LedgerEntry]
    """Entries of all attempts."""
    entries: Sequence[LedgerEntry]
    """Entries of the last attempt, which has one of every image if it came to its end."""
    problems: Sequence[str]
    """What cannot be read."""

    @property
    def table(self) -> Path | None:
        """Its table, relative to its ledger; None if it writes none."""
        name = self.summary["part"].get("table") if self.summary else None
        return Path(name) if isinstance(name, str) and name else None

    def explain_table(self, path: Path) -> str:
        """Say that this part has no table."""
        return f"{self._found} no table, expected {path.name}; {self._remedy} and --table"

    @property
    def _found(self) -> str:
        return f"part {self.part.number} of {self.part.of}: found"

    @property
    def _remedy(self) -> str:
        return f"run it again with --part {self.part.number}/{self.part.of} --resume"

    def explain_gaps(self) -> list[str]:
        """Say what this part has not done, and which option does it."""
        found, remedy = self._found, self._remedy
        if not self.summary:
            return [f"{found} no summary, expected {self.part.rename(SUMMARY_NAME)}; {remedy}"]
        known = {entry.file for entry in self.entries}
        images = self.summary["part"]["images"]
        missing = [name for name in images if name not in known]
        if not missing and not self.summary["part"].get("is_finished", True):
            return [
                f"{found} an attempt that did not come to its end, expected its table and report"
                f" too, if they are asked for; {remedy} and the same options"
            ]
        if not missing:
            return []
        return [
            f"{found} no entry of {len(missing)} of its {len(images)} images"
            f" ({list_some(missing, _LISTED)}), expected one each; {remedy}"
        ]


def merge_parts(folder: Path) -> MergedRun:
    """Write ``ledger.jsonl`` and ``summary.json`` from those of all parts in a folder.

    The ledger keeps every line of the parts, and of a ledger that is there already, in the order of
    the images; the summary is that of the last attempt at each part. Tables of cells that the parts
    wrote are joined, too, in the order of the parts. The parts' own files stay.

    Args:
        folder: folder of the parts' ledgers.

    Raises:
        UsageError: if there are none.
        DataError: if parts of several runs are mixed.
        OutputError: if a ledger cannot be read, or the result not be written.
    """
    n_parts = _count_parts(folder)
    parts = [_read_part(folder, RunPart(number, n_parts)) for number in range(1, n_parts + 1)]
    problems = [text for part in parts for text in [*part.problems, *part.explain_gaps()]]
    problems += _compare(folder, parts)
    history = [*Ledger(folder).read().entries, *(e for part in parts for e in part.history)]
    lines = {json.dumps(entry.to_dict(), allow_nan=False): entry for entry in history}
    order = {name: n for n, name in enumerate(order_names({entry.file for entry in history}))}
    ordered = sorted(lines, key=lambda line: (order[lines[line].file], lines[line].started_at))
    latest = {entry.file: entry for part in parts for entry in part.entries}
    entries = sorted(latest.values(), key=lambda e: (e.status != "skipped", order[e.file]))
    write_bytes(folder / LEDGER_NAME, "".join(f"{line}\n" for line in ordered).encode("ascii"))
    described = next((part.summary for part in parts if part.summary.get("config")), {})
    config, versions = described.get("config", {}), described.get("versions", {})
    write_summary(folder, summarise_entries(entries, config=config, versions=versions))
    table, table_problems = _join_tables(folder, parts)
    return MergedRun(n_parts, tuple(entries), (*problems, *table_problems), table)


def _count_parts(folder: Path) -> int:
    try:
        found = [match for path in folder.iterdir() if (match := _PART_FILE.fullmatch(path.name))]
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be listed ({error.strerror or error}), expected the folder of the"
            " parts' ledgers"
        ) from error
    counts = sorted({int(match["of"]) for match in found})
    if not counts:
        raise UsageError(
            f"{folder}: found no ledger of a part, expected files such as"
            f" {RunPart(1, 10).rename(LEDGER_NAME)}; name the folder of the ledgers"
        )
    if len(counts) > 1:
        raise DataError(
            f"{folder}: found parts of {' and of '.join(map(str, counts))}, expected those of one"
            " run; remove the ledgers and summaries of the other, such as ledger.*of"
            f"{counts[0]}.jsonl"
        )
    return counts[0]


def _read_part(folder: Path, part: RunPart) -> _PartFiles:
    path, problems = folder / part.rename(SUMMARY_NAME), []
    summary: Mapping[str, Any] = {}
    start = 0
    try:
        found = json.loads(path.read_bytes())
        list(found["part"]["images"])  # raises if there is no list of images
        summary, start = found, int(found["part"]["ledger_start"])
    except OSError:
        pass  # explained as a gap
    except (ValueError, KeyError, TypeError):
        problems.append(f"{path}: found no summary of a part; it is ignored")
    ledger = Ledger(folder, part)
    everything = ledger.read()
    return _PartFiles(
        part, summary, everything.entries, ledger.read(start).entries,
        [*problems, *everything.problems],
    )  # fmt: skip


def _join_tables(folder: Path, parts: Sequence[_PartFiles]) -> tuple[Path | None, list[str]]:
    """Join the tables of the parts; the joined one, if there is one, and what is missing."""
    targets = {
        (folder / path).with_name(each.part.restore(path.name))
        for each in parts
        if (path := each.table)
    }
    if not targets:
        return None, []
    if len(targets) > 1:
        listed = ", ".join(sorted(path.name for path in targets))
        return None, [
            f"{folder}: found tables of different names ({listed}), expected one for all parts; run"
            " all of them again with the same --table and --resume"
        ]
    (target,) = targets
    found, problems = [], []
    for each in parts:
        path = target.with_name(each.part.rename(target.name))
        # A part that was run again without a table may have left one of other labels.
        if each.table is not None and os.path.isfile(path):  # noqa: PTH113 (no error)
            found.append(path)
        else:
            problems.append(each.explain_table(path))
    if not found:
        return None, problems
    try:
        join_tables(found, target)
    except DataError as error:
        return None, [*problems, str(error)]
    return target, problems


def _compare(folder: Path, parts: Sequence[_PartFiles]) -> list[str]:
    """Say in what parts differ that should agree."""
    problems = []
    described = [part for part in parts if part.summary]
    if len({part.summary["part"].get("sha256_of_all_names") for part in described}) > 1:
        counts = sorted({part.summary["part"].get("images_of_all_parts", 0) for part in described})
        problems.append(
            f"{folder}: parts found different images in the input folder"
            f" ({', '.join(map(str, counts))} images), expected the same for all; do not change"
            " the folder while parts run; run all of them again with --resume"
        )
    # A part without an image that can be read has no settings.
    plans = [part.summary["config"] for part in described if part.summary.get("config")]
    if len({json.dumps(plan, sort_keys=True) for plan in plans}) > 1:
        problems.append(
            f"{folder}: parts were run with different settings, expected one plan for all; run all"
            " of them again with the same options and --resume"
        )
    made = [entry for part in described for entry in part.entries if entry.status in _WITH_LABELS]
    weights = {tuple(sorted(entry.weights.values())) for entry in made}
    versions = {entry.versions.get("mediar_infer") for entry in made if entry.versions}
    if len(weights) > 1 or len(versions) > 1:
        what = "weights" if len(weights) > 1 else "versions of mediar_infer"
        problems.append(
            f"{folder}: parts were run with different {what}, expected the same for all; run all of"
            " them again with the same ones and --resume"
        )
    return problems
