"""Tables of the model card from the stored results, written into it between their marks.

    python benchmarks/card_tables.py weights/README.md

A table stands between ``<!-- table NAME -->`` and ``<!-- end -->``; NAME is ``first set``, ``second
set`` or ``confidence``.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import common

RESULTS = Path(__file__).parent / "results"
ROW = "ensemble, flips"
THRESHOLDS = ("0.5", "0.6", "0.7", "0.8", "0.9")

Groups = Mapping[str, Mapping[str, Any]]


def read_groups(name: str, row: str = ROW) -> Groups:
    """Scores of each modality from one row of a file written by ``bench_val_f1.py``."""
    groups: Groups = json.loads((RESULTS / name).read_text())["results"][row]["groups"]
    return groups


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tabulate_f1(groups: Groups, before: Groups) -> str:
    """F1 by modality and IoU threshold, the largest modality first, in brackets that before."""

    def list_rows() -> Iterator[list[str]]:
        for name, group in sorted(groups.items(), key=lambda item: -item[1]["n_images"]):
            now, then = (each["mean_f1_by_threshold"] for each in (group, before[name]))
            title = "**all**" if name == "all" else name.replace("_", " ")
            scores = (f"{now[t]:.3f} ({then[t]:.3f})" for t in THRESHOLDS)
            yield [title, str(group["n_images"]), *scores]

    return format_table(["modality", "images", *THRESHOLDS], list_rows())


def tabulate_confidence(results: Mapping[str, Any]) -> str:
    """Share of right cells by each of the two confidences, side by side."""

    def list_rows(measure: str) -> Iterator[list[str]]:
        for group in results[measure]["groups"]:
            if group["n_cells"]:
                title = f"{group['from']:g} – {group['to']:g}"
                yield [title, str(group["n_cells"]), f"{group['right']:.3f}"]

    left, right = list(list_rows("mean_cellprob")), list(list_rows("flow_error"))
    n_rows = max(len(left), len(right))
    for rows in (left, right):
        rows += [[""] * 3] * (n_rows - len(rows))
    header = ["mean cell probability", "cells", "right", "", "flow error", "cells", "right"]
    return format_table(header, ([*a, "", *b] for a, b in zip(left, right, strict=True)))


def build_tables() -> dict[str, str]:
    """Name → table."""
    before = "val_f1_first_set_pair.json"
    second_before = "val_f1_second_pair_second_set.json"
    return {
        "first set": tabulate_f1(read_groups("val_f1.json"), read_groups(before)),
        "second set": tabulate_f1(
            read_groups("val_f1_second_set.json"), read_groups(second_before, f"before: {ROW}")
        ),
        "confidence": tabulate_confidence(
            json.loads((RESULTS / "calibration.json").read_text())["results"]
        ),
    }


def insert_tables(text: str, tables: Mapping[str, str]) -> str:
    """Put each table between its marks, in place of what is there."""
    for name, table in tables.items():
        mark = f"<!-- table {name} -->"
        before, _, rest = text.partition(mark)
        _, end, after = rest.partition("<!-- end -->")
        if not end:
            raise SystemExit(f"found no place marked {mark!r} to <!-- end -->, expected one")
        text = f"{before}{mark}\n\n{table}\n\n{end}{after}"
    return text


def main() -> None:
    parser = common.make_parser(__doc__)
    parser.add_argument("card", type=Path, help="Markdown file to change")
    path = parser.parse_args().card
    path.write_text(insert_tables(path.read_text(), build_tables()))


if __name__ == "__main__":
    main()
