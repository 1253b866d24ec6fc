import numpy as np
import pytest
from skimage.measure import label as connected_components

from mediar_infer.demo.scenes import make_scene
from mediar_infer.errors import UsageError

KINDS = ["fluorescence", "phase", "stained", "bacteria"]


@pytest.mark.parametrize("kind", KINDS)
def test_scene_is_the_same_for_the_same_seed_only(kind):
    first, second, other = (make_scene(kind, 120, 150, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert (first[1] != other[1]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_consecutive_and_every_cell_is_one_piece(kind):
    image, labels = make_scene(kind, 200, 260, 0)
    assert image.shape[:2] == labels.shape == (200, 260)
    assert labels.dtype == np.int32
    ids = np.unique(labels)
    np.testing.assert_array_equal(ids, np.arange(len(ids)))
    assert len(ids) > 20
    assert connected_components(labels, connectivity=1).max() == labels.max()


@pytest.mark.parametrize(
    ("kind", "dtype", "n_axes"),
    [
        ("fluorescence", np.uint16, 2),
        ("phase", np.uint8, 2),
        ("stained", np.uint8, 3),
        ("bacteria", np.uint8, 2),
    ],
)
def test_scene_has_the_pixel_type_of_its_modality(kind, dtype, n_axes):
    image, _ = make_scene(kind, 64, 80, 0)
    assert (image.dtype, image.ndim) == (dtype, n_axes)


@pytest.mark.parametrize("kind", KINDS)
def test_cells_stand_out_from_the_background(kind):
    image, labels = make_scene(kind, 200, 200, 1)
    grey = image.astype(float) if image.ndim == 2 else image.mean(axis=2)
    difference = grey[labels > 0].mean() - grey[labels == 0].mean()
    assert abs(difference) > 0.5 * grey[labels == 0].std()
    assert (difference > 0) == (kind == "fluorescence")


def test_only_phase_cells_touch():
    for kind in KINDS:
        labels = make_scene(kind, 200, 200, 2)[1]
        side_by_side = labels[:, 1:] != labels[:, :-1]
        touching = (side_by_side & (labels[:, 1:] > 0) & (labels[:, :-1] > 0)).any()
        assert touching == (kind == "phase")


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (31, 7)])
@pytest.mark.parametrize("kind", KINDS)
def test_tiny_scenes_are_drawn(kind, shape):
    image, labels = make_scene(kind, *shape, 0)
    assert image.shape[:2] == labels.shape == shape


def test_unknown_kind_lists_the_known_ones():
    with pytest.raises(UsageError, match="'xray'; expected one of fluorescence, phase"):
        make_scene("xray", 10, 10, 0)
