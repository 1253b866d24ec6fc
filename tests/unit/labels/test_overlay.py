import cv2
import numpy as np
import pytest

from mediar_infer.errors import OutputError, ShapeError
from mediar_infer.labels.overlay import (
    compute_colours,
    draw_outlines,
    draw_overlay,
    draw_picture,
    find_inner_boundary,
    write_overlay,
)

LABELS = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 2, 2, 2],
        [0, 1, 1, 1, 2, 2, 2],
        [0, 1, 1, 1, 2, 2, 2],
        [0, 0, 0, 0, 0, 0, 0],
    ]
)
BOUNDARY = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 1, 1, 1],
        [0, 1, 0, 1, 1, 0, 0],
        [0, 1, 1, 1, 1, 1, 1],
        [0, 0, 0, 0, 0, 0, 0],
    ],
    bool,
)


def test_boundary_is_the_outermost_pixels_of_each_cell_but_not_at_the_image_edge():
    np.testing.assert_array_equal(find_inner_boundary(LABELS), BOUNDARY)


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (1, 5), (5, 1)])
def test_boundary_of_a_thin_image_is_found(shape):
    assert not find_inner_boundary(np.ones(shape, int)).any()


def test_outlines_are_drawn_in_one_colour_per_cell_and_nowhere_else(rng):
    image = rng.integers(0, 255, (5, 7, 3), dtype=np.uint8)
    plain = draw_overlay(image, np.zeros_like(LABELS))
    drawn = draw_overlay(image, LABELS)
    assert (drawn.shape, drawn.dtype) == ((5, 7, 3), np.uint8)
    np.testing.assert_array_equal(drawn[~BOUNDARY], plain[~BOUNDARY])
    for cell, colour in zip((1, 2), compute_colours(np.array([1, 2])), strict=True):
        pixels = drawn[BOUNDARY & (cell == LABELS)]
        np.testing.assert_array_equal(pixels, np.broadcast_to(colour, pixels.shape))


def test_next_ids_have_far_colours():
    colours = compute_colours(np.arange(1, 1000)).astype(int)
    for step in (1, 2):
        distance = np.abs(colours[step:] - colours[:-step]).sum(axis=1)
        assert distance.min() > 150


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_contrast_is_stretched_whatever_the_dtype_and_range(dtype):
    ramp = np.linspace(20, 100, 1000).astype(dtype).reshape(20, 50)
    image = np.repeat(ramp[..., None], 3, axis=2)
    drawn = draw_overlay(image, np.zeros((20, 50), int))
    assert drawn.min() == 0
    assert drawn.max() == 255
    assert 120 < drawn[9:11].mean() < 135


def test_constant_and_non_finite_pixels_are_drawn_black():
    labels = np.zeros((8, 8), int)
    assert draw_overlay(np.full((8, 8, 3), 7, np.uint8), labels).max() == 0
    assert draw_overlay(np.full((8, 8, 3), np.nan), labels).max() == 0
    image = np.linspace(0, 1, 192).reshape(8, 8, 3)
    image[0, 0], image[7, 7] = np.nan, np.inf
    drawn = draw_overlay(image, labels)
    assert (drawn[0, 0].max(), drawn[7, 7].min()) == (0, 255)


def test_few_bright_pixels_on_black_are_still_seen():
    image = np.zeros((50, 50, 3), np.uint16)
    image[25, 25] = 900
    assert draw_overlay(image, np.zeros((50, 50), int)).max() == 255


def test_large_image_is_reduced_with_its_labels():
    labels = np.zeros((300, 100), np.int32)
    labels[60:240, 30:60] = 5
    image = np.repeat((labels * 40).astype(np.uint8)[..., None], 3, axis=2)
    drawn = draw_overlay(image, labels, max_side=100)
    assert drawn.shape == (100, 33, 3)
    assert drawn[50, 15].tolist() == [255, 255, 255]
    assert drawn[5, 5].tolist() == [0, 0, 0]
    assert drawn[20, 15].tolist() == compute_colours(np.array([5]))[0].tolist()


def test_very_thin_image_keeps_one_pixel_when_reduced():
    assert draw_overlay(np.zeros((1, 900, 3)), np.zeros((1, 900), int), max_side=50).shape[0] == 1


def test_inputs_are_not_modified(rng):
    image = rng.integers(0, 255, (5, 7, 3), dtype=np.uint8)
    image_before, labels_before = image.copy(), LABELS.copy()
    draw_overlay(image, LABELS)
    np.testing.assert_array_equal(image, image_before)
    np.testing.assert_array_equal(LABELS, labels_before)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 4), (7, 5, 3)])
def test_arrays_that_do_not_fit_are_named(shape):
    with pytest.raises(ShapeError, match=r"image of shape \(.*labels of shape \(5, 7\)"):
        draw_overlay(np.zeros(shape), LABELS)


def test_file_holds_the_overlay_in_rgb(tmp_path, rng):
    image = rng.integers(0, 255, (5, 7, 3), dtype=np.uint8)
    path = tmp_path / "new" / "zellen_ü.png"
    write_overlay(path, image, LABELS)
    read = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(read, draw_overlay(image, LABELS))


def test_unwritable_folder_is_an_output_error(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match=r"overlay.png: cannot be written"):
        write_overlay(tmp_path / "out" / "overlay.png", np.zeros((5, 7, 3)), LABELS)


def test_range_beyond_that_of_float64_keeps_its_contrast():
    image = np.repeat(np.linspace(-1, 1, 100).reshape(10, 10, 1) * 1.7e308, 3, axis=2)
    drawn = draw_overlay(image, np.zeros((10, 10), np.int32))
    assert (drawn.min(), drawn.max()) == (0, 255)
    assert len(np.unique(drawn)) > 90


def test_layers_together_are_the_overlay(rng):
    image = rng.integers(0, 255, (300, 200, 3), dtype=np.uint8)
    labels = np.kron(np.arange(24).reshape(6, 4), np.ones((50, 50), int))
    picture = draw_picture(image, max_side=120)
    outlines = draw_outlines(labels, max_side=120)
    assert (picture.shape, outlines.shape) == ((120, 80, 3), (120, 80, 4))
    assert set(np.unique(outlines[..., 3])) == {0, 255}
    shown = outlines[..., 3:] == 255
    together = np.where(shown, outlines[..., :3], picture)
    np.testing.assert_array_equal(together, draw_overlay(image, labels, max_side=120))
