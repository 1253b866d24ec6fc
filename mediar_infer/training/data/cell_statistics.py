"""Shape and size of labelled cells: the three measures of the paper's Figure 2(b)."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from mediar_infer.errors import MediarError, ShapeError
from mediar_infer.labels.reading import read_labels
from mediar_infer.training.data.csv_files import write_rows

MEASURES: Final = ("eccentricity", "solidity", "cell_size")

_Float64Array = npt.NDArray[np.float64]
_N_BINS = 60
_PIXEL_VARIANCE = 1 / 12
"""Variance of a unit square along an axis, px²."""
_EDGE_MIDDLES = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)], np.int32)
"""Midpoints (x, y) of a pixel's edges from its centre, in half pixels."""
_ROUNDING = 1e-9
"""Crossings so near to a pixel's centre, in px, count as on it."""


@dataclass(frozen=True, slots=True)
class CellMeasures:
    """One entry per cell, in the order of ``ids``."""

    ids: npt.NDArray[np.int64]
    """``(n,)`` labels of the cells, ascending."""
    eccentricity: _Float64Array
    """``(n,)`` short axis / long axis, in (0, 1]: 1 is round (the paper's definition)."""
    solidity: _Float64Array
    """``(n,)`` area / convex area, in (0, 1]: 1 is convex."""
    cell_size: npt.NDArray[np.int64]
    """``(n,)`` pixels in each cell."""


def measure_cells(labels: npt.NDArray[np.integer[Any]]) -> CellMeasures:
    """Measure every cell of a label image.

    Args:
        labels: ``(H, W)`` instance labels, 0 = background. Not modified.

    Returns:
        The measures; empty arrays without cells.

    Raises:
        ShapeError: if the array is not 2-D.

    Notes:
        The axes are those of the ellipse with the cell's second moments, each pixel counted as a
        unit square: a straight line one pixel wide keeps a short axis. The convex area is the
        number of pixels whose centres lie in the convex hull of the midpoints of all pixel edges of
        the cell, as scikit-image and others count it.
    """
    if labels.ndim != 2:
        raise ShapeError(f"found labels of shape {labels.shape}, expected (H, W)")
    y, x = np.nonzero(labels)
    ids, inverse, areas = np.unique(labels[y, x], return_inverse=True, return_counts=True)
    order = np.argsort(inverse, kind="stable")
    limits = np.concatenate([[0], np.cumsum(areas)])
    points = np.stack([x, y], axis=1).astype(np.int32)[order]
    convex = [_count_convex_pixels(points[start:stop]) for start, stop in pairwise(limits)]
    return CellMeasures(
        ids=ids.astype(np.int64),
        eccentricity=_axis_ratios(y, x, inverse, areas),
        solidity=areas / np.array(convex, np.float64).reshape(areas.shape),
        cell_size=areas.astype(np.int64),
    )


def _axis_ratios(
    y: npt.NDArray[np.int64],
    x: npt.NDArray[np.int64],
    inverse: npt.NDArray[np.int64],
    areas: npt.NDArray[np.int64],
) -> _Float64Array:
    """Short axis / long axis of each cell.

    Args:
        y: ``(p,)`` row of each labelled pixel.
        x: ``(p,)`` its column.
        inverse: ``(p,)`` place of its cell.
        areas: ``(n,)`` pixels of each cell.

    Returns:
        ``(n,)`` in (0, 1].
    """

    def mean(values: npt.NDArray[Any]) -> _Float64Array:
        means: _Float64Array = np.bincount(inverse, values, minlength=len(areas)) / areas
        return means

    y_offset, x_offset = y - mean(y)[inverse], x - mean(x)[inverse]
    var_y = mean(y_offset**2) + _PIXEL_VARIANCE
    var_x = mean(x_offset**2) + _PIXEL_VARIANCE
    half_sum = (var_y + var_x) / 2
    half_gap = np.hypot((var_y - var_x) / 2, mean(y_offset * x_offset))
    ratios: _Float64Array = np.sqrt((half_sum - half_gap) / (half_sum + half_gap))
    return ratios


def _count_convex_pixels(points: npt.NDArray[np.int32]) -> int:
    """Count the pixels in the convex hull of ``(n, 2)`` pixels (x, y), row by row.

    In doubled coordinates pixel centres are even and the midpoints of their edges whole numbers.
    """
    diamonds = (2 * points[:, None] + _EDGE_MIDDLES).reshape(-1, 2)
    hull = cv2.convexHull(diamonds)[:, 0].astype(np.float64)
    x, y = hull.T
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    sloped = y != next_y  # the ends of level edges belong to their neighbours too
    x, y, next_x, next_y = (each[sloped, None] for each in (x, y, next_x, next_y))
    rows = np.arange(2 * int(points[:, 1].min()), 2 * int(points[:, 1].max()) + 1, 2)
    crossings = x + (next_x - x) * (rows - y) / (next_y - y)
    is_crossed = (np.minimum(y, next_y) <= rows) & (rows <= np.maximum(y, next_y))
    left = np.where(is_crossed, crossings, np.inf).min(axis=0)
    right = np.where(is_crossed, crossings, -np.inf).max(axis=0)
    counts = np.floor(right / 2 + _ROUNDING) - np.ceil(left / 2 - _ROUNDING) + 1
    return int(counts.sum())


def median_diameter(label_paths: Iterable[Path]) -> float | None:
    """Typical diameter of the cells of a set of images, in pixels.

    The median over images of the median over their cells, as training draws images, not cells: a
    few images with thousands of nuclei do not outweigh all others.

    Args:
        label_paths: label files; those that cannot be read are left out.

    Returns:
        Diameter of a circle of the same area; None without cells.
    """
    medians = []
    for path in label_paths:
        try:
            areas = np.unique(read_labels(path), return_counts=True)
        except MediarError:
            continue
        cells = areas[1][areas[0] > 0]
        if cells.size:
            medians.append(float(np.median(cells)))
    return 2 * math.sqrt(float(np.median(medians)) / math.pi) if medians else None


def concatenate_measures(measures: Sequence[CellMeasures]) -> dict[str, npt.NDArray[Any]]:
    """Join the cells of several images.

    Args:
        measures: measures of the images.

    Returns:
        Name of the measure, as in ``MEASURES`` → ``(n,)`` values of all cells.
    """
    return {
        name: np.concatenate([np.zeros(0), *(getattr(each, name) for each in measures)])
        for name in MEASURES
    }


def write_cells(path: Path, measures: Mapping[str, CellMeasures]) -> None:
    """Write one CSV line per cell: image_id, label, eccentricity, solidity, cell_size.

    Args:
        path: file to create or replace.
        measures: image id → its cells.

    Raises:
        OutputError: if it cannot be written.
    """
    rows = [
        (image_id, label, f"{eccentricity:.4f}", f"{solidity:.4f}", size)
        for image_id, cells in measures.items()
        for label, eccentricity, solidity, size in zip(
            cells.ids, cells.eccentricity, cells.solidity, cells.cell_size, strict=True
        )
    ]
    write_rows(path, ("image_id", "label", *MEASURES), rows)


def write_medians(path: Path, groups: Mapping[str, Sequence[CellMeasures]]) -> None:
    """Write one CSV line per group: images, cells and the median of every measure.

    Args:
        path: file to create or replace.
        groups: name → measures of its images.

    Raises:
        OutputError: if it cannot be written.
    """
    rows = []
    for name, measures in groups.items():
        values = concatenate_measures(measures)
        n_cells = len(values[MEASURES[0]])
        medians = [f"{np.median(values[each]):.4f}" if n_cells else "" for each in MEASURES]
        rows.append((name, len(measures), n_cells, *medians))
    write_rows(
        path, ("group", "n_images", "n_cells", *(f"median_{each}" for each in MEASURES)), rows
    )


def draw_histograms(measures: Sequence[CellMeasures]) -> bytes:
    """Draw the histogram of every measure with a dotted red line at the median.

    Args:
        measures: measures of the images; at least one cell.

    Returns:
        A PNG file.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    values = concatenate_measures(measures)
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    titles = {
        "eccentricity": "Eccentricity (short axis / long axis)",
        "solidity": "Solidity (area / convex area)",
        "cell_size": "Cell size (pixels)",
    }
    for axes, name in zip(figure.subplots(1, len(MEASURES)), MEASURES, strict=True):
        cells = values[name]
        if name == "cell_size":  # from specks to whole fields
            bins = np.geomspace(0.9 * cells.min(), 1.1 * cells.max(), _N_BINS + 1)
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            bins = np.linspace(0, 1, _N_BINS + 1)
        median = float(np.median(cells))
        axes.hist(cells, bins=bins, color="tab:blue", alpha=0.8)
        axes.axvline(median, color="red", linestyle=":", linewidth=2, label=f"median {median:.4g}")
        axes.set(title=titles[name], ylabel="cells")
        axes.legend()
    figure.suptitle(f"{len(values[MEASURES[0]]):,} cells in {len(measures):,} images")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
