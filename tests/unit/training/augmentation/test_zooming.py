"""A zoomed crop is what zooming, padding and cropping the whole image gives."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mediar_infer.training.augmentation.zooming import AxisWindow, crop_by_area, crop_by_nearest

CASES = [
    *(((61, 33), zoom) for zoom in (0.25, 0.37, 0.93, 1.0, 1.5)),
    *((shape, 0.37) for shape in ((40, 64), (17, 90), (5, 3), (1, 1))),
    *((shape, 1.5) for shape in ((17, 90), (1, 1))),
]


def zoom_pad_crop(array, zoomed, starts, size, mode):
    """The straightforward way; array is (H, W, C), padding is symmetric."""
    tensor = torch.from_numpy(array).permute(2, 0, 1)[None].double()
    out = F.interpolate(tensor, zoomed, mode=mode)[0].permute(1, 2, 0).numpy()
    before = [max(-start, 0) for start in starts]
    pads = [(b, max(size - z - b, 0)) for b, z in zip(before, zoomed, strict=True)]
    out = np.pad(out, [*pads, (0, 0)])
    (y, x) = (max(start, 0) for start in starts)
    return out[y : y + size, x : x + size]


def make_windows(shape, zoom, size, rng):
    zoomed = [max(1, int(length * zoom)) for length in shape]
    starts = [int(rng.integers(z - size + 1)) if z > size else -((size - z) // 2) for z in zoomed]
    windows = [AxisWindow(*axis, size) for axis in zip(shape, zoomed, starts, strict=True)]
    return zoomed, starts, windows


@pytest.mark.parametrize(
    ("shape", "zoom", "dtype"),
    [*((*case, np.uint8) for case in CASES), ((61, 33), 0.37, np.float32)],
)
def test_crop_by_area_is_zoom_pad_crop(shape, zoom, dtype, rng):
    image = rng.integers(0, 256, (*shape, 3)).astype(dtype)
    for _ in range(3):
        zoomed, starts, windows = make_windows(shape, zoom, 16, rng)
        expected = zoom_pad_crop(image, zoomed, starts, 16, "area")
        crop = crop_by_area(image, *windows)
        assert crop.dtype == np.float32
        np.testing.assert_allclose(crop, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("shape", "zoom"), CASES)
def test_crop_by_nearest_is_zoom_pad_crop(shape, zoom, rng):
    labels = rng.integers(0, 100_000, shape, dtype=np.int32)
    for _ in range(3):
        zoomed, starts, windows = make_windows(shape, zoom, 16, rng)
        expected = zoom_pad_crop(labels[..., None], zoomed, starts, 16, "nearest-exact")
        crop = crop_by_nearest(labels, *windows)
        assert crop.dtype == np.int32
        np.testing.assert_array_equal(crop, expected[..., 0])


def test_hand_drawn_row_at_half_size():
    row = AxisWindow(length=1, zoomed=1, start=0, size=1)
    half = AxisWindow(length=6, zoomed=3, start=-1, size=5)
    image = np.repeat(np.array([[1, 3, 10, 20, 0, 8]], np.uint8)[..., None], 3, axis=2)
    assert crop_by_area(image, row, half)[0, :, 0].tolist() == [0, 2, 15, 4, 0]
    assert crop_by_nearest(image[..., 0], row, half).tolist() == [[0, 3, 20, 8, 0]]


def test_partly_covered_pixels_count_in_full():
    # Output pixel 0 of 2 covers [0, 1.5) of 3 pixels, so pixels 0 and 1.
    row = AxisWindow(1, 1, 0, 1)
    image = np.repeat(np.array([[0, 10, 40]], np.uint8)[..., None], 3, axis=2)
    assert crop_by_area(image, row, AxisWindow(3, 2, 0, 2))[0, :, 0].tolist() == [5, 25]


def test_labels_stay_centred_on_the_image():
    # A dot in the middle of an odd image stays in the middle at every odd size.
    labels = np.zeros((9, 9), np.int32)
    labels[3:6, 3:6] = 5
    for zoomed in (3, 5, 7, 11, 27):
        window = AxisWindow(9, zoomed, 0, zoomed)
        crop = crop_by_nearest(labels, window, window)
        np.testing.assert_array_equal(crop, crop[::-1, ::-1])


def test_sums_of_a_bright_large_image_do_not_overflow():
    # 255 × 3000² is beyond int32.
    image = np.full((3000, 3000, 3), 255, np.uint8)
    window = AxisWindow(3000, 10, 0, 10)
    assert (crop_by_area(image, window, window) == 255).all()
