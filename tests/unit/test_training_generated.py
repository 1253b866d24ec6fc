"""Generated training images: valid labels, varied looks, the same for the same seed."""

import numpy as np
import pytest
from skimage.measure import label as split_regions

from mediar_infer.training.generated import draw_scene, make_generated_samples

KINDS = ["scattered", "crowded", "tissue", "rods"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_every_cell_is_one_region_with_its_own_id(kind, seed):
    image, labels = draw_scene(kind, np.random.default_rng(seed), side=160)
    assert image.shape == (160, 160, 3)
    assert image.dtype == np.uint8
    n = labels.max()
    assert n >= 1
    assert np.unique(labels[labels > 0]).tolist() == list(range(1, n + 1))
    assert split_regions(labels, connectivity=1).max() == n
    assert np.bincount(labels.ravel())[1:].min() >= 24


@pytest.mark.parametrize("kind", KINDS)
def test_cells_can_be_seen(kind):
    # Some colour differs between cells and background, or between rims and bodies.
    differences = []
    for seed in range(6):
        image, labels = draw_scene(kind, np.random.default_rng(seed), side=160)
        inside = labels > 0
        if inside.all():
            continue
        apart = np.abs(image[inside].mean(axis=0) - image[~inside].mean(axis=0)).max()
        differences.append(apart / max(image.std(), 1))
    assert np.median(differences) > 0.3


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
