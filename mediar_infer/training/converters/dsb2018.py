"""Data Science Bowl 2018 (Caicedo et al. 2019, BBBC038), all 841 labelled images.

``stage1_train/ID/images/ID.png`` with one file per nucleus in ``stage1_train/ID/masks/``; the test
images have run-length codes in ``stage1_solution.csv`` and ``stage2_solution_final.csv`` instead,
where most of stage 2 is marked as not scored and has no labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from mediar_infer.arrays import LabelArray
from mediar_infer.errors import DataError, ImageReadError, ShapeError
from mediar_infer.labels.reading import read_labels
from mediar_infer.training.converters.source_images import Found, SourceImage, list_files, make_id
from mediar_infer.training.data.csv_files import read_rows
from mediar_infer.training.data.problems import MISSING_LABELS, Problem

_SOLUTIONS = "stage*_solution*.csv"
_COLUMNS = ("ImageId", "EncodedPixels", "Height", "Width")
_NOT_SCORED = "Ignored"


@dataclass(frozen=True, slots=True)
class _Solution:
    path: Path
    height: int
    width: int
    is_scored: bool
    runs: list[str] = field(default_factory=list)


def find_images(folder: Path) -> Found:
    """Find the images of all stages.

    Args:
        folder: holds the unpacked archives.

    Returns:
        Images with masks or run-length codes; those marked as not scored are counted.

    Raises:
        UsageError: if the folder does not exist.
        DataError: if a solution file is malformed.
    """
    solutions: dict[str, _Solution] = {}
    for path in list_files(folder, _SOLUTIONS):
        _read_solutions(path, solutions)
    images, problems, n_left_out = [], [], 0
    for path in list_files(folder, "images/*"):
        masks_folder = path.parent.parent / "masks"
        masks = list_files(masks_folder, "*.png") if masks_folder.is_dir() else []
        solution = solutions.get(path.stem)
        if masks:
            label_path, make_labels = masks_folder, partial(merge_masks, masks)
        elif solution is None:
            problems.append(Problem(MISSING_LABELS, path, "neither masks nor a run-length code"))
            continue
        elif not solution.is_scored:
            n_left_out += 1
            continue
        else:
            label_path = solution.path
            make_labels = partial(
                draw_runs, solution.runs, solution.height, solution.width, path.stem
            )
        image_id = make_id("dsb2018", Path(path.stem))
        images.append(SourceImage(image_id, path, label_path, make_labels))
    return Found(images, problems, n_left_out)


def merge_masks(paths: Sequence[Path]) -> LabelArray:
    """Merge one mask file per cell.

    Args:
        paths: greyscale images of one size, non-zero inside the cell.

    Returns:
        ``(H, W)`` int32 labels in the order of the files, from 1; where masks overlap, the first
        wins.

    Raises:
        ImageReadError: if a file is not a greyscale image.
        ShapeError: if sizes differ.
    """
    labels: LabelArray | None = None
    for number, path in enumerate(paths, start=1):
        mask = read_labels(path)
        if labels is None:
            labels = np.zeros(mask.shape, np.int32)
        if mask.shape != labels.shape:
            raise ShapeError(
                f"{path.name}: found a mask of {mask.shape}, expected {labels.shape} like the "
                "other masks of the image"
            )
        labels[(mask > 0) & (labels == 0)] = number
    if labels is None:
        raise ShapeError("found no mask file, expected at least one")
    return labels


def draw_runs(runs: Sequence[str], height: int, width: int, name: str = "runs") -> LabelArray:
    """Draw the cells of one image.

    Args:
        runs: per cell ``start length start length …``; pixels are counted from 1, down the columns.
        height: rows of the image.
        width: columns of the image.
        name: of the image, for errors.

    Returns:
        ``(height, width)`` int32 labels in the order of ``runs``, from 1; where cells overlap, the
        first wins.

    Raises:
        ImageReadError: if a code is not pairs of numbers or leaves the image.
    """
    by_column = np.zeros(height * width, np.int32)
    for number, text in enumerate(runs, start=1):
        try:
            starts, lengths = np.array(text.split(), np.int64).reshape(-1, 2).T
        except ValueError:
            starts = lengths = np.array([0])
        stops = starts + lengths
        is_outside = min((*starts, *lengths), default=0) < 1 or stops.max() > by_column.size + 1
        if is_outside:
            raise ImageReadError(
                f"{name}: found the run-length code {text[:40]!r} for cell {number}, expected "
                f"pairs of start and length within {height} × {width} pixels"
            )
        for start, stop in zip(starts - 1, stops - 1, strict=True):
            run = by_column[start:stop]
            run[run == 0] = number
    return np.ascontiguousarray(by_column.reshape(width, height).T)


def _read_solutions(path: Path, solutions: dict[str, _Solution]) -> None:
    for place, row in read_rows(path, _COLUMNS, "run-length codes of the Data Science Bowl"):
        solution = solutions.get(row["ImageId"])
        if solution is None:
            solution = _start_solution(path, row, place)
            solutions[row["ImageId"]] = solution
        if row["EncodedPixels"]:
            solution.runs.append(row["EncodedPixels"])


def _start_solution(path: Path, row: Mapping[str, str], place: str) -> _Solution:
    try:
        height, width = int(row["Height"]), int(row["Width"])
    except ValueError as error:
        raise DataError(
            f"{place}: found height {row['Height']!r} and width {row['Width']!r}, expected whole"
            " numbers"
        ) from error
    return _Solution(path, height, width, is_scored=row.get("Usage") != _NOT_SCORED)
