"""The generated slide that other tests and benchmarks rely on."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from skimage.measure import label as connected_components
from skimage.measure import regionprops
from slides import SlideScene, decode_scene


def normalise(image):
    """The released whole-image normalisation, ``(H, W, 3)`` uint8 → ``(1, 3, H, W)``."""
    low, high = np.percentile(image[image != 0], [0, 99.5])
    scaled = ((np.clip(image, low, high) - low) / (high - low) * 255).astype(np.uint8)
    low, high = scaled.min(), scaled.max()
    inputs = (scaled.astype(np.float32) - low) / (high - low)
    return torch.from_numpy(inputs).permute(2, 0, 1)[None]


def render(scene):
    return scene.render_rows(0, scene.height), scene.label_rows(0, scene.height)


def compute_flow_to_centroids(labels):
    """Unit vectors toward the centroid of each cell, without any knowledge of the scene."""
    flow = np.zeros((2, *labels.shape))
    for cell in regionprops(labels):
        y, x = cell.coords.T
        offset = cell.centroid - cell.coords
        flow[:, y, x] = (offset / np.linalg.norm(offset, axis=1, keepdims=True)).T
    return flow


@pytest.mark.parametrize("touching", [False, True])
def test_slide_is_the_same_in_any_bands(touching):
    scene = SlideScene(210, 170, pitch=31, seed=5, touching=touching)
    image, labels = render(scene)
    for rows in (1, 37, 64):
        edges = [*range(0, 210, rows), 210]
        bands = list(pairwise(edges))
        np.testing.assert_array_equal(np.concatenate([scene.render_rows(*b) for b in bands]), image)
        np.testing.assert_array_equal(np.concatenate([scene.label_rows(*b) for b in bands]), labels)


@pytest.mark.parametrize("touching", [False, True])
def test_slide_has_as_many_cells_as_it_says_clear_of_its_edge(touching):
    scene = SlideScene(300, 404, pitch=36, touching=touching)
    image, labels = render(scene)
    assert (image.dtype, labels.dtype) == (np.uint8, np.int32)
    assert scene.n_cells == 8 * 11
    np.testing.assert_array_equal(np.unique(labels), np.arange(scene.n_cells + 1))
    assert connected_components(labels, connectivity=1).max() == scene.n_cells
    labels[4:-4, 4:-4] = 0
    assert labels.max() == 0


def test_cells_of_a_slide_touch_only_when_asked_to():
    foreground = [SlideScene(300, 300, touching=t).label_rows(0, 300) > 0 for t in (False, True)]
    n_cells = SlideScene(300, 300).n_cells
    assert connected_components(foreground[0], connectivity=2).max() == n_cells
    assert connected_components(foreground[1], connectivity=1).max() < n_cells / 4


def test_other_seeds_move_the_cells():
    first, second = (SlideScene(200, 200, seed=seed).label_rows(0, 200) for seed in (0, 1))
    assert (first != second).any()


def test_slide_of_the_benchmark_has_more_than_50_000_cells_and_renders_any_rows():
    scene = SlideScene(12_000, 12_000)
    assert scene.n_cells == 62_001
    labels = scene.label_rows(11_900, 12_000)
    assert labels.shape == (100, 12_000)
    assert labels.max() == scene.n_cells


@pytest.mark.parametrize(("height", "width"), [(55, 500), (500, 55), (0, 0)])
def test_slide_without_room_for_a_cell_is_refused(height, width):
    with pytest.raises(ValueError, match="no room for a cell; expected at least 56 pixels"):
        SlideScene(height, width)


@pytest.mark.parametrize("pitch", [23, 55])
def test_pitch_out_of_range_is_refused(pitch):
    with pytest.raises(ValueError, match=f"pitch {pitch}; expected 24…54"):
        SlideScene(500, 500, pitch=pitch)


@pytest.mark.parametrize("touching", [False, True])
@pytest.mark.parametrize("pitch", [24, 48, 54])
def test_normalisation_constants_of_a_slide_are_8_and_255(pitch, touching):
    for side in (2 * pitch - 1 + 8, 300):
        image = SlideScene(side, side, pitch=pitch, touching=touching).render_rows(0, side)
        assert np.percentile(image[image != 0], [0, 99.5]).tolist() == [8, 255]


@pytest.mark.parametrize("pitch", [24, 37, 54])
def test_decoded_flow_is_the_direction_to_the_centroid(pitch):
    image, labels = render(SlideScene(260, 310, pitch=pitch, seed=2))
    logits = decode_scene(normalise(image))[0].numpy()
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits[2], np.where(labels > 0, 10, -10))
    # Far inside the 0.02 that the benchmarks rely on.
    np.testing.assert_allclose(logits[:2] / 5, compute_flow_to_centroids(labels), atol=1e-5)


def test_decoded_flow_of_touching_cells_points_into_the_own_cell():
    image, labels = render(SlideScene(260, 310, touching=True))
    logits = decode_scene(normalise(image))[0].numpy()
    np.testing.assert_array_equal(logits[2] > 0, labels > 0)
    y, x = np.nonzero(labels)
    step_y, step_x = np.rint(logits[:2, y, x] / 5).astype(int)
    np.testing.assert_array_equal(labels[y + step_y, x + step_x], labels[y, x])
    np.testing.assert_allclose(np.hypot(*logits[:2, y, x]), 5, rtol=1e-5)


@pytest.mark.parametrize("touching", [False, True])
@pytest.mark.parametrize(("dims", "channel"), [((-1,), 1), ((-2,), 0)])
def test_decoding_a_flipped_slide_gives_the_flipped_flow(touching, dims, channel):
    inputs = normalise(SlideScene(200, 230, pitch=40, touching=touching).render_rows(0, 200))
    flipped_back = decode_scene(inputs.flip(dims)).flip(dims)
    flipped_back[:, channel] *= -1
    torch.testing.assert_close(flipped_back, decode_scene(inputs), rtol=0, atol=0)


@pytest.mark.parametrize("touching", [False, True])
def test_decoding_a_crop_gives_the_crop_of_the_flow(touching):
    inputs = normalise(SlideScene(200, 230, pitch=40, touching=touching).render_rows(0, 200))
    whole = decode_scene(inputs)
    for top, left in [(0, 0), (13, 57), (30, 31), (72, 102)]:
        crop = (..., slice(top, top + 128), slice(left, left + 128))
        torch.testing.assert_close(decode_scene(inputs[crop]), whole[crop], rtol=0, atol=0)


def test_half_precision_inputs_decode_to_the_same():
    inputs = normalise(SlideScene(200, 230, pitch=54, touching=True).render_rows(0, 200))
    decoded = decode_scene(inputs.half())
    torch.testing.assert_close(decoded, decode_scene(inputs), rtol=0, atol=0)


def test_padding_with_zeros_decodes_to_background():
    logits = decode_scene(torch.zeros(2, 3, 32, 40))
    assert logits.shape == (2, 3, 32, 40)
    assert (logits[:, :2] == 0).all()
    assert (logits[:, 2] == -10).all()
