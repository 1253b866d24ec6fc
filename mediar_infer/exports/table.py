"""Cells as a table: one row a cell, CSV or Parquet."""

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from mediar_infer.errors import ExportError
from mediar_infer.exports.cells import Cell
from mediar_infer.output_files import writing_output

PARQUET: Final = ".parquet"
_WHOLE_NUMBERS: Final = (
    "label", "area_px", "bbox_top", "bbox_left", "bbox_bottom", "bbox_right",
)  # fmt: skip
COLUMNS: Final = (
    "image", "label", "area_px", "area_um2", "centroid_y", "centroid_x", "bbox_top", "bbox_left",
    "bbox_bottom", "bbox_right", "perimeter", "eccentricity", "solidity", "touches_edge",
)  # fmt: skip
"""Columns that every table has; those of channels follow."""


def measure_cell(
    cell: Cell, height: int, width: int, pixel_size_um: tuple[float, float] | None
) -> dict[str, Any]:
    """Measure what the labels alone tell of a cell.

    Areas and lengths are in pixels unless the name says µm. Centroids are in pixel indices, so that
    the centre of the first pixel is (0, 0), as in scikit-image; the box is half-open. Perimeter,
    eccentricity and solidity are those of ``skimage.measure.regionprops``.

    Args:
        cell: the cell.
        height: rows of the image.
        width: columns of the image.
        pixel_size_um: (y, x) size of a pixel in µm; None if unknown.

    Returns:
        Column → value; ``area_um2`` is None where the pixel size is unknown.
    """
    top, left, bottom, right, area = (int(number) for number in cell.box)
    sum_y, sum_x, yy, xx, xy, perimeter, hull = cell.shape.tolist()
    area_um2 = None if pixel_size_um is None else area * pixel_size_um[0] * pixel_size_um[1]
    return {
        "label": cell.id,
        "area_px": area,
        "area_um2": area_um2,
        "centroid_y": top + sum_y / area,
        "centroid_x": left + sum_x / area,
        "bbox_top": top,
        "bbox_left": left,
        "bbox_bottom": bottom,
        "bbox_right": right,
        "perimeter": perimeter,
        "eccentricity": compute_eccentricity(yy / area, xx / area, xy / area),
        "solidity": area / hull,
        "touches_edge": top == 0 or left == 0 or bottom == height or right == width,
    }


def compute_eccentricity(yy: float, xx: float, xy: float) -> float:
    """Eccentricity of the ellipse with the second moments of a region: 0 for a circle or a pixel.

    Args:
        yy: variance of the pixel centres along y, px².
        xx: variance along x.
        xy: covariance.
    """
    half_sum, root = (yy + xx) / 2, math.hypot((yy - xx) / 2, xy)
    if half_sum + root == 0:
        return 0.0
    return math.sqrt(1 - max(half_sum - root, 0.0) / (half_sum + root))


@contextmanager
def writing_table(
    path: Path, columns: Sequence[str]
) -> Iterator[Callable[[Iterable[Mapping[str, Any]]], None]]:
    """Open a table that gets rows image by image; ``.parquet`` needs pyarrow, the rest is CSV.

    Args:
        path: the file; complete after the ``with`` block, absent after an error.
        columns: names, in order; also the header of a table without rows.

    Yields:
        A function that writes rows, column → value; what a row lacks is an empty cell.

    Raises:
        ExportError: if pyarrow is asked for and not installed.
        OutputError: if the file cannot be written.
    """
    opened = _writing_parquet if path.suffix.lower() == PARQUET else _writing_csv
    with opened(path, columns) as add:
        yield add


@contextmanager
def _writing_csv(
    path: Path, columns: Sequence[str]
) -> Iterator[Callable[[Iterable[Mapping[str, Any]]], None]]:
    with writing_output(path) as file:
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        yield lambda rows: writer.writerows(
            [_to_text(row.get(name)) for name in columns] for row in rows
        )
        text.detach()  # flushed; the file goes on


def _to_text(value: Any) -> Any:  # noqa: ANN401 (a cell of a table)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(float(value)) if isinstance(value, float | np.floating) else value


@contextmanager
def _writing_parquet(
    path: Path, columns: Sequence[str]
) -> Iterator[Callable[[Iterable[Mapping[str, Any]]], None]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ExportError(
            f"{path}: found no pyarrow, expected it for a Parquet table; install"
            " 'mediar-infer[parquet]' or name the table .csv"
        ) from error
    types = {"image": pyarrow.string(), "touches_edge": pyarrow.bool_()}
    types |= dict.fromkeys(_WHOLE_NUMBERS, pyarrow.int64())
    schema = pyarrow.schema([(name, types.get(name, pyarrow.float64())) for name in columns])
    with writing_output(path) as file, parquet.ParquetWriter(file, schema) as writer:

        def add(rows: Iterable[Mapping[str, Any]]) -> None:
            listed = [{name: row.get(name) for name in columns} for row in rows]
            writer.write_table(pyarrow.Table.from_pylist(listed, schema))

        yield add
