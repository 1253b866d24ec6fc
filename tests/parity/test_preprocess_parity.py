"""Normalised images against those of the released system, for every kind of image it reads."""

import numpy as np
import pytest
from fakes import normalise_image

from mediar_infer.engine.preprocess import compute_scaling
from mediar_infer.images.sources import ArraySource

TOLERANCE = 1e-6
"""Of values in [0, 1]; measured 0: the 8-bit values are the same, and one float32 division."""
CASES = ["grey8", "grey16", "rgb8", "rgb8_dark", "rgb16", "rgba8", "float32", "int32"]


@pytest.fixture(scope="module")
def golden(golden_dir):
    with np.load(golden_dir / "preprocess.npz") as arrays:
        yield arrays


def to_inputs(values):
    return values.transpose(2, 0, 1).astype(np.float32) / 255


def test_every_stored_case_is_tested(golden):
    assert sorted(name[:-3] for name in golden.files if name.endswith("_in")) == sorted(CASES)


@pytest.mark.parametrize("case", CASES)
def test_normalised_image_equals_the_released_one(golden, case):
    found = to_inputs(normalise_image(golden[f"{case}_in"]))
    np.testing.assert_allclose(found, golden[f"{case}_out"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", CASES)
def test_rows_normalised_one_by_one_equal_the_released_image(golden, case):
    source = ArraySource(golden[f"{case}_in"])
    scaling = compute_scaling(source)
    rows = [scaling.apply(source.read_rows(row, row + 1)) for row in range(source.height)]
    found = to_inputs(np.concatenate(rows))
    np.testing.assert_allclose(found, golden[f"{case}_out"], rtol=0, atol=TOLERANCE)
