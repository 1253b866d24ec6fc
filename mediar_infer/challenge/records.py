"""Results of the challenge's protocol: a record per image, totals, and their files."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final, Literal

from mediar_infer.challenge.checks import Finding, LabelFacts
from mediar_infer.challenge.launchers import RunOutcome
from mediar_infer.folder.console import lay_out_table, printable_name
from mediar_infer.labels.metrics import Scores, sum_scores
from mediar_infer.output_files import write_bytes
from mediar_infer.tolerance import counted_s, tolerance_s

RESULTS_NAME: Final = "challenge.json"
Verdict = Literal["passed", "breached", "stopped"]

_GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeRecord:
    """Result of the protocol for one image."""

    image: str
    """Name of the image."""
    size: tuple[int, int] | None
    """Height and width in pixels; ``None`` if this package cannot read the image."""
    outcome: RunOutcome
    """How its run went."""
    label: LabelFacts | None
    """Its label file, if it exists and is readable."""
    scores: tuple[Scores, ...] = ()
    """One per IoU threshold, if the true labels are known and the shapes agree."""
    findings: tuple[Finding, ...] = ()
    """All breaches of the contract."""
    ledger: Mapping[str, Any] = field(default_factory=dict)
    """Record of the image in this package's own ledger; empty if there is none."""

    @property
    def tolerance_s(self) -> float | None:
        """Seconds that the challenge grants; ``None`` for an unknown size."""
        return None if self.size is None else tolerance_s(*self.size)

    @property
    def counted_s(self) -> float | None:
        """Seconds beyond the tolerance."""
        return None if self.size is None else counted_s(self.outcome.wall_s, *self.size)

    @property
    def f1(self) -> float | None:
        """F1 at the first threshold, by which the challenge ranks."""
        return self.scores[0].f1 if self.scores else None

    @property
    def breached(self) -> str:
        """Breached parts of the contract, comma-separated; empty without findings."""
        return ", ".join(dict.fromkeys(each.aspect for each in self.findings))

    @property
    def peak_memory_bytes(self) -> int | None:
        """Peak host memory, as measured or else as the engine's own ledger states."""
        stated = self.ledger.get("peak_memory_bytes", {}).get("host")
        return self.outcome.peak_memory_bytes or stated

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON; the output of a run only if there are findings."""
        outcome = asdict(self.outcome)
        if not self.findings:
            del outcome["log"]
        return {
            "image": self.image,
            "height": self.size[0] if self.size else None,
            "width": self.size[1] if self.size else None,
            "tolerance_s": self.tolerance_s,
            "counted_s": self.counted_s,
            **outcome,
            "label": asdict(self.label) if self.label else None,
            "scores": [asdict(each) | {"f1": each.f1} for each in self.scores],
            "findings": [asdict(each) for each in self.findings],
            "ledger": dict(self.ledger),
        }


def summarise_records(records: Sequence[ChallengeRecord]) -> dict[str, Any]:
    """Compute totals over images, ready for JSON.

    Returns:
        Counts, seconds, the largest share of its tolerance that an image took (1 is all of it), the
        most seconds outside the command of a container, peak memory, and mean, median and pooled
        F1 of the scored images.
    """
    shares = [each.outcome.wall_s / each.tolerance_s for each in records if each.tolerance_s]
    f1 = [each.f1 for each in records if each.f1 is not None]
    pooled = sum_scores([each.scores[0] for each in records if each.scores]).f1 if f1 else None
    outside = [each.outcome.outside_s for each in records if each.outcome.outside_s is not None]
    return {
        "n_images": len(records),
        "n_breached": sum(bool(each.findings) for each in records),
        "n_findings": sum(len(each.findings) for each in records),
        "n_cells": sum(each.label.n_cells for each in records if each.label),
        "wall_s": sum(each.outcome.wall_s for each in records),
        "counted_s": sum(each.counted_s or 0.0 for each in records),
        "largest_share_of_tolerance": max(shares, default=None),
        "largest_outside_s": max(outside, default=None),
        "peak_memory_bytes": max((each.peak_memory_bytes or 0 for each in records), default=0)
        or None,
        "n_scored": len(f1),
        "mean_f1": fmean(f1) if f1 else None,
        "median_f1": median(f1) if f1 else None,
        "pooled_f1": pooled,
    }


def write_results(
    folder: Path, head: Mapping[str, Any], verdict: Verdict, records: Sequence[ChallengeRecord]
) -> None:
    """Write ``challenge.json`` in one step: what was run and found, one line per image.

    Raises:
        OutputError: if it cannot be written.
    """
    fields = {"verdict": verdict, **head, "summary": summarise_records(records)}
    # Everything is indented for reading, except the images: one line each.
    opened = json.dumps(fields, indent=2, allow_nan=False).removesuffix("\n}")
    lines = ",\n".join("    " + json.dumps(each.to_dict(), allow_nan=False) for each in records)
    text = f'{opened},\n  "images": [\n{lines}\n  ]\n}}\n'
    write_bytes(folder / RESULTS_NAME, text.encode("ascii"))


def results_table(records: Sequence[ChallengeRecord]) -> str:
    """Lay out records as plain text; size is height×width, times are seconds, memory is GiB."""
    header = ("image", "size", "cells", "seconds", "tolerance", "counted", "memory", "F1", "")
    totals = summarise_records(records)
    peak, mean_f1 = totals["peak_memory_bytes"], totals["mean_f1"]
    last = (
        f"{len(records)} image{'' if len(records) == 1 else 's'}",
        "",
        str(totals["n_cells"]),
        f"{totals['wall_s']:.2f}",
        "",
        f"{totals['counted_s']:.2f}",
        _or_dash(peak and peak / _GIB, 2),
        _or_dash(mean_f1, 3),
        f"{totals['n_breached']} in breach",
    )
    return lay_out_table(header, [_table_row(each) for each in records], last)


def verdict_line(verdict: Verdict, records: Sequence[ChallengeRecord]) -> str:
    """The outcome in one sentence."""
    totals = summarise_records(records)
    n_images, counted = totals["n_images"], f"counted time {totals['counted_s']:.2f} s"
    if verdict == "stopped":
        return f"STOPPED after {n_images} images, {totals['n_breached']} in breach; {counted}"
    if verdict == "breached":
        return (
            f"BREACHED: {totals['n_findings']} findings in {totals['n_breached']} of {n_images}"
            f" images; {counted}"
        )
    return f"PASSED: no finding in {n_images} images; {counted}"


def outside_lines(records: Sequence[ChallengeRecord]) -> list[str]:
    """Say how long containers take besides their command, and how this package allows for it."""
    outside_s = summarise_records(records)["largest_outside_s"]
    if outside_s is None:
        return []
    return [
        f"start and removal of a container took up to {outside_s:.2f} s; mediar-infer allows for"
        f" them with --fit-budget --budget-outside {math.ceil(outside_s * 10) / 10:.1f}"
    ]


def _table_row(record: ChallengeRecord) -> tuple[str, ...]:
    peak = record.peak_memory_bytes
    return (
        printable_name(record.image),
        f"{record.size[0]}×{record.size[1]}" if record.size else "-",
        str(record.label.n_cells) if record.label else "-",
        f"{record.outcome.wall_s:.2f}",
        _or_dash(record.tolerance_s, 1),
        _or_dash(record.counted_s, 2),
        _or_dash(peak and peak / _GIB, 2),
        _or_dash(record.f1, 3),
        record.breached or "ok",
    )


def _or_dash(value: float | None, n_digits: int) -> str:
    return "-" if value is None else f"{value:.{n_digits}f}"
