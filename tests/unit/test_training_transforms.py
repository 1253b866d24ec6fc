"""Augmentations move image, labels and flow together, vectors included."""

from pathlib import Path

import numpy as np
import pytest

from mediar_infer.flows import compute_unit_flow
from mediar_infer.training.data import ImageRecord, Sample
from mediar_infer.training.transforms import (
    Augmentation,
    Crop,
    change_intensity,
    crop_and_zoom,
    draw_crop,
    flip_horizontally,
    flip_vertically,
    rotate_quarter,
)

RECORD = ImageRecord("dsb_1", "train", "fluorescence", "repo", Path("1.png"), Path("1.tiff"))
PLAIN = Augmentation(
    zoom_probability=0,
    cell_probability=0,
    gamma_probability=0,
    noise_probability=0,
    blur_probability=0,
    channel_probability=0,
)


def draw_labels(height=40, width=32):
    """Two odd-sized ellipses with one clear centre each, off the middle of the image."""
    y, x = np.mgrid[:height, :width]
    labels = np.zeros((height, width), np.int32)
    labels[((y - 11) / 7.3) ** 2 + ((x - 9) / 5.3) ** 2 < 1] = 1
    labels[((y - 29) / 6.3) ** 2 + ((x - 20) / 9.3) ** 2 < 1] = 2
    return labels


def make_sample(labels=None):
    labels = draw_labels() if labels is None else labels
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (*labels.shape, 3), dtype=np.uint8)
    return Sample(RECORD, image, labels, compute_unit_flow(labels).astype(np.float16))


def make_crop():
    sample = make_sample()
    return Crop(
        sample.image.astype(np.float32) / 255, sample.labels, sample.unit_flow.astype(np.float32)
    )


TURNS = [
    pytest.param(flip_horizontally, lambda a: a[:, ::-1], id="flip_horizontally"),
    pytest.param(flip_vertically, lambda a: a[::-1], id="flip_vertically"),
    pytest.param(rotate_quarter, np.rot90, id="rotate_quarter"),
]


@pytest.mark.parametrize(("transform", "move"), TURNS)
def test_turned_flow_is_the_flow_of_the_turned_labels(transform, move):
    crop = make_crop()
    turned = transform(crop)
    np.testing.assert_array_equal(turned.labels, move(crop.labels))
    np.testing.assert_array_equal(turned.image, move(crop.image))
    expected = compute_unit_flow(np.ascontiguousarray(turned.labels))
    # At the very centre the gradient is rounding noise, so its direction means nothing.
    directed = (np.hypot(*turned.unit_flow) > 0.5) & (np.hypot(*expected) > 0.5)
    assert (turned.foreground & ~directed).sum() <= 4
    difference = abs(turned.unit_flow - expected)
    np.testing.assert_allclose(difference[:, directed], 0, atol=2e-3)
    assert not turned.unit_flow[:, ~turned.foreground].any()


@pytest.mark.parametrize(("transform", "move"), TURNS)
def test_turning_leaves_its_input_alone(transform, move):
    crop, same = make_crop(), make_crop()
    transform(crop)
    np.testing.assert_array_equal(crop.unit_flow, same.unit_flow)


def test_flow_signs_of_a_hand_drawn_cell():
    # One cell, one vector: the pixel at row 0, column 1 points down and right, (dy, dx) = (3, 4).
    flow = np.zeros((2, 2, 3), np.float32)
    flow[:, 0, 1] = 3, 4
    labels = (flow[0] != 0).astype(np.int32)
    crop = Crop(np.zeros((2, 3, 3), np.float32), labels, flow)
    assert flip_horizontally(crop).unit_flow[:, 0, 1].tolist() == [3, -4]
    assert flip_vertically(crop).unit_flow[:, 1, 1].tolist() == [-3, 4]
    # Counter-clockwise on the screen: right becomes up, down becomes right.
    assert rotate_quarter(crop).unit_flow[:, 1, 0].tolist() == [-4, 3]


def test_four_quarter_turns_are_the_identity():
    crop = turned = make_crop()
    for _ in range(4):
        turned = rotate_quarter(turned)
    np.testing.assert_array_equal(turned.image, crop.image)
    np.testing.assert_array_equal(turned.unit_flow, crop.unit_flow)


def test_crop_without_zoom_is_the_same_pixels():
    sample = make_sample()
    crop = crop_and_zoom(sample, 3, 2, 16, 16)
    np.testing.assert_array_equal(crop.image, sample.image[3:19, 2:18] / np.float32(255))
    np.testing.assert_array_equal(crop.labels, sample.labels[3:19, 2:18])
    np.testing.assert_array_equal(crop.unit_flow, sample.unit_flow[:, 3:19, 2:18])


def test_outside_of_a_small_image_is_empty():
    sample = make_sample(np.ones((3, 5), np.int32))
    crop = crop_and_zoom(sample, -2, -1, 8, 8)
    assert crop.labels[2:5, 1:6].all()
    for array in (crop.labels, crop.image.sum(axis=2), abs(crop.unit_flow).sum(axis=0)):
        outside = np.ones((8, 8), bool)
        outside[2:5, 1:6] = False
        assert not array[outside].any()


@pytest.mark.parametrize("size", [16, 48, 64])
def test_zoom_keeps_direction_and_unit_length_of_the_flow(size):
    crop = crop_and_zoom(make_sample(), 0, 0, 32, size)
    assert crop.image.shape == (size, size, 3)
    inside = crop.foreground
    length = np.hypot(*crop.unit_flow)
    assert not length[~inside].any()
    directed = length[inside] > 0.5  # the gradient is 0 at the very centre
    assert directed.mean() > 0.98
    np.testing.assert_allclose(length[inside][directed], 1, atol=2e-3)
    expected = compute_unit_flow(np.ascontiguousarray(crop.labels))
    cosine = (crop.unit_flow * expected).sum(axis=0)[inside]
    assert np.median(cosine) > 0.98


def test_drawn_flow_points_to_the_cell_centre(rng):
    sample = make_sample()
    for _ in range(20):
        crop = draw_crop(sample, 64, Augmentation(), rng)
        for cell in np.unique(crop.labels)[1:]:
            y, x = np.nonzero(crop.labels == cell)
            if min(y.min(), x.min()) == 0 or max(y.max(), x.max()) == 63:
                continue
            to_centre = np.stack([y.mean() - y, x.mean() - x])
            to_centre /= np.linalg.norm(to_centre, axis=0) + 1e-6
            assert (crop.unit_flow[:, y, x] * to_centre).sum(axis=0).mean() > 0.8


def test_same_seed_draws_the_same_crop():
    crops = [
        draw_crop(make_sample(), 32, Augmentation(), np.random.default_rng(5)) for _ in range(2)
    ]
    np.testing.assert_array_equal(crops[0].image, crops[1].image)
    np.testing.assert_array_equal(crops[0].unit_flow, crops[1].unit_flow)


@pytest.mark.parametrize("shape", [(1, 1), (32, 32), (7, 90), (90, 7)])
def test_every_image_size_gives_a_full_crop(shape, rng):
    crop = draw_crop(make_sample(np.zeros(shape, np.int32)), 32, Augmentation(), rng)
    assert crop.image.shape == (32, 32, 3)
    assert crop.image.dtype == crop.unit_flow.dtype == np.float32
    assert crop.labels.shape == (32, 32)
    assert crop.unit_flow.shape == (2, 32, 32)


def test_intensity_stays_in_range_and_leaves_its_input_alone(rng):
    always = Augmentation(
        cell_probability=1,
        gamma_probability=1,
        noise_probability=1,
        blur_probability=1,
        channel_probability=1,
        mixing_probability=1,
        inversion_probability=1,
    )
    crop, same = make_crop(), make_crop()
    image = change_intensity(crop.image, crop.labels, always, rng)
    assert image.dtype == np.float32
    assert 0 <= image.min() <= image.max() <= 1
    assert abs(image - crop.image).max() > 0.05
    np.testing.assert_array_equal(crop.image, same.image)


def test_cell_brightening_touches_whole_cells_only(rng):
    labels = draw_labels()
    image = np.full((*labels.shape, 3), 0.5, np.float32)
    bright = Augmentation(**{**_fields(PLAIN), "cell_probability": 1, "cell_fraction": 1})
    changed = change_intensity(image, labels, bright, rng)
    assert (changed[labels == 0] == 0.5).all()
    for cell in (1, 2):
        values = np.unique(changed[labels == cell])
        assert len(values) == 1
        assert 0.5 < values[0] <= 0.85


def test_inversion_swaps_light_and_dark(rng):
    invert = Augmentation(**{**_fields(PLAIN), "inversion_probability": 1})
    crop = make_crop()
    changed = change_intensity(crop.image, crop.labels, invert, rng)
    np.testing.assert_allclose(changed, 1 - crop.image, atol=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_mixed_colours_stay_in_range_and_keep_equal_pixels_equal(seed):
    mix = Augmentation(**{**_fields(PLAIN), "mixing_probability": 1})
    image = np.zeros((4, 6, 3), np.float32)
    image[:, :3], image[:, 3:] = (0.9, 0.2, 0.4), (0.1, 0.8, 0.3)
    labels = np.zeros((4, 6), np.int32)
    changed = change_intensity(image, labels, mix, np.random.default_rng(seed))
    assert changed.dtype == np.float32
    assert 0 <= changed.min() <= changed.max() <= 1
    assert len(np.unique(changed.reshape(-1, 3), axis=0)) == 2


def test_nothing_changes_at_zero_probability(rng):
    crop = make_crop()
    np.testing.assert_array_equal(change_intensity(crop.image, crop.labels, PLAIN, rng), crop.image)


def _fields(augmentation):
    return {name: getattr(augmentation, name) for name in augmentation.__slots__}
