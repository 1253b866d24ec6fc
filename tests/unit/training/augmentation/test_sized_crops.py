"""Crops that follow the size of the cells: sizes, places and turns on images drawn by hand."""

import cv2
import numpy as np
import pytest

from mediar_infer.training.augmentation.sized_crops import (
    RandSizedCropd,
    View,
    cut_labels,
    cut_view,
    measure_cell_size,
)
from mediar_infer.training.augmentation.targets import compute_targets

SIZE = 64


def make_data(diameter=20, shape=(150, 170)):
    """One disc in the middle, as bright as it is a cell."""
    labels = np.zeros(shape, np.int32)
    y, x = np.mgrid[: shape[0], : shape[1]]
    middle = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    labels[(y - middle[0]) ** 2 + (x - middle[1]) ** 2 <= (diameter / 2) ** 2] = 7
    image = np.repeat((labels > 0)[None] * np.uint8(255), 3, axis=0)
    return {"image": image, "label": labels[None]}


def build(**options):
    values = {
        "prob": 1.0,
        "cell_size_range": (10.0, 40.0),
        "kept_zoom_range": (0.8, 1.25),
        "zoom_range": (0.25, 4.0),
        "turn_prob": 0.0,
        "mirror_prob": 0.0,
    } | options
    return RandSizedCropd(SIZE, **values)


def view(**options):
    values = {"centre": (20.0, 30.0), "zoom": (1.0, 1.0), "angle": 0.0, "size": 5, "mirrors": False}
    return View(**(values | options))


def test_size_is_that_of_a_circle_of_the_median_area():
    labels = np.zeros((40, 40), np.int32)
    labels[:2, :2], labels[5:15, 5:15], labels[20:40, 20:40] = 1, 4, 9
    assert measure_cell_size(labels) == pytest.approx(2 * np.sqrt(100 / np.pi))
    assert measure_cell_size(np.zeros((4, 4), np.int32)) == 0
    labels[labels == 9] = np.iinfo(np.int32).max
    assert measure_cell_size(labels) == pytest.approx(2 * np.sqrt(100 / np.pi))


def test_plain_view_is_a_cut_out():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (50, 60, 3), np.uint8)
    labels = rng.integers(0, 9, (50, 60)).astype(np.int32)
    crop, cut = cut_view(image, labels, view())
    assert np.array_equal(crop, image[18:23, 28:33])
    assert np.array_equal(cut, labels[18:23, 28:33])


def test_view_between_the_pixels_keeps_every_row_and_column():
    labels = np.arange(1, 6 * 9 + 1, dtype=np.int32).reshape(6, 9)
    view = View(centre=(2.5, 4.0), zoom=(1.0, 1.0), angle=0.0, size=12, mirrors=False)
    cut = cut_labels(labels, view.to_image(), view.size, mirrors=False)
    assert sorted(cut[cut > 0]) == sorted(labels.ravel())


@pytest.mark.parametrize(
    ("mirrors", "expected", "cells"),
    [(False, [0, 0, 0, 1, 2], [0, 0, 0, 1, 2]), (True, [3, 2, 1, 1, 2], [1, 2, 3, 3, 4])],
)
def test_beyond_the_edge_is_nothing_or_the_mirror_image(mirrors, expected, cells):
    labels = np.tile(np.arange(1, 21, dtype=np.int32), (20, 1))
    image = np.repeat(labels[..., None].astype(np.uint8), 3, axis=2)
    crop, cut = cut_view(image, labels, view(centre=(10.0, -1.0), mirrors=mirrors))
    assert cut[2].tolist() == cells
    assert crop[2, :, 0].tolist() == expected


def draw_discs(places, radius=7, shape=(80, 90)):
    labels = np.zeros(shape, np.int32)
    y, x = np.mgrid[: shape[0], : shape[1]]
    for number, (cy, cx) in enumerate(places, start=1):
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = number
    return labels


@pytest.mark.parametrize("angle", [0.0, 0.6, 2.5])
@pytest.mark.parametrize("zoom", [0.6, 1.0, 1.7])
def test_mirror_images_are_cells_of_their_own(angle, zoom):
    labels = draw_discs([(y, x) for y in (10, 30, 50, 70) for x in (12, 35, 58, 80)])
    image = np.zeros((*labels.shape, 3), np.uint8)
    shown = view(centre=(40.0, 45.0), zoom=(zoom, zoom), angle=angle, size=160, mirrors=True)
    _, cut = cut_view(image, labels, shown)
    n_parts, parts = cv2.connectedComponents((cut > 0).astype(np.uint8), connectivity=8)
    assert len(np.unique(cut)) == n_parts
    flow = compute_targets(cut).unit_flow
    for part in range(1, n_parts):
        alone = parts == part
        expected = compute_targets(alone.astype(np.int32)).unit_flow
        # The number of diffusion steps follows from the largest cell: pixels at a centre may turn.
        assert np.hypot(*(flow - expected))[alone].mean() < 0.02


def test_cell_at_the_edge_is_one_with_its_mirror_image():
    labels = draw_discs([(40, 0), (40, 30)])
    image = np.zeros((*labels.shape, 3), np.uint8)
    _, cut = cut_view(image, labels, view(centre=(40.0, 0.0), size=101, mirrors=True))
    assert cut[50, 43:58].tolist() == [cut[50, 50]] * 15
    assert len({cut[50, 20], cut[50, 50], cut[50, 80]}) == 3


def test_views_inside_the_image_keep_its_ids():
    labels = draw_discs([(40, 45)]) * 9
    image = np.zeros((*labels.shape, 3), np.uint8)
    shown = view(centre=(40.0, 45.0), angle=0.6, size=50, mirrors=True)
    assert np.unique(cut_view(image, labels, shown)[1]).tolist() == [0, 9]


@pytest.mark.parametrize("zoom", [0.3, 0.7, 1.0, 1.1, 2.5])
@pytest.mark.parametrize("angle", [0.0, 0.6, 3.0])
def test_image_and_labels_show_the_same(zoom, angle):
    data = make_data(diameter=50, shape=(200, 210))
    shown = view(centre=(90.0, 95.0), zoom=(zoom, 1.1 * zoom), angle=angle, size=64, mirrors=True)
    crop, cut = cut_view(np.moveaxis(data["image"], 0, 2), data["label"][0], shown)
    near = 2 * int(3 * max(1.0, zoom)) + 1  # interpolation reaches two pixels of the image
    is_cell, around = (cut > 0).astype(np.uint8), np.ones((near, near), np.uint8)
    # What lies beside the crop is unknown.
    inner = cv2.erode(is_cell, around, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
    outer = cv2.dilate(is_cell, around) > 0
    assert inner.any()
    assert crop[inner].min() > 200
    assert crop[~outer].max(initial=0) < 55


def test_cells_get_all_sizes_of_the_range():
    change = build()
    change.set_random_state(seed=3)
    sizes = np.array([20 * change.draw_view((150, 170), 20.0).zoom[0] for _ in range(400)])
    assert 10 <= sizes.min() < 11
    assert 38 < sizes.max() <= 40
    assert np.mean(sizes < 20) == pytest.approx(0.5, abs=0.08)  # every factor is as likely


def test_without_zoom_cells_keep_their_size_to_a_quarter():
    change = build(prob=0.0)
    change.set_random_state(seed=3)
    zooms = np.array([change.draw_view((150, 170), 20.0).zoom[0] for _ in range(100)])
    assert 0.8 <= zooms.min() <= zooms.max() <= 1.25


def test_crop_is_in_the_range_of_the_image_and_the_image_stays_as_it_is():
    change, data = build(), make_data()
    change.set_random_state(seed=3)
    kept = {key: value.copy() for key, value in data.items()}
    for _ in range(10):
        crop = change(data)
        assert crop["image"].shape == (3, SIZE, SIZE)
        assert crop["label"].shape == (1, SIZE, SIZE)
        assert 0 <= float(crop["image"].min()) <= float(crop["image"].max()) <= 1
        assert set(crop["label"].unique().tolist()) <= {0, 7}
    assert all(np.array_equal(data[key], kept[key]) for key in kept)


def test_same_seed_gives_the_same_crop():
    crops = []
    for _ in range(2):
        change = build(turn_prob=1.0)
        change.set_random_state(seed=11)
        crops.append(change(make_data()))
    assert np.array_equal(crops[0]["image"], crops[1]["image"])
    assert np.array_equal(crops[0]["label"], crops[1]["label"])


def test_without_cells_and_on_images_smaller_than_the_crop_it_gives_a_crop():
    for shape in ((30, 20), (1, 1), (300, 10)):
        data = {
            "image": np.zeros((3, *shape), np.float32),
            "label": np.zeros((1, *shape), np.int32),
        }
        for turn in (0.0, 1.0):
            change = build(turn_prob=turn)
            change.set_random_state(seed=1)
            assert change(data)["image"].shape == (3, SIZE, SIZE)


def _draw_true(places, radius, shown):
    """Discs as a view shows them, drawn in the pixels of the crop."""
    steps = np.arange(shown.size)
    x, y = (row[0] * steps + row[1] * steps[:, None] + row[2] for row in shown.to_image())
    labels = np.zeros((shown.size, shown.size), np.int32)
    for number, (cy, cx) in enumerate(places, start=1):
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = number
    return labels


def _mean_iou(labels, true):
    ids = np.unique(true)[1:]
    shared = [((labels == i) & (true == i)).sum() for i in ids]
    joined = [((labels == i) | (true == i)).sum() for i in ids]
    return np.mean(np.divide(shared, joined))


@pytest.mark.parametrize("angle", [0.0, 0.6])
@pytest.mark.parametrize("zoom", [1.3, 2.0, 2.5])
def test_enlarged_cells_have_smooth_outlines(zoom, angle):
    rng = np.random.default_rng(0)
    places = [(y, x) for y in (12, 40, 68) for x in (12, 43, 74)] + rng.uniform(-2, 2, (9, 2))
    labels = draw_discs(places, radius=8)
    image = np.zeros((*labels.shape, 3), np.uint8)
    shown = view(centre=(40.3, 43.4), zoom=(zoom, zoom), angle=angle, size=256)
    true = _draw_true(places, 8, shown)
    smooth = cut_view(image, labels, shown)[1]
    nearest = cut_labels(labels, shown.to_image(), shown.size, mirrors=False)
    assert set(np.unique(smooth)) == set(np.unique(nearest))
    assert 1 - _mean_iou(smooth, true) < 0.8 * (1 - _mean_iou(nearest, true))
    areas = np.bincount(smooth.ravel())[1:] / np.bincount(true.ravel())[1:]
    assert np.abs(areas - 1).max() < 0.04
    assert areas.mean() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("zoom", [1.5, 2.0, 3.0])
def test_lines_and_gaps_of_one_pixel_keep_their_width_when_enlarged(zoom):
    labels = np.tile(np.array([5, 5, 5, 0, 8, 8, 8, 0, 0, 9, 0, 0], np.int32), (12, 1))
    image = np.zeros((*labels.shape, 3), np.uint8)
    shown = view(centre=(5.5, 5.5), zoom=(zoom, zoom), size=int(12 * zoom))
    smooth = cut_view(image, labels, shown)[1]
    nearest = cut_labels(labels, shown.to_image(), shown.size, mirrors=False)
    assert np.array_equal(smooth[4:-4, 4:], nearest[4:-4, 4:])  # corners at the edges are round


def test_touching_cells_share_what_lies_between_them_when_enlarged():
    labels = np.full((40, 40), 3, np.int32)
    y, x = np.mgrid[:40, :40]
    labels[y > 1.4 * x - 8], labels[y + x > 60] = 7, 2**31 - 1
    image = np.zeros((40, 40, 3), np.uint8)
    smooth = cut_view(image, labels, view(centre=(19.2, 19.7), zoom=(2.5, 2.6), size=90))[1]
    assert set(np.unique(smooth)) == {3, 7, 2**31 - 1}


@pytest.mark.parametrize("mirrors", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (30, 20)])
def test_enlarged_views_reach_beyond_small_images(shape, mirrors):
    labels = np.ones(shape, np.int32)
    shown = view(centre=(0.0, 0.0), zoom=(1.3, 1.4), angle=0.6, size=64, mirrors=mirrors)
    smooth = cut_view(np.zeros((*shape, 3), np.uint8), labels, shown)[1]
    nearest = cut_labels(labels, shown.to_image(), 64, mirrors=mirrors)
    near = cv2.dilate((nearest > 0).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert (smooth > 0).all() if mirrors else not (smooth[~near] > 0).any()


@pytest.mark.parametrize("zoom", [0.3, 0.45, 0.6])
def test_mirror_images_of_shrunk_images_lie_where_their_labels_do(zoom):
    labels = draw_discs([(y, x) for y in (12, 40, 68) for x in (12, 45, 78)], radius=11)
    image = np.repeat((labels > 0)[..., None] * np.uint8(200), 3, axis=2)
    shown = view(centre=(40.0, 45.0), zoom=(zoom, zoom), size=200, mirrors=True)
    crop, cut = cut_view(image, labels, shown)
    for rows in (slice(0, 50), slice(50, 150), slice(150, 200)):
        bright = np.argwhere(crop[rows, :, 0] > 100).mean(axis=0)
        assert np.argwhere(cut[rows] > 0).mean(axis=0) == pytest.approx(bright, abs=0.25)


def test_crops_that_keep_their_size_are_cut_from_whole_pixels():
    change = build(prob=0.0, kept_zoom_range=(1.0, 1.0), mirror_prob=0.5)
    change.set_random_state(seed=2)
    image = np.random.default_rng(1).integers(1, 255, (3, 151, 40), np.uint8)
    labels = np.arange(151 * 40, dtype=np.int32).reshape(1, 151, 40) // 3
    for _ in range(5):
        crop = change({"image": image, "label": labels})["image"].numpy() * 255
        assert np.abs(crop - np.round(crop)).max() < 1e-3


@pytest.mark.parametrize(("mirror_prob", "is_black"), [(0.0, True), (1.0, False)])
def test_beyond_small_images_is_black_or_the_mirror_image(mirror_prob, is_black):
    change = build(prob=0.0, mirror_prob=mirror_prob)
    change.set_random_state(seed=2)
    data = np.full((3, 20, 24), 90, np.uint8)
    crop = change({"image": data, "label": np.ones((1, 20, 24), np.int32)})
    assert bool((crop["image"] == 0).any()) == is_black
    assert bool((crop["label"] == 0).any()) == is_black


def test_images_that_go_on_as_their_mirror_image_are_shrunk_as_far_as_the_range_says():
    change = build(cell_size_range=(2.0, 2.0), zoom_range=(0.05, 4.0), mirror_prob=1.0)
    change.set_random_state(seed=0)
    assert change.draw_view((200, 300), 20.0).zoom[0] == pytest.approx(0.1)


def test_no_image_is_shrunk_to_less_than_most_of_the_crop():
    change = build(cell_size_range=(2.0, 2.0), zoom_range=(0.05, 4.0))
    change.set_random_state(seed=0)
    drawn = change.draw_view((200, 300), 20.0)
    assert drawn.zoom[0] * 200 == pytest.approx(0.85 * SIZE)
