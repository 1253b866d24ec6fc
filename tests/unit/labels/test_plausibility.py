"""Masks, class maps and numbered backgrounds are told from labels of cells."""

import logging

import numpy as np
import pytest
import tifffile

from mediar_infer.errors import DataError
from mediar_infer.labels.plausibility import find_label_fault, read_true_labels


def draw_cells(n_cells=6, side=6, pitch=10):
    """Square cells in a row, numbered from 1."""
    labels = np.zeros((2 * pitch, n_cells * pitch), np.int32)
    for i in range(n_cells):
        labels[2 : 2 + side, i * pitch + 2 : i * pitch + 2 + side] = i + 1
    return labels


def draw_tissue():
    """Cells of 10 × 10 pixels without a gap, numbered from 1."""
    return np.kron(np.arange(1, 13).reshape(3, 4), np.ones((10, 10), np.int32))


@pytest.mark.parametrize("n_cells", [0, 1, 2, 40])
def test_cells_have_no_fault(n_cells):
    assert find_label_fault(draw_cells(max(n_cells, 1)) * (n_cells > 0)) is None


@pytest.mark.parametrize("value", [1, 255, 65535])
def test_mask_of_several_cells_is_a_certain_fault(value):
    fault = find_label_fault(np.where(draw_cells() > 0, value, 0))

    assert fault.is_certain
    assert fault.found == f"6 separate regions, but no numbers other than {value}"


def test_single_cell_in_two_pieces_is_only_unusual():
    labels = draw_cells(2)

    assert not find_label_fault(np.minimum(labels, 1)).is_certain
    assert find_label_fault(np.where(labels > 0, 255, 0)).is_certain


def test_classes_are_a_certain_fault():
    labels = draw_cells(40)

    fault = find_label_fault(np.where(labels > 0, labels % 3 + 1, 0))

    assert fault.is_certain
    assert fault.found == "40 separate regions, but no numbers other than 1, 2, 3"


@pytest.mark.parametrize("first", [1, 2])
def test_numbered_background_is_a_certain_fault(first):
    fault = find_label_fault(draw_cells() + first)

    assert fault.is_certain
    assert fault.is_background
    assert fault.found == f"no pixel that is 0, and label {first} covers 82% of the image"


def test_crowded_cells_on_a_numbered_background_are_a_certain_fault():
    labels = draw_cells(side=8) + 1

    fault = find_label_fault(labels[:12])  # the background covers less than half

    assert fault.is_certain
    assert "label 1 covers 47%" in fault.found


def test_tissue_without_gaps_is_only_unusual():
    fault = find_label_fault(draw_tissue())

    assert not fault.is_certain
    assert fault.found == "no pixel that is 0"


def test_background_that_is_numbered_beside_a_frame_of_zeros_is_a_certain_fault():
    labels = np.pad((draw_cells() + 1)[1:-1, 1:-1], 1)

    assert find_label_fault(labels).is_certain


def test_one_large_cell_is_only_unusual():
    labels = np.zeros((20, 20), np.int32)
    labels[2:18, 2:18] = 1

    fault = find_label_fault(labels)

    assert not fault.is_certain
    assert "label 1 covers 64%" in fault.found


def test_labels_are_not_modified():
    labels = draw_cells()
    before = labels.copy()

    find_label_fault(labels)

    assert np.array_equal(labels, before)


def test_true_labels_that_are_a_mask_are_an_error(tmp_path):
    path = tmp_path / "a_label.tiff"
    tifffile.imwrite(path, np.where(draw_cells() > 0, 255, 0).astype(np.uint8))

    with pytest.raises(DataError, match=r"found 6 separate regions.*number the cells"):
        read_true_labels(path)


def test_true_labels_that_are_unusual_are_read_with_a_warning(tmp_path, caplog):
    path = tmp_path / "a_label.tiff"
    tifffile.imwrite(path, draw_tissue().astype(np.uint16))

    with caplog.at_level(logging.WARNING, "mediar_infer"):
        labels = read_true_labels(path)

    assert np.array_equal(labels, draw_tissue())
    assert "no pixel that is 0" in caplog.text
