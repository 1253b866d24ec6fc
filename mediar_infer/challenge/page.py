"""The page of a run: verdict, plot, ledger and cells in one HTML file that needs nothing else."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from mediar_infer.challenge.markup import escape_text
from mediar_infer.challenge.pictures import Layers, draw_layers
from mediar_infer.challenge.plot import Point, draw_plot
from mediar_infer.challenge.protocol import LABELS_DIR
from mediar_infer.challenge.records import (
    ChallengeRecord,
    Verdict,
    summarise,
    verdict_line,
)
from mediar_infer.output_files import write_bytes

PAGE_NAME: Final = "report.html"

_GIB = 2**30
_MAX_LISTED = 12
_HEADLINES: dict[Verdict, str] = {
    "passed": "Passed",
    "breached": "Breached",
    "stopped": "Stopped",
}


@dataclass(frozen=True, slots=True)
class _Cell:
    """One cell of the ledger: what is shown, and what it is sorted by."""

    html: str
    value: float | str | None
    kind: str = ""


def write_page(
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
        images: name → image file, of those whose pictures may be on the page.

    Raises:
        OutputError: if it cannot be written.
    """
    totals, rows = summarise(records), _known(records)
    parts = {
        "title": escape_text(f"{_HEADLINES[verdict]}: {totals['n_images']} images"),
        "style": _asset("page.css"),
        "script": _asset("page.js"),
        "verdict": verdict,
        "date": escape_text(str(head.get("started_at", ""))[:16].replace("T", " ")),
        "headline": _HEADLINES[verdict],
        "lead": escape_text(_sentence(verdict, records)),
        "figures": _pairs(_figures(totals), wrapped=True),
        "findings": _findings(records),
        "plot": draw_plot(_points(records)),
        "unit": "process" if head.get("engine") == "process" else "container",
        "columns": _columns(rows),
        "rows": "\n".join(_row(index, row) for index, row in enumerate(rows)),
        "facts": _pairs(_run_facts(head)),
        "pictures": "\n".join(
            _hidden_parts(
                index,
                record,
                draw_layers(
                    images.get(record.image),
                    folder / LABELS_DIR / record.label.name if record.label else None,
                ),
            )
            for index, record in enumerate(records)
        ),
    }
    # In one pass, so that nothing that is put in is searched for marks.
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _asset("page.html"))
    write_bytes(folder / PAGE_NAME, page.encode("utf-8", "replace"))


def _asset(name: str) -> str:
    return (files("mediar_infer.challenge") / name).read_text(encoding="utf-8")


def _target(index: int) -> str:
    return f"image-{index + 1}"


def _sentence(verdict: Verdict, records: Sequence[ChallengeRecord]) -> str:
    told = verdict_line(verdict, records).partition(" ")[2]
    return told[:1].upper() + told[1:] + "."


def _pairs(pairs: Iterable[tuple[str, str]], *, wrapped: bool = False) -> str:
    """Terms and their HTML as the inside of a ``<dl>``."""
    start, end = ("<div>", "</div>") if wrapped else ("", "")
    return "\n".join(
        f"{start}<dt>{escape_text(name)}</dt><dd>{html}</dd>{end}" for name, html in pairs
    )


def _figures(totals: Mapping[str, Any]) -> list[tuple[str, str]]:
    share, peak = totals["largest_share_of_tolerance"], totals["peak_memory_bytes"]
    figures = [
        ("images", str(totals["n_images"])),
        ("in breach", str(totals["n_breached"])),
        ("seconds that count", f"{totals['counted_s']:.2f}"),
        ("cells", f"{totals['n_cells']:,}"),
    ]
    if share is not None:
        figures.append(("most of a tolerance", f"{100 * share:.0f} %"))
    if peak is not None:
        figures.append(("peak memory", f"{peak / _GIB:.2f} GiB"))
    if totals["mean_f1"] is not None:
        figures.append(("mean F1 at IoU 0.5", f"{totals['mean_f1']:.3f}"))
        figures.append(("median F1", f"{totals['median_f1']:.3f}"))
    return figures


def _findings(records: Sequence[ChallengeRecord]) -> str:
    lines = [
        f'<li><a href="#{_target(index)}">{escape_text(finding.image)}</a>, {finding.aspect}: found'
        f" {escape_text(finding.found)}, expected {escape_text(finding.expected)}</li>"
        for index, record in enumerate(records)
        for finding in record.findings
    ]
    if not lines:
        return ""
    n_more = len(lines) - _MAX_LISTED
    if n_more > 0:
        lines[_MAX_LISTED:] = [f'<li class="more">and {n_more} more, below each image</li>']
    listed = "\n".join(lines)
    return f'<section class="findings"><h2>Findings</h2><ul>\n{listed}\n</ul></section>'


def _points(records: Sequence[ChallengeRecord]) -> list[Point]:
    return [
        Point(
            target=_target(index),
            name=record.image,
            megapixels=record.size[0] * record.size[1] / 1e6,
            seconds=record.outcome.wall_s,
            is_breach=bool(record.findings),
        )
        for index, record in enumerate(records)
        if record.size
    ]


def _cells(record: ChallengeRecord) -> dict[str, _Cell]:
    """Column name → cell, in order."""
    wall_s, size, peak = record.outcome.wall_s, record.size, record.peak_memory_bytes
    n_cells = record.label.n_cells if record.label else None
    return {
        "image": _Cell(escape_text(record.image), record.image, "text"),
        "contract": _contract_cell(record),
        "size": _size_cell(size),
        "seconds": _Cell(f"{wall_s:.2f}{_share_bar(record)}", wall_s),
        "tolerance": _number(record.tolerance_s, ".1f", "minor"),
        "counted": _number(record.counted_s, ".2f", "minor"),
        "GiB": _number(peak and peak / _GIB, ".2f", "minor"),
        "cells": _number(n_cells, ","),
        "F1": _number(record.f1, ".3f"),
    }


def _contract_cell(record: ChallengeRecord) -> _Cell:
    """What is broken; sorted upwards, the images with most findings come first."""
    kind = "bad" if record.findings else "ok"
    shown = f'<span class="{kind}" title="{record.breached}">{record.breached or "ok"}</span>'
    return _Cell(shown, -len(record.findings), "text contract")


def _size_cell(size: tuple[int, int] | None) -> _Cell:
    if size is None:
        return _Cell("–", None, "minor")
    return _Cell(f"{size[0]}×{size[1]}", size[0] * size[1], "minor")


def _number(value: float | None, form: str, kind: str = "") -> _Cell:
    return _Cell("–" if value is None else format(value, form), value, kind)


def _share_bar(record: ChallengeRecord) -> str:
    if not record.tolerance_s:
        return ""
    share = 100 * record.outcome.wall_s / record.tolerance_s
    kind = "share over" if share > 100 else "share"
    text = f"{share:.0f} % of the tolerance"
    width = f"{min(share, 100):.0f}%"
    return f'<span class="{kind}" title="{text}"><i style="width:{width}"></i></span>'


def _known(records: Sequence[ChallengeRecord]) -> list[dict[str, _Cell]]:
    """Cells of all rows, without columns in which nothing is known."""
    rows = [_cells(record) for record in records]
    known = {name for row in rows for name, cell in row.items() if cell.value is not None}
    return [{name: row[name] for name in row if name in known} for row in rows]


def _columns(rows: Sequence[dict[str, _Cell]]) -> str:
    return "\n".join(
        f'<th scope="col" class="{cell.kind}"><button type="button">{name}</button></th>'
        for row in rows[:1]
        for name, cell in row.items()
    )


def _row(index: int, row: dict[str, _Cell]) -> str:
    name, *others = row.values()
    pin = f'<button type="button" class="pin" aria-pressed="false">{name.html}</button>'
    cells = [f'<th scope="row" data-value="{name.html}" title="{name.html}">{pin}</th>']
    for cell in others:
        value = "" if cell.value is None else escape_text(str(cell.value))
        cells.append(f'<td class="{cell.kind}" data-value="{value}">{cell.html}</td>')
    return f'<tr id="{_target(index)}">{"".join(cells)}</tr>'


def _hidden_parts(index: int, record: ChallengeRecord, layers: Layers) -> str:
    """Details and pictures of an image, which the script shows when the row is chosen."""
    target = _target(index)
    findings = "".join(
        f'<p class="bad">{each.aspect}: found {escape_text(each.found)}, expected'
        f" {escape_text(each.expected)}</p>"
        for each in record.findings
    )
    log = record.outcome.log if record.findings else ""
    printed = f"<pre>{escape_text(log)}</pre>" if log else ""
    facts = _pairs((name, escape_text(text)) for name, text in _image_facts(record))
    return (
        f'<template id="details-{target}">{findings}<dl class="facts">{facts}</dl>{printed}'
        f'</template>\n<script type="text/plain" id="pictures-{target}">'
        f"{layers.picture}\n{layers.outlines}</script>"
    )


def _image_facts(record: ChallengeRecord) -> list[tuple[str, str]]:
    """What is known of one image, the engine's own account included where there is one."""
    told, label = record.ledger, record.label
    facts = []
    if record.size:
        height, width = record.size
        facts.append(("size", f"{height}×{width}, {height * width / 1e6:.2f} megapixels"))
    taken = f"{record.outcome.wall_s:.2f} s"
    if record.tolerance_s:
        taken += f" of {record.tolerance_s:.1f} s, {record.counted_s:.2f} s count"
    facts.append(("time", taken))
    if told.get("stages_s"):
        stages = sorted(told["stages_s"].items(), key=lambda item: -item[1])
        listed = ", ".join(f"{name} {value:.2f}" for name, value in stages if value >= 0.005)
        facts.append(("stages", f"{listed} s"))
    facts += _making_facts(record)
    if label:
        facts.append(("labels", f"{label.n_cells:,} cells, {label.dtype}"))
        facts.append(("SHA-256", label.sha256[:16]))
    for each in record.scores:
        name = f"IoU {each.threshold:g}"
        facts.append((name, f"F1 {each.f1:.3f}, {each.tp} of {each.n_true}, {each.fp} false"))
    return facts + [("warning", str(each)) for each in told.get("warnings", ())]


def _making_facts(record: ChallengeRecord) -> list[tuple[str, str]]:
    """Plan and weights, as the engine's ledger or the label file tells; files may tell anything."""
    told = dict(record.label.made_of) if record.label else {}
    told |= record.ledger
    budget, plan, weights = told.get("budget"), told.get("plan"), told.get("weights")
    if isinstance(budget, Mapping) and "plan" in budget:
        plan = budget["plan"]
    elif isinstance(plan, Mapping):
        plan = plan.get("name")
    facts = [("plan", str(plan))] if plan else []
    if isinstance(weights, Mapping):
        facts += [("weights", f"{name} {str(digest)[:12]}") for name, digest in weights.items()]
    return facts


def _run_facts(head: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Everything of the head that is one value, and the machine's values."""
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
        facts.append((term, f"<code>{escape_text(shown)}</code>"))
    return facts
