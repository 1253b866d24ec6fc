"""Results of a table as Markdown, JSON and a plot, with the paper's values next to ours."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from mediar_infer.output_files import write_bytes
from mediar_infer.training.comparisons.ablation import RowResult
from mediar_infer.training.comparisons.ablation_table import Row, Table


def write_report(
    folder: Path, table: Table, results: Sequence[RowResult], metadata: Mapping[str, Any]
) -> list[Path]:
    """Write ``tableN.md``, ``tableN.json`` and ``tableN.png``.

    Args:
        folder: created if absent.
        table: what was compared.
        results: a result per seed and row; rows without one are omitted.
        metadata: recipe, scale, data and whatever else a reader needs.

    Returns:
        The files.

    Raises:
        OutputError: if one cannot be written.
    """
    stem = folder / f"table{table.number}"
    found = {row.key: [r for r in results if r.key == row.key] for row in table.rows}
    rows = [row for row in table.rows if found[row.key]]
    content = {
        "metadata": {"table": table.number, "title": table.title, **metadata},
        "results": [
            {
                "key": row.key,
                "label": row.label,
                "paper_f1": row.paper_f1,
                "paper_loss": row.paper_loss or None,
                "f1": fmean(r.f1 for r in found[row.key]),
                "loss": fmean(r.loss for r in found[row.key]),
                "seeds": [asdict(result) for result in found[row.key]],
            }
            for row in rows
        ],
    }
    files = {
        ".md": to_markdown(table, rows, found, metadata).encode(),
        ".json": json.dumps(content, indent=2).encode() + b"\n",
        ".png": _plot(table, rows, found),
    }
    paths = [stem.with_suffix(suffix) for suffix in files]
    for path, data in zip(paths, files.values(), strict=True):
        write_bytes(path, data)
    return paths


def to_markdown(
    table: Table,
    rows: Sequence[Row],
    found: Mapping[str, Sequence[RowResult]],
    metadata: Mapping[str, Any],
) -> str:
    """Write a table as Markdown.

    Args:
        table: what was compared.
        rows: lines, at least one.
        found: row → results of its seeds, at least one each.
        metadata: shown below.
    """
    has_loss = any(row.paper_loss for row in rows)
    seeds = [result.seed for result in found[rows[0].key]]
    titles = ["", "paper F1", "paper Δ", "our F1", "our Δ", *(f"seed {seed}" for seed in seeds)]
    titles += ["paper loss"] * has_loss + ["our loss", "M parameters", "steps"]
    lines = [f"# Table {table.number}: {table.title}", "", _line(titles)]
    lines.append(_line(["---", *["---:"] * (len(titles) - 1)]))
    first = rows[0]
    first_f1 = fmean(result.f1 for result in found[first.key])
    for row in rows:
        results = found[row.key]
        f1 = fmean(result.f1 for result in results)
        cells = [row.label, f"{row.paper_f1:.4f}", f"{row.paper_f1 - first.paper_f1:+.4f}"]
        cells += [f"{f1:.4f}", f"{f1 - first_f1:+.4f}", *(f"{r.f1:.4f}" for r in results)]
        cells += [f"{row.paper_loss:.4f}" if row.paper_loss else ""] * has_loss
        cells += [f"{fmean(r.loss for r in results):.4f}"]
        cells += [f"{results[0].n_parameters / 1e6:.2f}", str(results[0].n_steps)]
        lines.append(_line(cells))
    lines += [
        "",
        "Δ is against the first row. F1 is the mean over images at IoU 0.5, one model",
        "",
    ]
    lines[-2] += f" without flips, overlap 0.25, on {found[first.key][0].n_images} held-out images."
    lines += ["## Per modality", "", *_modality_lines(rows, found), ""]
    lines += [f"- {key}: {value}" for key, value in metadata.items()]
    return "\n".join(lines) + "\n"


def _modality_lines(rows: Sequence[Row], found: Mapping[str, Sequence[RowResult]]) -> list[str]:
    kinds = sorted({kind for row in rows for r in found[row.key] for kind in r.f1_of_modality})
    lines = [_line(["", *kinds]), _line(["---", *["---:"] * len(kinds)])]
    for row in rows:
        means = [fmean(r.f1_of_modality[kind] for r in found[row.key]) for kind in kinds]
        lines.append(_line([row.label, *(f"{mean:.3f}" for mean in means)]))
    return lines


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plot(table: Table, rows: Sequence[Row], found: Mapping[str, Sequence[RowResult]]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.2 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = range(len(rows))
    means = [fmean(result.f1 for result in found[row.key]) for row in rows]
    papers = [row.paper_f1 for row in rows]
    axes.barh([p - 0.19 for p in places], papers, 0.36, color="#c8c8c8", label="paper")
    axes.barh([p + 0.19 for p in places], means, 0.36, color="#4c8cbf", label="ours, mean")
    points = [(r.f1, place + 0.19) for place, row in zip(places, rows, strict=True)
              for r in found[row.key]]  # fmt: skip
    axes.plot(*zip(*points, strict=True), "k.", markersize=5, label="ours, each seed")
    axes.set_yticks(list(places), [row.label for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("F1 at IoU 0.5 on held-out images (other images than the paper's)")
    axes.set_title(f"Table {table.number}: {table.title}")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
