"""Holes of cells are filled, and nothing else: drawn cases, and scipy cell by cell as oracle."""

import numpy as np
import pytest
from fakes import draw_cells, draw_ellipses, maps_of_labels
from scipy import ndimage

from mediar_infer.arrays import CELLPROB, FLOW_X, FLOW_Y
from mediar_infer.config import MaskConfig
from mediar_infer.image_trace import Trace
from mediar_infer.labels import blocks, holes
from mediar_infer.labels.blocks import Labelling, label_bands
from mediar_infer.labels.confidence import CellConfidence
from mediar_infer.labels.holes import fill_components, fill_holes, fill_rows
from mediar_infer.labels.kernels.choice import select_kernels
from mediar_infer.labels.kernels.compiled import load_library
from mediar_infer.labels.masks import compute_labels

MODES = ["auto", "paper", "stitched"]


@pytest.fixture(params=["compiled", "components"], autouse=True)
def loop(request, monkeypatch):
    """Each implementation of the loop."""
    if request.param == "components":
        monkeypatch.setattr(holes, "load_library", lambda: None)
    elif load_library() is None:
        pytest.skip("the package was installed without a C compiler")


def drawn(*rows):
    return np.array([[int(c) if c.isdigit() else 0 for c in row] for row in rows], np.int32)


def fill(labels, rows=None):
    """Labels with holes filled, given in bands of a number of rows."""
    height = len(labels)
    rows = rows or height
    bands = [labels[top : top + rows].copy() for top in range(0, height, rows)]
    found = np.concatenate(list(fill_holes(bands, height, Trace())))
    assert found.dtype == np.int32
    return found


def fill_by_scipy(labels):
    """Each cell's holes, cell by cell, where they touch no other cell."""
    filled = labels.copy()
    for each in np.unique(labels[labels > 0]):
        inside = ndimage.binary_fill_holes(labels == each) & (labels == 0)
        regions, n_regions = ndimage.label(inside)
        for region in range(1, n_regions + 1):
            hole = regions == region
            around = ndimage.binary_dilation(hole) & ~hole
            if (labels[around] == each).all():
                filled[hole] = each
    return filled


def random_labels(rng):
    """Cells of single pixels or squares, with pinholes, some of them one inside another."""
    height, width = (int(side) for side in rng.integers(1, 30, 2))
    side, n_cells = rng.choice([1, 3, 4]), rng.integers(1, 5)
    shape = height // side + 1, width // side + 1
    labels = np.kron(rng.integers(0, n_cells + 1, shape), np.ones((side, side), int))
    labels = labels[:height, :width]
    labels[rng.random(labels.shape) < rng.choice([0, 0.6])] = 1
    labels[rng.random(labels.shape) < rng.choice([0, 0.1, 0.3])] = 0
    return labels.astype(np.int32, order="C")


@pytest.mark.parametrize("seed", range(30))
def test_filled_labels_equal_those_of_scipy_in_bands_of_any_height(seed):
    labels = random_labels(np.random.default_rng(seed))
    expected = fill_by_scipy(labels)
    for rows in (1, 2, 3, len(labels)):
        np.testing.assert_array_equal(fill(labels, rows), expected)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(
            ("......", ".1111.", ".1..1.", ".1111.", "......"),
            ("......", ".1111.", ".1111.", ".1111.", "......"),
            id="a hole",
        ),
        pytest.param(
            (".111.", "1.1.1", ".111."), (".111.", "11111", ".111."), id="closed by corners only"
        ),
        pytest.param(
            ("1111111", "1.1.1.1", "1111111"), ("1111111",) * 3, id="a dotted line"
        ),
        pytest.param(
            ("1111111", "..1.1.1", "1111111"), ("1111111", "..11111", "1111111"),
            id="open at the border of the image",
        ),
        pytest.param(
            (".....", ".111.", ".1.1.", ".1.1.", "....."),
            (".....", ".111.", ".1.1.", ".1.1.", "....."),
            id="open by a single pixel",
        ),
        pytest.param(
            ("1111", "1..2", "1222"), ("1111", "1..2", "1222"), id="between two cells"
        ),
        pytest.param(
            ("11111", "1...1", "1.2.1", "1...1", "11111"),
            ("11111", "1...1", "1.2.1", "1...1", "11111"),
            id="around another cell",
        ),
        pytest.param(
            ("1111111", "1.....1", "1.222.1", "1.2.2.1", "1.222.1", "1.....1", "1111111"),
            ("1111111", "1.....1", "1.222.1", "1.222.1", "1.222.1", "1.....1", "1111111"),
            id="of the inner cell",
        ),
        pytest.param(
            ("11112", "1.1.2", "11122"), ("11112", "111.2", "11122"), id="beside another cell"
        ),
        pytest.param(
            ("1111111", "1.111.1", "1.1.1.1", "1...1.1", "11111.1", "1.....1", "1111111"),
            ("1111111",) * 7,
            id="regions that meet further down",
        ),
    ],
)  # fmt: skip
def test_what_is_a_hole(before, after):
    for rows in (1, 2, len(before)):
        np.testing.assert_array_equal(fill(drawn(*before), rows), drawn(*after))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (3, 3)])
@pytest.mark.parametrize("value", [0, 1])
def test_image_of_one_value_is_unchanged(shape, value):
    labels = np.full(shape, value, np.int32)
    np.testing.assert_array_equal(fill(labels), labels)


def test_a_large_hole_is_filled_whole():
    labels = draw_ellipses(400, 300, [(200, 150, 180, 140)])
    ring = np.where(draw_ellipses(400, 300, [(200, 150, 170, 130)]), 0, labels)
    np.testing.assert_array_equal(fill(ring, 64), labels)


def test_rows_wait_only_while_they_may_change(rng):
    labels = draw_cells(rng, 3000, 120)
    labels[rng.random(labels.shape) < 0.1] = 0
    n_given = 0
    bands = (labels[top : top + 64].copy() for top in range(0, 3000, 64))
    n_taken = 0

    def counted():
        nonlocal n_taken
        for band in bands:
            n_taken += len(band)
            yield band

    for band in fill_holes(counted(), 3000, Trace()):
        n_given += len(band)
        assert n_taken - n_given < 64  # fewer rows than the highest cell has, and one band


def test_both_loops_decide_the_same_rows(rng):
    for _ in range(50):
        labels = random_labels(rng)
        for n_rows in range(1, len(labels) + 1):
            ours, theirs = labels[:n_rows].copy(), labels[:n_rows].copy()
            n_decided = fill_rows(ours, is_bottom=False)
            assert n_decided == fill_components(theirs, is_bottom=False) > 0
            np.testing.assert_array_equal(ours, theirs)


@pytest.fixture
def everything_is_large(monkeypatch):
    monkeypatch.setattr(blocks, "LARGE_IMAGE_PIXELS", 1)


@pytest.fixture(scope="module")
def dotted():
    """Maps of cells on all lines between blocks, with pixels that have no vertical flow."""
    rng = np.random.default_rng(3)
    maps = maps_of_labels(draw_cells(rng, 1000, 190), noise=0.3)
    maps[FLOW_Y][rng.random(maps.shape[1:]) < 0.1] = 0
    # One cell higher than any band, with a hole that crosses several of them.
    tall = draw_ellipses(300, 190, [(150.3, 95.2, 130, 80)])
    maps[:, 600:900] = maps_of_labels(tall)
    # Its neighbours' tracks are led on along the line.
    line = np.s_[640:735, 96]
    maps[FLOW_Y][line], maps[FLOW_X][line] = 0, -5
    maps[CELLPROB] += rng.normal(0, 0.5, maps.shape[1:]).astype(np.float32)
    return maps


def label(maps, rows=100, confidence=None, **settings):
    bands = (maps[:, top : top + rows] for top in range(0, maps.shape[1], rows))
    config = MaskConfig(**settings)
    how = Labelling(config, select_kernels(), Trace(), confidence=confidence)
    return np.concatenate(list(label_bands(bands, maps.shape[1:], how)))


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("mode", MODES)
def test_every_way_of_labelling_fills_its_own_labels(dotted, mode):
    released = label(dotted, blocks=mode, block_size=64, fill_holes=False)
    filled = label(dotted, blocks=mode, block_size=64)
    assert np.count_nonzero(filled != released) > 100
    np.testing.assert_array_equal(filled, fill_by_scipy(released))


@pytest.mark.parametrize(("rows", "block_size"), [(17, 64), (64, 200), (1000, 1000)])
def test_filled_labels_do_not_depend_on_the_bands(dotted, rows, block_size):
    expected = label(dotted, blocks="stitched")
    released = label(dotted, blocks="stitched", fill_holes=False)
    assert not released[640:735, 96].any()
    assert (expected[640:735, 96] == expected[750, 80]).all()
    found = label(dotted, rows, blocks="stitched", block_size=block_size)
    np.testing.assert_array_equal(found, expected)


def test_holes_are_left_as_released_if_asked_for(dotted):
    released, _ = compute_labels(dotted)
    np.testing.assert_array_equal(label(dotted, fill_holes=False), released)


@pytest.mark.parametrize("mode", ["auto", "stitched"])
def test_confidence_is_that_of_filled_cells_and_of_the_check_before(dotted, mode):
    before, after = CellConfidence(), CellConfidence()
    label(dotted, blocks=mode, confidence=before, fill_holes=False)
    filled = label(dotted, blocks=mode, confidence=after)
    np.testing.assert_array_equal(after.flow_error, before.flow_error)
    probability = 1 / (1 + np.exp(-dotted[CELLPROB].astype(np.float64)))
    expected = [probability[filled == each].mean() for each in range(1, filled.max() + 1)]
    np.testing.assert_allclose(after.mean_cellprob, expected, rtol=0, atol=1e-6)
    assert (after.mean_cellprob != before.mean_cellprob).any()
