"""Outlines and shapes of cells, against drawing them again, shapely and scikit-image."""

import numpy as np
import pytest
from scipy.spatial import cKDTree
from shapely.geometry import MultiPolygon, Polygon
from skimage.measure import regionprops_table

from mediar_infer.errors import ImageReadError
from mediar_infer.exports.cells import BAND_ROWS, index_cells, iterate_cells
from mediar_infer.exports.label_rows import ArrayLabelRows
from mediar_infer.exports.measures import ShapeMeasures


def draw_rings(rings, shape):
    """Fill rings by the even-odd rule: each vertical crack turns what lies to its right over."""
    mask = np.zeros(shape, bool)
    for ring in rings:
        for (x, y0), (after, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if x == after:
                mask[min(y0, y1) : max(y0, y1), x:] ^= True
    return mask


def measure(labels):
    rows = ArrayLabelRows(labels)
    index = index_cells(rows)
    shapes = ShapeMeasures(index)
    for cell in iterate_cells(rows, index):
        shapes.add(cell)
    return shapes.columns(*labels.shape, None)


def touching_cells(rng, side=200, n_cells=60, radius=14):
    centres = rng.uniform(0, side, (n_cells, 2))
    pixels = np.indices((side, side)).reshape(2, -1).T
    distance, nearest = cKDTree(centres).query(pixels)
    return np.where(distance < radius, nearest + 1, 0).reshape(side, side)


def label_images(rng):
    yield from ((rng.random((12, 13)) * rng.integers(2, 5)).astype(int) for _ in range(100))
    cells = touching_cells(rng)
    yield cells
    yield np.where(rng.random(cells.shape) < 0.05, 0, cells)


def test_outlines_drawn_again_are_the_cells_and_valid_polygons(rng):
    for labels in label_images(rng):
        rows = ArrayLabelRows(labels)
        n_cells = 0
        for cell in iterate_cells(rows, index_cells(rows)):
            n_cells += 1
            rings = [ring for part in cell.parts for ring in (part.shell, *part.holes)]
            np.testing.assert_array_equal(draw_rings(rings, labels.shape), labels == cell.id)
            polygons = [Polygon(part.shell, part.holes) for part in cell.parts]
            assert MultiPolygon(polygons).is_valid
            assert all(polygon.exterior.is_ccw for polygon in polygons)
            assert not any(hole.is_ccw for polygon in polygons for hole in polygon.interiors)
        assert n_cells == np.count_nonzero(np.unique(labels))


def test_outline_of_one_pixel_is_its_four_corners():
    labels = np.zeros((4, 5), int)
    labels[1, 2] = 7
    rows = ArrayLabelRows(labels)
    (cell,) = iterate_cells(rows, index_cells(rows))
    (part,) = cell.parts
    assert sorted(part.shell.tolist()) == [[2, 1], [2, 2], [3, 1], [3, 2]]
    assert part.holes == ()


def test_parts_that_meet_by_corners_are_apart_and_a_ring_closed_by_a_corner_has_a_hole():
    diagonal = ArrayLabelRows(np.eye(3, dtype=int))
    (cell,) = iterate_cells(diagonal, index_cells(diagonal))
    assert len(cell.parts) == 3
    ring = ArrayLabelRows(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]]))
    (cell,) = iterate_cells(ring, index_cells(ring))
    (part,) = cell.parts
    (hole,) = part.holes
    assert sorted(hole.tolist()) == [[1, 1], [1, 2], [2, 1], [2, 2]]


def test_island_in_a_hole_is_a_part_of_its_own():
    labels = np.ones((9, 9), int)
    labels[2:7, 2:7] = 0
    labels[3:6, 3:6] = 1
    labels[4, 4] = 0
    rows = ArrayLabelRows(labels)
    (cell,) = iterate_cells(rows, index_cells(rows))
    outer, island = cell.parts
    assert (len(outer.holes), len(island.holes)) == (1, 1)
    assert Polygon(outer.shell, outer.holes).area == 81 - 25
    assert Polygon(island.shell, island.holes).area == 8


def test_shapes_are_those_of_scikit_image(rng):
    names = {
        "label": "label", "area_px": "area", "centroid_y": "centroid-0",
        "centroid_x": "centroid-1", "bbox_top": "bbox-0", "bbox_left": "bbox-1",
        "bbox_bottom": "bbox-2", "bbox_right": "bbox-3", "perimeter": "perimeter",
        "eccentricity": "eccentricity", "solidity": "solidity",
    }  # fmt: skip
    properties = {name.partition("-")[0] for name in names.values()}
    cells = touching_cells(rng)
    for labels in (cells, np.where(rng.random(cells.shape) < 0.05, 0, cells)):
        expected = regionprops_table(labels, properties=sorted(properties))
        measured = measure(labels)
        for column, name in names.items():
            np.testing.assert_allclose(measured[column], expected[name], rtol=1e-9, atol=1e-9)


def test_edges_of_the_image_are_touched_from_inside_only():
    labels = np.zeros((6, 6), int)
    labels[0, 2], labels[3, 3], labels[5, 5] = 1, 2, 3
    assert measure(labels)["touches_edge"].tolist() == [True, False, True]


def test_cells_over_many_bands_ids_with_gaps_and_many_ids_in_a_row(rng):
    labels = np.zeros((3 * BAND_ROWS + 5, 3000), np.uint32)
    labels[:, 5] = 4_000_000_000
    labels[10] = rng.permutation(np.arange(1, 3001)) * 7
    labels[2 * BAND_ROWS, 50:60] = labels[10, 0]  # a second part, far below
    rows = ArrayLabelRows(labels)
    index = index_cells(rows)
    ids, counts = np.unique(labels[labels > 0], return_counts=True)
    seen = {}
    last_row = 0
    for cell in iterate_cells(rows, index):
        seen[cell.id] = cell.area
        assert cell.shape[6] >= 1
        assert cell.box[2] >= last_row
        last_row = cell.box[2]
    assert seen == dict(zip(ids.tolist(), counts.tolist(), strict=True))


@pytest.mark.parametrize("wrong", [-1, 2**32])
def test_numbers_that_are_no_ids_are_refused(wrong):
    rows = ArrayLabelRows(np.array([[0, wrong]], np.int64), "a.tif")
    with pytest.raises(ImageReadError, match=r"a\.tif: found labels from .* expected 0 to"):
        index_cells(rows)


def test_an_image_without_cells_gives_none():
    rows = ArrayLabelRows(np.zeros((3, 4), np.uint8))
    assert list(iterate_cells(rows, index_cells(rows))) == []
