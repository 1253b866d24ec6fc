"""Generated samples of the first loop: normalised, the same for the same seed."""

import numpy as np
import pytest

from mediar_infer.training.data import make_generated_samples

KINDS = ["scattered", "crowded", "tissue", "rods"]


def test_samples_are_normalised_and_depend_on_the_seed_only(tmp_path):
    first = make_generated_samples(4, 7, tmp_path / "a")
    again = make_generated_samples(4, 7, tmp_path / "b")
    other = make_generated_samples(4, 8, tmp_path / "a")
    assert [sample.record.role for sample in first] == ["generated"] * 4
    assert [sample.record.modality for sample in first] == KINDS
    for one, two, three in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one.image, two.image)
        np.testing.assert_array_equal(one.labels, two.labels)
        assert (one.image != three.image).any()
        assert one.image.max() == 255
        length = np.hypot(*one.unit_flow.astype(np.float32))
        assert (length[one.labels == 0] == 0).all()
        assert np.median(length[one.labels > 0]) == pytest.approx(1, abs=1e-2)
