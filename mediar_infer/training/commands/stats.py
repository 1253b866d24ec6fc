"""The ``stats`` command: shape and size of the cells of labelled images, as a plot and tables."""

import argparse
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mediar_infer.errors import MediarError, UsageError
from mediar_infer.labels.naming import group_label_files
from mediar_infer.labels.reading import read_labels
from mediar_infer.labels.scoring import ALL_IMAGES
from mediar_infer.output_files import write_bytes
from mediar_infer.training.data.candidates import (
    CandidateImage,
    find_candidates,
    make_ids_unique,
)
from mediar_infer.training.data.cell_statistics import (
    CellMeasures,
    concatenate_measures,
    draw_histograms,
    measure_cells,
    write_cells,
    write_medians,
)
from mediar_infer.training.data.problems import (
    MISSING_IMAGE,
    UNREADABLE_LABELS,
    Problem,
    log_problems,
)
from mediar_infer.training.data.table import read_table

logger = logging.getLogger(__name__)

CELLS_NAME, MEDIANS_NAME, PLOT_NAME = "cells.csv", "medians.csv", "statistics.png"

_GROUPS = ("role", "split", "modality", "source")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``stats`` command."""
    parser.add_argument(
        "data", type=Path, metavar="DATA",
        help="folder of label files, with or without their images, or a data table",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="folder for the results"
    )
    parser.add_argument(
        "--group", choices=_GROUPS, help="also compute medians per value of this table column"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        0 if cells were measured, 1 if there were none.

    Raises:
        UsageError: if folder or table is not there, or a folder is to be grouped.
        OutputError: if the results cannot be written.
    """
    if args.group and args.data.is_dir():
        raise UsageError(
            "found --group with a folder, expected a data table; make one with 'index'"
        )
    paths, groups = _list_labels(args.data, args.group)
    measures, problems = _measure_files(paths)
    log_problems(problems)
    if not sum(len(each.ids) for each in measures.values()):
        logger.error("%s: found no labelled cell, expected NAME_label.tiff files", args.data)
        return 1
    by_group = {ALL_IMAGES: list(measures.values())}
    for group in sorted(set(groups.values())):
        members = [cells for image_id, cells in measures.items() if groups[image_id] == group]
        by_group[group or "unknown"] = members
    write_cells(args.output / CELLS_NAME, measures)
    write_medians(args.output / MEDIANS_NAME, by_group)
    write_bytes(args.output / PLOT_NAME, draw_histograms(by_group[ALL_IMAGES]))
    for name, values in concatenate_measures(by_group[ALL_IMAGES]).items():
        logger.info("%s: median %.4g of %d cells", name, np.median(values), len(values))
    logger.info("wrote %s, %s and %s in %s", CELLS_NAME, MEDIANS_NAME, PLOT_NAME, args.output)
    return 0


def _list_labels(data: Path, group: str | None) -> tuple[dict[str, Path], dict[str, str]]:
    """Image id → label file, and image id → group."""
    if data.is_dir():
        candidates, problems = find_candidates(data)
        labelled = [each for each in candidates if each.label_path]
        # labels without their images are measured, too
        alone = [each.path for each in problems if each.kind is MISSING_IMAGE]
        if not labelled and not alone:
            alone = sorted(path for path in data.iterdir() if path.is_file())
        unique, _ = make_ids_unique([*labelled, *_to_candidates(alone)])
        return {each.image_id: each.label_path for each in unique if each.label_path}, {}
    records = [record for record in read_table(data) if record.label_path]
    groups = {each.image_id: getattr(each, group) for each in records} if group else {}
    return {each.image_id: each.label_path for each in records if each.label_path}, groups


def _to_candidates(label_files: Sequence[Path]) -> list[CandidateImage]:
    """Label files that have no image, one per name and folder."""
    folders = dict.fromkeys(path.parent for path in label_files)
    return [
        CandidateImage(name, files[0], files[0])
        for folder in folders
        for name, files in group_label_files(
            path for path in label_files if path.parent == folder
        ).items()
    ]


def _measure_files(
    paths: Mapping[str, Path],
) -> tuple[dict[str, CellMeasures], Sequence[Problem]]:
    def measure(path: Path) -> CellMeasures | Problem:
        try:
            return measure_cells(read_labels(path))
        except MediarError as error:
            return Problem(UNREADABLE_LABELS, path, str(error))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = dict(zip(paths, pool.map(measure, paths.values()), strict=True))
    measures = {name: each for name, each in results.items() if isinstance(each, CellMeasures)}
    return measures, [each for each in results.values() if isinstance(each, Problem)]
