"""Columns of intensities have one name each."""

import numpy as np
import pytest

from mediar_infer.exports.cells import index_cells
from mediar_infer.exports.intensities import measure_intensities, name_channels
from mediar_infer.exports.label_rows import ArrayLabelRows
from mediar_infer.images.sources import ArraySource


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["DAPI", "GFP"], ["DAPI", "GFP"]),
        (["", "DAPI", ""], ["0", "DAPI", "2"]),
        (["DAPI", "DAPI"], ["DAPI_0", "DAPI_1"]),
        (["DAPI", "DAPI", "DAPI_1"], ["DAPI_0", "DAPI_1_1", "DAPI_1"]),
        (["1", ""], ["1_0", "1_1"]),
        (["cellprob", "DAPI"], ["cellprob_0", "DAPI"]),
        (["cellprob", "cellprob", "cellprob_0"], ["cellprob_0_0", "cellprob_1", "cellprob_0"]),
        (["a", "a", "a_0", "a_0", "a_0_0"], ["a_0_0_0", "a_1", "a_0_2", "a_0_3", "a_0_0"]),
    ],
)
def test_every_channel_has_a_name_of_its_own(names, expected):
    source = ArraySource(np.zeros((2, 3, len(names)), np.uint8))
    source.channel_names = tuple(names)
    found = name_channels(source)
    assert found == expected
    assert len(set(found)) == len(names)


def test_one_missing_pixel_leaves_a_cell_without_mean_and_maximum():
    values = np.array([[9, np.nan, 2, 3], [5, 6, 7, 4]], np.float32)
    labels = np.array([[1, 1, 1, 2], [2, 2, 2, 2]], np.uint8)
    rows = ArrayLabelRows(labels)
    columns = measure_intensities(rows, index_cells(rows), ArraySource(values))
    assert np.isnan([columns["mean_0"][0], columns["max_0"][0]]).all()
    assert (columns["mean_0"][1], columns["max_0"][1]) == (5, 7)
