"""The two functions of the label stage that work on plain arrays."""

import subprocess
import sys

import numpy as np
from fakes import draw_cells, maps_of_labels

from mediar_infer.arrays import FLOW_Y
from mediar_infer.config import MaskConfig
from mediar_infer.labels import follow_flow, labels_from_maps
from mediar_infer.labels.masks import compute_labels


def test_labels_from_maps_are_those_of_the_label_stage(rng):
    maps = maps_of_labels(draw_cells(rng, 90, 110))
    maps[FLOW_Y, 12, 12:15] = 0  # not tracked
    released = labels_from_maps(maps, MaskConfig(fill_holes=False))
    np.testing.assert_array_equal(released, compute_labels(maps)[0])
    filled = labels_from_maps(maps)
    assert np.count_nonzero(filled) > np.count_nonzero(released)
    np.testing.assert_array_equal(filled[released > 0], released[released > 0])
    config = MaskConfig(min_size=400, fill_holes=False)
    found = labels_from_maps(maps, config)
    np.testing.assert_array_equal(found, compute_labels(maps, config)[0])


def test_flow_is_followed_into_the_own_cell(rng):
    labels = draw_cells(rng, 90, 110)
    flow = maps_of_labels(labels, noise=0.1)[:2]
    y, x = follow_flow(flow.astype(np.float64), labels > 0)
    inside = labels > 0
    assert (labels[y, x] == labels)[inside].mean() > 0.99
    at_rest = np.stack(np.nonzero(~inside))
    np.testing.assert_array_equal(np.stack([y, x])[:, ~inside], at_rest)


def test_importing_the_room_loads_neither_torch_nor_opencv():
    code = "import sys, mediar_infer.labels; print({'torch', 'cv2', 'numpy'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
