"""The report of a submission: verdict, plot, table and cells, as a page of ``report``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mediar_infer.challenge.checks import Finding
from mediar_infer.challenge.protocol import LABELS_DIR
from mediar_infer.challenge.records import (
    ChallengeRecord,
    Verdict,
    summarise_records,
    verdict_line,
)
from mediar_infer.report.page import (
    ImageSection,
    PageHead,
    Plot,
    RowProblem,
    TableCell,
    known_columns,
    number_cell,
    row_id,
    size_cell,
    write_page,
)
from mediar_infer.report.pictures import draw_files
from mediar_infer.report.plot import Point, draw_plot

PAGE_NAME: Final = "report.html"

_GIB = 2**30
_HEADLINES: dict[Verdict, str] = {
    "passed": "Passed",
    "breached": "Breached",
    "stopped": "Stopped",
}
_STATES: dict[Verdict, str] = {"passed": "good", "breached": "bad", "stopped": "neutral"}


def write_verdict(
    folder: Path,
    head: Mapping[str, Any],
    verdict: Verdict,
    records: Sequence[ChallengeRecord],
    images: Mapping[str, Path],
) -> None:
    """Write ``report.html``.

    Args:
        folder: of the results; its ``labels`` hold the label files.
        head: what was run and where, as in ``challenge.json``.
        verdict: of the run.
        records: the images in their order.
        images: name → image file, of those whose pixels may be shown on the page.

    Raises:
        OutputError: if it cannot be written.
    """
    totals = summarise_records(records)
    unit = "process" if head.get("engine") == "process" else "container"
    date = str(head.get("started_at", ""))[:16].replace("T", " ")
    page = PageHead(
        state=_STATES[verdict],
        eyebrow=f"Challenge protocol · {date}",
        headline=_HEADLINES[verdict],
        title=f"{_HEADLINES[verdict]}: {totals['n_images']} images",
        lead=_sentence(verdict, records),
        figures=_figures(totals),
        problems_title="Findings",
        problems=[
            RowProblem(row_id(index), finding.image, f", {_finding_text(finding)}")
            for index, record in enumerate(records)
            for finding in record.findings
        ],
        plot=Plot(
            "Time against tolerance",
            draw_plot(_points(records)),
            f"Each point is one image in a fresh {unit}; a diamond has findings. The line is the"
            " time that the challenge grants.",
        ),
        facts=_run_facts(head),
    )
    rows = known_columns([_cells(record) for record in records])
    sections = (_section(record, folder, images) for record in records)
    write_page(folder / PAGE_NAME, page, rows, sections)


def _finding_text(finding: Finding) -> str:
    return f"{finding.aspect}: found {finding.found}, expected {finding.expected}"


def _sentence(verdict: Verdict, records: Sequence[ChallengeRecord]) -> str:
    outcome = verdict_line(verdict, records).partition(" ")[2]
    return outcome[:1].upper() + outcome[1:] + "."


def _figures(totals: Mapping[str, Any]) -> list[tuple[str, str]]:
    share, peak = totals["largest_share_of_tolerance"], totals["peak_memory_bytes"]
    figures = [
        ("images", str(totals["n_images"])),
        ("in breach", str(totals["n_breached"])),
        ("counted seconds", f"{totals['counted_s']:.2f}"),
        ("cells", f"{totals['n_cells']:,}"),
    ]
    if share is not None:
        figures.append(("largest share of tolerance", f"{100 * share:.0f} %"))
    if peak is not None:
        figures.append(("peak memory", f"{peak / _GIB:.2f} GiB"))
    if totals["mean_f1"] is not None:
        figures.append(("mean F1 at IoU 0.5", f"{totals['mean_f1']:.3f}"))
        figures.append(("median F1", f"{totals['median_f1']:.3f}"))
    return figures


def _points(records: Sequence[ChallengeRecord]) -> list[Point]:
    return [
        Point(
            target=row_id(index),
            name=record.image,
            megapixels=record.size[0] * record.size[1] / 1e6,
            seconds=record.outcome.wall_s,
            is_breach=bool(record.findings),
        )
        for index, record in enumerate(records)
        if record.size
    ]


def _cells(record: ChallengeRecord) -> dict[str, TableCell]:
    """Column name → cell, in order."""
    wall_s, peak, tolerance_s = record.outcome.wall_s, record.peak_memory_bytes, record.tolerance_s
    n_cells = record.label.n_cells if record.label else None
    return {
        "image": TableCell(record.image, record.image, "text"),
        "contract": _contract_cell(record),
        "size": size_cell(record.size),
        "seconds": TableCell(
            f"{wall_s:.2f}", wall_s, share=wall_s / tolerance_s if tolerance_s else None
        ),
        "tolerance": number_cell(tolerance_s, ".1f", "minor"),
        "counted": number_cell(record.counted_s, ".2f", "minor"),
        "GiB": number_cell(peak and peak / _GIB, ".2f", "minor"),
        "cells": number_cell(n_cells, ","),
        "F1": number_cell(record.f1, ".3f"),
    }


def _contract_cell(record: ChallengeRecord) -> TableCell:
    """What is breached; in ascending order, images with the most findings come first."""
    return TableCell(
        record.breached or "ok",
        -len(record.findings),
        "text brief",
        mark="bad" if record.findings else "ok",
        hint=record.breached,
    )


def _section(record: ChallengeRecord, folder: Path, images: Mapping[str, Path]) -> ImageSection:
    labels = folder / LABELS_DIR / record.label.name if record.label else None
    return ImageSection(
        problems=[_finding_text(finding) for finding in record.findings],
        facts=_image_facts(record),
        log=record.outcome.log if record.findings else "",
        layers=draw_files(images.get(record.image), labels),
    )


def _image_facts(record: ChallengeRecord) -> list[tuple[str, str]]:
    """What is known about one image, including the engine's own ledger if there is one."""
    ledger, label = record.ledger, record.label
    facts = []
    if record.size:
        height, width = record.size
        facts.append(("size", f"{height}×{width}, {height * width / 1e6:.2f} megapixels"))
    taken = f"{record.outcome.wall_s:.2f} s"
    if record.tolerance_s:
        taken += f" of {record.tolerance_s:.1f} s, {record.counted_s:.2f} s count"
    facts.append(("time", taken))
    if ledger.get("stages_s"):
        stages = sorted(ledger["stages_s"].items(), key=lambda item: -item[1])
        listed = ", ".join(f"{name} {value:.2f}" for name, value in stages if value >= 0.005)
        facts.append(("stages", f"{listed} s"))
    facts += _making_facts(record)
    if label:
        facts.append(("labels", f"{label.n_cells:,} cells, {label.dtype}"))
        facts.append(("SHA-256", label.sha256[:16]))
    for scores in record.scores:
        name = f"IoU {scores.threshold:g}"
        text = f"F1 {scores.f1:.3f}, {scores.tp} of {scores.n_true}, {scores.fp} false"
        facts.append((name, text))
    return facts + [("warning", str(each)) for each in ledger.get("warnings", ())]


def _making_facts(record: ChallengeRecord) -> list[tuple[str, str]]:
    """Plan and weights from the engine's ledger or the label file, whose values may be anything."""
    stated = dict(record.label.made_of) if record.label else {}
    stated |= record.ledger
    budget, plan, weights = stated.get("budget"), stated.get("plan"), stated.get("weights")
    if isinstance(budget, Mapping) and "plan" in budget:
        plan = budget["plan"]
    elif isinstance(plan, Mapping):
        plan = plan.get("name")
    facts = [("plan", str(plan))] if plan else []
    if isinstance(weights, Mapping):
        facts += [("weights", f"{name} {str(digest)[:12]}") for name, digest in weights.items()]
    return facts


def _run_facts(head: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The single values of the head, and those of the machine."""
    flat = {
        **{name: value for name, value in head.items() if not isinstance(value, Mapping)},
        **head.get("machine", {}),
    }
    facts = []
    for name, value in flat.items():
        if value is None:
            continue
        is_size = name.endswith("_bytes")
        shown = f"{value / _GIB:.3g} GiB" if is_size else str(value)
        term = name.removesuffix("_bytes").replace("_", " ")
        facts.append((term, shown))
    return facts
