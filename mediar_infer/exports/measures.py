"""Measurements of all cells of an image, as one array a column of the table."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mediar_infer.exports.cells import Cell
from mediar_infer.exports.compiled import N_SHAPE, CellIndex, Float64Array, Int64Array
from mediar_infer.labels.confidence import CellConfidence

Columns = Mapping[str, npt.NDArray[Any]]
"""Name of a column → its values, a cell each; NaN is an empty cell of the table."""

COLUMNS: Final = (
    "label", "area_px", "area_um2", "centroid_y", "centroid_x", "bbox_top", "bbox_left",
    "bbox_bottom", "bbox_right", "perimeter", "eccentricity", "solidity", "touches_edge",
)  # fmt: skip
"""Columns that every table has after the name of the image; those of channels follow."""
CONFIDENCE_COLUMNS: Final = ("mean_cellprob", "flow_error")
"""Columns of the tables of runs, between the two; empty where labels are of an earlier run."""


class ShapeMeasures:
    """Gathers what the labels alone tell of the cells of an image.

    Args:
        index: the cells.
    """

    def __init__(self, index: CellIndex) -> None:
        self._index = index
        self._shapes = np.zeros((len(index.ids), N_SHAPE))

    def add(self, cell: Cell) -> None:
        """Measure a cell."""
        self._shapes[cell.place] = cell.shape

    def columns(
        self, height: int, width: int, pixel_size_um: tuple[float, float] | None
    ) -> Columns:
        """Compute the columns, once every cell is measured.

        Areas and lengths are in pixels unless the name says µm. Centroids are in pixel indices, so
        that the centre of the first pixel is (0, 0), as in scikit-image; the box is half-open.
        Perimeter, eccentricity and solidity are those of ``skimage.measure.regionprops``.

        Args:
            height: rows of the image.
            width: columns of the image.
            pixel_size_um: (y, x) size of a pixel in µm; None if unknown.

        Returns:
            ``COLUMNS``, cells by their labels; ``area_um2`` is NaN where the pixel size is unknown.
        """
        order = np.argsort(self._index.ids)
        top, left, bottom, right, area = self._index.boxes[order].T
        sum_y, sum_x, yy, xx, xy, perimeter, hull = self._shapes[order].T
        pixel_um2 = np.nan if pixel_size_um is None else pixel_size_um[0] * pixel_size_um[1]
        return {
            "label": self._index.ids[order].astype(np.int64),
            "area_px": area,
            "area_um2": area * pixel_um2,
            "centroid_y": top + sum_y / area,
            "centroid_x": left + sum_x / area,
            "bbox_top": top,
            "bbox_left": left,
            "bbox_bottom": bottom,
            "bbox_right": right,
            "perimeter": perimeter,
            "eccentricity": compute_eccentricity(yy / area, xx / area, xy / area),
            "solidity": area / hull,
            "touches_edge": (top == 0) | (left == 0) | (bottom == height) | (right == width),
        }


def compute_eccentricity(yy: Float64Array, xx: Float64Array, xy: Float64Array) -> Float64Array:
    """Eccentricity of ellipses with the second moments of regions: 0 for a circle or a pixel.

    Args:
        yy: ``(n,)`` float64 variances of the pixel centres along y, px².
        xx: ``(n,)`` variances along x, px².
        xy: ``(n,)`` covariances, px².

    Returns:
        ``(n,)`` float64 in [0, 1], as ``skimage.measure.regionprops`` computes it.
    """
    half_sum, root = (yy + xx) / 2, np.hypot((yy - xx) / 2, xy)
    longest = half_sum + root
    is_pixel = longest == 0
    share = np.maximum(half_sum - root, 0) / np.where(is_pixel, 1, longest)
    return np.where(is_pixel, 0.0, np.sqrt(1 - share))


def confidence_columns(labels: Int64Array, confidence: CellConfidence) -> Columns:
    """How well the network's maps support each cell.

    Args:
        labels: ``(n,)`` labels of the cells.
        confidence: of all cells of the image.

    Returns:
        ``mean_cellprob``, mean cell probability in [0, 1], and ``flow_error``, mean squared
        difference between predicted and ideal unit flow.
    """
    values = (confidence.mean_cellprob, confidence.flow_error)
    return {name: each[labels - 1] for name, each in zip(CONFIDENCE_COLUMNS, values, strict=True)}
