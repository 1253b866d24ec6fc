"""Targets are those of the label crop as it is."""

import numpy as np
import pytest

from mediar_infer.labels.flows import compute_unit_flow
from mediar_infer.training.augmentation.targets import compute_targets
from tests.fakes import draw_cells


def test_targets_are_foreground_and_unit_flow_of_the_labels(rng):
    labels = draw_cells(rng, 60, 75)
    targets = compute_targets(labels)
    np.testing.assert_array_equal(targets.foreground, labels > 0)
    np.testing.assert_array_equal(targets.unit_flow, compute_unit_flow(labels))
    assert targets.foreground.dtype == targets.unit_flow.dtype == np.float32


@pytest.mark.parametrize("offset", [32_760, 70_000, 2**31 - 100])
def test_targets_do_not_depend_on_the_ids(rng, offset):
    labels = draw_cells(rng, 40, 40)
    large = np.where(labels > 0, labels + np.int32(offset), np.int32(0))
    np.testing.assert_array_equal(
        compute_targets(large).unit_flow, compute_targets(labels).unit_flow
    )
    np.testing.assert_array_equal(large > 0, compute_targets(large).foreground > 0)


def test_no_cells_have_empty_targets():
    targets = compute_targets(np.zeros((9, 7), np.int32))
    assert not targets.foreground.any()
    assert not targets.unit_flow.any()
