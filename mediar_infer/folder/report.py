"""The report of a run: every image with its cells, how many and how large, and what went wrong."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from statistics import median
from typing import Any, Final

from mediar_infer.folder.ledger import LedgerEntry
from mediar_infer.folder.options import RunOptions
from mediar_infer.folder.provenance import Provenance, package_versions
from mediar_infer.images.geometry import UM_PER_MM
from mediar_infer.output_files import Spool
from mediar_infer.report.figures import ImageFigures
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
from mediar_infer.report.pictures import Layers
from mediar_infer.report.plot import Point, draw_plot
from mediar_infer.report.sizes import SizeSummary, draw_histogram, find_ranges, format_area

_MAX_SKIPPED: Final = 12


class RunReport:
    """Gathers what a page shows of images, and writes the page.

    Pictures lie in a nameless file beside the page until then.

    Args:
        options: where the page goes, and whether it compares times with the tolerance.
    """

    def __init__(self, options: RunOptions) -> None:
        assert options.report_path is not None
        self._options, self._path = options, options.report_path
        self._spool = Spool(self._path)
        self._places: dict[str, int] = {}
        self._sizes: dict[str, SizeSummary] = {}

    def add(self, file: str, figures: ImageFigures) -> None:
        """Gather pictures and sizes of an image.

        Raises:
            OutputError: if the disk is full.
        """
        self._places[file] = self._spool.put(json.dumps(asdict(figures.layers)).encode("ascii"))
        self._sizes[file] = figures.sizes

    def close(self) -> None:
        """Drop what was gathered."""
        self._spool.close()

    def write(self, entries: Sequence[LedgerEntry], provenance: Provenance) -> None:
        """Write the page.

        Args:
            entries: all files of the run, in the order in which they are shown.
            provenance: models and settings.

        Raises:
            OutputError: if it cannot be written; an earlier one is then kept.
        """
        images = [entry for entry in entries if entry.status != "skipped"]
        skipped = [entry for entry in entries if entry.status == "skipped"]
        n_failed = sum(entry.status == "failed" for entry in images)
        n_cells = sum(entry.n_cells or 0 for entry in images)
        headline = f"{n_cells:,} cells in {_count(len(images) - n_failed, 'image')}"
        head = PageHead(
            state=self._state(len(images), n_failed),
            eyebrow=f"Cell segmentation · {datetime.now().astimezone():%Y-%m-%d %H:%M}",
            headline=headline,
            title=headline,
            lead=self._sentence(images, n_failed),
            figures=self._figures(images, n_failed, n_cells),
            problems_title="Failed images",
            problems=[
                RowProblem(row_id(index), entry.file, _without_name(entry))
                for index, entry in enumerate(images)
                if entry.status == "failed"
            ],
            plot=self._plot(images),
            facts=self._run_facts(provenance, skipped),
        )
        rows = known_columns([self._cells(entry) for entry in images])
        write_page(self._path, head, rows, self._sections(images))

    def _sentence(self, images: Sequence[LedgerEntry], n_failed: int) -> str:
        if not images:
            is_part = self._options.selection.part is not None
            return "No image falls to this part." if is_part else "No image was found."
        n_warned = sum(bool(entry.warnings) for entry in images)
        parts = [
            f"{_count(n_failed, 'image')} failed" if n_failed else "No image failed",
            f"{_count(n_warned, 'image')} with warnings" if n_warned else "no warnings",
        ]
        return f"{', '.join(parts)}."

    def _state(self, n_images: int, n_failed: int) -> str:
        if n_images == 0 and self._options.selection.part is not None:
            return "neutral"  # there may be more parts than images
        if n_failed == n_images:
            return "bad"
        return "neutral" if n_failed else "good"

    def _figures(
        self, images: Sequence[LedgerEntry], n_failed: int, n_cells: int
    ) -> list[tuple[str, str]]:
        figures = [
            ("images", str(len(images))),
            ("failed", str(n_failed)),
            ("cells", f"{n_cells:,}"),
        ]
        for unit in ("µm²", "px"):
            medians = [
                sizes.median
                for sizes in self._sizes.values()
                if sizes.unit == unit and sizes.median is not None
            ]
            if medians:
                shown = f"{format_area(median(medians))} {unit}"
                figures.append(("median cell area", shown))
        figures.append(("seconds", f"{sum(entry.wall_s for entry in images):.0f}"))
        if self._options.with_budget:
            n_late = sum(entry.within_tolerance is False for entry in images)
            figures.append(("late", str(n_late)))
        return figures

    def _plot(self, images: Sequence[LedgerEntry]) -> Plot | None:
        if not self._options.with_budget:
            return None
        points = [
            Point(
                target=row_id(index),
                name=entry.file,
                megapixels=entry.height * entry.width / 1e6,
                seconds=entry.wall_s,
                is_breach=entry.within_tolerance is False,
            )
            for index, entry in enumerate(images)
            if entry.status == "done" and entry.height and entry.width and entry.wall_s
        ]
        return Plot(
            "Time against tolerance",
            draw_plot(points),
            "Each point is one image; a diamond is late. The line is the time that the challenge"
            " grants.",
        )

    def _cells(self, entry: LedgerEntry) -> dict[str, TableCell]:
        """Column name → cell, in order."""
        sizes = self._sizes.get(entry.file)
        areas = {
            f"median {unit}": _area_cell(sizes if sizes and sizes.unit == unit else None)
            for unit in ("µm²", "px")
        }
        size = (entry.height, entry.width) if entry.height and entry.width else None
        is_bad = entry.status == "failed"
        cells = {
            "image": TableCell(entry.file, entry.file, "text"),
            "result": TableCell(
                entry.status, int(not is_bad), "text brief", "bad" if is_bad else "ok"
            ),
            "size": size_cell(size),
            "cells": number_cell(entry.n_cells, ","),
            **areas,
            "seconds": number_cell(entry.wall_s, ".1f"),
        }
        if self._options.with_budget:
            cells["tolerance"] = number_cell(entry.tolerance_s, ".1f", "minor")
            cells["margin"] = number_cell(entry.margin_s, ".1f", "minor")
        cells["notes"] = _notes_cell(entry)
        return cells

    def _sections(self, images: Sequence[LedgerEntry]) -> Iterator[ImageSection]:
        ranges = find_ranges(self._sizes.values())
        for entry in images:
            sizes, place = self._sizes.get(entry.file), self._places.get(entry.file)
            has_bars = sizes is not None and sizes.bars
            yield ImageSection(
                problems=[entry.error] if entry.error else [],
                facts=_image_facts(entry, sizes),
                layers=Layers() if place is None else Layers(**json.loads(self._spool.get(place))),
                histogram=draw_histogram(sizes, ranges[sizes.unit]) if sizes and has_bars else "",
            )

    def _run_facts(
        self, provenance: Provenance, skipped: Sequence[LedgerEntry]
    ) -> list[tuple[str, str]]:
        facts = [
            ("images", self._options.selection.describe_inputs()),
            ("results", str(self._options.output_dir)),
            ("version", package_versions()["mediar_infer"]),
        ]
        if provenance.device is not None:  # else no image could be read
            facts += [
                ("plan", _describe_plan(provenance.plan)),
                ("device", provenance.device),
                *(
                    ("weights", f"{name} {digest[:12]}")
                    for name, digest in provenance.digests.items()
                ),
            ]
        shown = [f"{entry.file}: {entry.error}" for entry in skipped[:_MAX_SKIPPED]]
        if len(skipped) > _MAX_SKIPPED:
            shown.append(f"and {len(skipped) - _MAX_SKIPPED} more")
        return facts + [("skipped", each) for each in shown]


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _without_name(entry: LedgerEntry) -> str:
    """What is wrong with an image, after its name."""
    error = entry.error or "unknown error"
    name = f"{entry.file}: "
    return f": {error.removeprefix(name)}"


def _area_cell(sizes: SizeSummary | None) -> TableCell:
    area = None if sizes is None else sizes.median
    return TableCell("–" if area is None else format_area(area), area)


def _notes_cell(entry: LedgerEntry) -> TableCell:
    """Warnings; in ascending order, images with the most come first."""
    notes = list(entry.warnings)
    if not notes:
        return TableCell("", None, "text brief")
    more = f" (and {len(notes) - 1} more)" if len(notes) > 1 else ""
    text = f"{notes[0]}{more}"
    return TableCell(text, -len(notes), "text brief", mark="note", hint="; ".join(notes))


def _image_facts(entry: LedgerEntry, sizes: SizeSummary | None) -> list[tuple[str, str]]:
    facts = []
    if entry.height and entry.width:
        facts.append(("size", f"{entry.height}×{entry.width} px"))
    if entry.pixel_size_mm:
        height, width = (f"{UM_PER_MM * mm:.4g}" for mm in entry.pixel_size_mm)
        facts.append(("pixel", f"{height} µm" if height == width else f"{height}×{width} µm"))
    if entry.n_cells is not None:
        facts.append(("cells", f"{entry.n_cells:,}"))
    if sizes is not None and sizes.quartiles:
        low, middle, high = (format_area(area) for area in sizes.quartiles)
        facts.append(("median area", f"{middle} {sizes.unit}, half of the cells {low} to {high}"))
    facts.append(("time", f"{entry.wall_s:.1f} s"))
    if entry.output:
        facts.append(("labels", entry.output))
    return facts + [("warning", warning) for warning in entry.warnings]


def _describe_plan(plan: Mapping[str, Any]) -> str:
    names = {"models": "models", "overlap": "overlap", "precision": "", "backend": ""}
    parts = [f"{plan[key]} {word}".strip() for key, word in names.items() if key in plan]
    return f"{plan.get('name')} ({', '.join(parts)})"
