"""Random changes of a crop: what Table 1 says, on arrays drawn by hand."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from monai import transforms as monai_transforms
from monai.data.meta_obj import set_track_meta
from skimage.segmentation import find_boundaries

from mediar_infer.training.augmentation.intensity import (
    RandCellIntensityd,
    RandHistogramd,
    RandSharpend,
    smooth_image,
)
from mediar_infer.training.augmentation.settings import Augmentation
from mediar_infer.training.augmentation.transforms import (
    ExcludeBoundaryd,
    RandZoomCropd,
    build_transforms,
    exclude_boundary,
)
from tests.fakes import draw_cells

NEVER = Augmentation(
    **{
        field.name: 0.0
        for field in dataclasses.fields(Augmentation)
        if field.name.endswith("_probability")
    }
)


def only(**options):
    """Augmentation that does what is named, always."""
    probabilities = {f"{name}_probability": 1.0 for name in options.pop("names")}
    return dataclasses.replace(NEVER, **probabilities, **options)


def make_data(rng, shape=(40, 52)):
    labels = draw_cells(rng, *shape)
    image = rng.uniform(0.1, 0.9, (3, *shape)).astype(np.float32)
    return {"image": image, "label": labels[None]}


def run(augmentation, data, size=32, seed=0, **options):
    options.setdefault("excludes_boundary", False)
    change = build_transforms(augmentation, size, **options)
    change.set_random_state(seed=seed)
    return change(data)


def plain(data, size=32, seed=0):
    return run(NEVER, data, size, seed)


# ── boundary exclusion ──────────────────────────────────────────────────────────────────────────


def test_boundary_of_a_large_cell_becomes_background_and_its_inside_keeps_the_id():
    labels = np.zeros((20, 20), np.int32)
    labels[3:17, 3:17] = 70_000  # 196 pixels
    expected = np.zeros_like(labels)
    expected[4:16, 4:16] = 70_000
    np.testing.assert_array_equal(exclude_boundary(labels), expected)


def test_cell_under_196_pixels_keeps_its_boundary():
    labels = np.zeros((20, 20), np.int32)
    labels[3:17, 3:17] = 5
    labels[3, 3] = 0  # 195 pixels
    np.testing.assert_array_equal(exclude_boundary(labels), labels)


def test_touching_cells_are_parted_by_two_pixels():
    labels = np.zeros((22, 40), np.int32)
    labels[4:18, 4:20], labels[4:18, 20:36] = 1, 2
    expected = np.zeros_like(labels)
    expected[5:17, 5:19], expected[5:17, 21:35] = 1, 2
    np.testing.assert_array_equal(exclude_boundary(labels), expected)


def test_large_cell_beside_a_small_one_loses_its_rim_alone():
    labels = np.zeros((22, 40), np.int32)
    labels[4:18, 4:20], labels[8:12, 20:24] = 1, 2
    expected = np.zeros_like(labels)
    expected[5:17, 5:19], expected[8:12, 20:24] = 1, 2
    np.testing.assert_array_equal(exclude_boundary(labels), expected)


def test_outer_two_pixels_of_the_image_are_kept():
    labels = np.zeros((30, 30), np.int32)
    labels[0:20, 5:25] = 1  # touches the upper border
    expected = np.zeros_like(labels)
    expected[0:2, 5:25] = 1
    expected[2:19, 6:24] = 1
    np.testing.assert_array_equal(exclude_boundary(labels), expected)


@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (4, 4), (50, 2)])
def test_images_of_border_alone_are_unchanged(shape):
    labels = np.ones(shape, np.int32)
    labels[:, ::2] = 2
    np.testing.assert_array_equal(exclude_boundary(labels), labels)


def test_excluded_pixels_are_thick_boundaries_of_connectivity_one(rng):
    labels = draw_cells(rng, 120, 130, radii=(9, 14))
    excluded = exclude_boundary(labels) != labels
    boundary = find_boundaries(labels, connectivity=1, mode="thick") & (labels > 0)
    large = np.bincount(labels.ravel())[labels] >= 196
    inner = np.zeros_like(excluded)
    inner[2:-2, 2:-2] = True
    np.testing.assert_array_equal(excluded, boundary & large & inner)
    assert excluded.any()
    assert (boundary & ~large).any()


def test_sizes_and_border_are_those_of_the_image_not_of_the_crop():
    labels = np.zeros((64, 64), np.int32)
    labels[10:50, 10:50] = 1
    data = {"image": np.zeros((3, 64, 64), np.float32), "label": labels[None]}
    for seed in range(5):
        crop = run(NEVER, data, 12, seed, excludes_boundary=True)["label"]
        unchanged = plain(data, 12, seed)["label"]
        # 144 pixels at most are seen, yet nothing that is 1 px from the background is left.
        expected = exclude_boundary(labels)
        window = build_transforms(NEVER, 12, excludes_boundary=True).set_random_state(seed=seed)
        window(data)
        rows, columns = window.transforms[1].windows
        place = np.s_[rows.start : rows.start + 12, columns.start : columns.start + 12]
        np.testing.assert_array_equal(crop[0], expected[place])
        assert unchanged.shape == crop.shape


def test_boundary_exclusion_is_a_dictionary_transform_that_leaves_its_input_alone(rng):
    data = make_data(rng)
    before = data["label"].copy()
    changed = ExcludeBoundaryd("label")(data)
    np.testing.assert_array_equal(data["label"], before)
    np.testing.assert_array_equal(changed["label"][0], exclude_boundary(before[0]))
    assert changed["image"] is data["image"]


# ── cell-aware intensity ────────────────────────────────────────────────────────────────────────


def test_cell_intensity_scales_whole_cells_and_nothing_else():
    labels = np.zeros((1, 6, 8), np.int32)
    labels[0, 1:4, 1:3], labels[0, 1:4, 3:6], labels[0, 5, 7] = 1, 40_000, 2**31 - 1
    image = torch.full((3, 6, 8), 0.5)
    change = RandCellIntensityd(prob=1.0, fraction=1.0, gain_range=(1.0, 1.7))
    change.set_random_state(seed=3)
    changed = change({"image": image, "label": torch.from_numpy(labels)})["image"].numpy()
    assert (changed[:, labels[0] == 0] == 0.5).all()
    gains = {int(cell): np.unique(changed[:, labels[0] == cell]) / 0.5 for cell in (1, 40_000)}
    for gain in gains.values():
        assert gain.size == 1
        assert 1.0 < gain[0] <= 1.7
    assert gains[1] != gains[40_000]
    assert (image == 0.5).all()


def test_four_of_ten_cells_change_and_the_factors_fill_their_range():
    labels = torch.arange(1, 10_001, dtype=torch.int32).reshape(1, 100, 100)
    change = RandCellIntensityd(prob=1.0, fraction=0.4, gain_range=(1.0, 1.7))
    change.set_random_state(seed=1)
    gains = change({"image": torch.ones(3, 100, 100), "label": labels})["image"][0].numpy()
    changed = gains[gains != 1]
    assert changed.size / gains.size == pytest.approx(0.4, abs=0.02)
    assert changed.min() == pytest.approx(1.0, abs=0.01)
    assert changed.max() == pytest.approx(1.7, abs=0.01)
    assert changed.mean() == pytest.approx(1.35, abs=0.02)


def test_cell_intensity_without_cells_changes_nothing():
    change = RandCellIntensityd(prob=1.0, fraction=1.0, gain_range=(1.5, 1.7))
    data = {"image": torch.rand(3, 5, 5), "label": torch.zeros(1, 5, 5, dtype=torch.int32)}
    assert torch.equal(change(data)["image"], data["image"])


# ── zoom and crop ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("zoom", [0.25, 0.41, 0.75, 1.0, 1.5])
@pytest.mark.parametrize("shape", [(40, 52), (20, 90), (7, 9)])
def test_zoom_crop_is_monais_zoom_pad_crop(shape, zoom, rng):
    data = make_data(rng, shape)
    data["label"] *= 20_000
    change = RandZoomCropd(24, prob=1.0, zoom_range=(zoom, zoom))
    change.set_random_state(seed=2)
    crop = change(data)
    zoomed = monai_transforms.Zoomd(
        ("image", "label"),
        zoom,
        mode=("area", "nearest-exact"),
        keep_size=False,
        padding_mode="constant",
    )(data | {"label": data["label"].astype(np.float64)})
    padded = monai_transforms.SpatialPadd(("image", "label"), (24, 24))(zoomed)
    rows, columns = change.windows
    place = np.s_[:, max(rows.start, 0) :, max(columns.start, 0) :]
    for key, tolerance in (("image", 1e-6), ("label", 0)):
        expected = np.asarray(padded[key])[place][:, :24, :24]
        np.testing.assert_allclose(crop[key], expected, rtol=0, atol=tolerance)


def test_bytes_and_their_255ths_give_the_same_crop(rng):
    labels = draw_cells(rng, 70, 60)[None]
    image = rng.integers(0, 256, (3, 70, 60), dtype=np.uint8)
    floats = image.astype(np.float32) / 255
    for seed in range(4):
        crops = [
            run(only(names=["zoom"]), {"image": x, "label": labels}, 32, seed)["image"]
            for x in (image, floats)
        ]
        assert crops[0].dtype == torch.float32
        np.testing.assert_allclose(*crops, atol=1e-6)


def test_crops_come_from_everywhere_in_the_image():
    change = RandZoomCropd(8, prob=0.0, zoom_range=(1, 1))
    data = {"image": np.zeros((3, 12, 9), np.float32), "label": np.zeros((1, 12, 9), np.int32)}
    starts = Counter()
    for seed in range(200):
        change.set_random_state(seed=seed)
        change(data)
        starts[tuple(window.start for window in change.windows)] += 1
    assert set(starts) == {(y, x) for y in range(5) for x in range(2)}


@pytest.mark.parametrize("shape", [(1, 1), (32, 32), (7, 90), (33, 31)])
@pytest.mark.parametrize("excludes_boundary", [False, True])
def test_every_image_size_gives_a_full_crop(shape, excludes_boundary):
    data = {"image": np.ones((3, *shape), np.uint8), "label": np.ones((1, *shape), np.int32)}
    always = Augmentation(zoom_probability=1.0)
    for seed in range(8):
        crop = run(always, data, 32, seed, excludes_boundary=excludes_boundary)
        assert crop["image"].shape == (3, 32, 32)
        assert crop["label"].shape == (1, 32, 32)
        assert crop["image"].dtype == torch.float32
        assert crop["label"].dtype == torch.int32


def test_image_smaller_than_the_crop_is_centred_on_black():
    data = {"image": np.ones((3, 4, 7), np.float32), "label": np.full((1, 4, 7), 9, np.int32)}
    crop = plain(data, 10)
    expected = np.zeros((10, 10), np.int32)
    expected[3:7, 1:8] = 9
    np.testing.assert_array_equal(crop["label"][0], expected)
    np.testing.assert_array_equal(crop["image"][1], expected > 0)


# ── all together ────────────────────────────────────────────────────────────────────────────────


def test_built_transforms_have_the_values_of_table_1():
    steps = {
        type(step).__name__: step
        for step in build_transforms(Augmentation(), 512, excludes_boundary=True).transforms
    }
    assert {name: step.prob for name, step in steps.items() if hasattr(step, "prob")} == {
        "RandZoomCropd": 0.5,
        "RandAxisFlipd": 0.5,
        "RandRotate90d": 0.5,
        "RandCellIntensityd": 0.25,
        "RandNoised": 0.25,
        "RandAdjustContrastd": 0.25,
        "RandSmoothd": 0.25,
        "RandHistogramd": 0.25,
        "RandSharpend": 0.25,
    }
    assert next(iter(steps)) == "ExcludeBoundaryd"
    assert (steps["RandZoomCropd"].zoom_range, steps["RandZoomCropd"].crop_size) == (
        (0.25, 1.5),
        512,
    )
    assert steps["RandRotate90d"].max_k == 3
    assert steps["RandCellIntensityd"].gain_range == (1.0, 1.7)
    assert (steps["RandNoised"].sigma, steps["RandNoised"].varies) == (0.1, False)
    assert steps["RandAdjustContrastd"].adjuster.gamma == (0.0, 2.0)
    assert steps["RandSmoothd"].sigma_range == (1.0, 1.0)
    assert steps["RandHistogramd"].n_points == 3
    sharpen = steps["RandSharpend"]
    assert (sharpen.sigma_range, sharpen.alpha_range) == ((0.5, 1.0), (10.0, 30.0))


def test_each_change_happens_as_often_as_it_should(rng):
    augmentation = Augmentation(channel_probability=0.3, saturation_probability=0.6)
    change = build_transforms(augmentation, 8, excludes_boundary=False)
    data = make_data(rng, (9, 9))
    n_crops, happened = 400, Counter()
    for seed in range(n_crops):
        change.set_random_state(seed=seed)
        change(data)
        for step in change.transforms:
            happened[type(step).__name__] += step._do_transform
    assert len(happened) == 11
    for step in change.transforms:
        spread = (step.prob * (1 - step.prob) / n_crops) ** 0.5
        share = happened[type(step).__name__] / n_crops
        assert share == pytest.approx(step.prob, abs=4 * spread), type(step).__name__


def test_without_intensity_only_place_and_direction_change(rng):
    data = make_data(rng, (16, 16))
    always = dataclasses.replace(Augmentation(), zoom_probability=1.0, inversion_probability=1.0)
    for seed in range(10):
        crop = run(always, data, 16, seed, intensity=False)
        turned = [np.rot90(data["image"], k, (1, 2)) for k in range(4)]
        turned += [image[:, ::-1] for image in turned]
        assert any(np.array_equal(crop["image"], image) for image in turned)


def test_image_and_labels_turn_alike(rng):
    labels = rng.integers(0, 100_000, (1, 20, 20), dtype=np.int32)
    data = {"image": np.repeat(labels / 100_000, 3, axis=0).astype(np.float32), "label": labels}
    turn = only(names=["flip", "rotation"])
    seen = set()
    for seed in range(30):
        crop = run(turn, data, 16, seed)
        np.testing.assert_allclose(crop["image"][0], crop["label"][0] / 100_000, atol=1e-6)
        seen.add(crop["label"].numpy().tobytes())
    assert len(seen) > 6


def test_noise_has_the_sigma_asked_for():
    data = {"image": np.full((3, 64, 64), 0.5, np.float32), "label": np.zeros((1, 64, 64), "i4")}
    noise = run(only(names=["noise"]), data, 64)["image"] - 0.5
    assert noise.std().item() == pytest.approx(0.1, rel=0.03)
    assert abs(noise.mean().item()) < 0.005
    varying = only(names=["noise"], noise_varies=True)
    sigmas = [(run(varying, data, 64, seed)["image"] - 0.5).std().item() for seed in range(20)]
    assert min(sigmas) < 0.03
    assert 0.06 < max(sigmas) < 0.105


def test_contrast_is_a_power_of_the_image(rng):
    data = make_data(rng)
    data["image"][:, 0, 0], data["image"][:, 0, 1] = 0, 1
    squared = run(only(names=["contrast"], contrast_range=(2.0, 2.0)), data, 64)["image"]
    np.testing.assert_allclose(squared, plain(data, 64)["image"] ** 2, atol=1e-5)


@pytest.mark.parametrize("sigmas", [(1.0, 1.0), (0.5, 2.0), (1.7, 0.6)])
def test_smoothed_image_is_monais_but_goes_on_as_a_mirror_image(sigmas, rng):
    image = torch.from_numpy(rng.random((3, 30, 40), np.float32))
    smoothed = smooth_image(image, sigmas).numpy()
    mirrored = np.pad(image.numpy(), ((0, 0), (10, 10), (10, 10)), mode="symmetric")
    expected = monai_transforms.GaussianSmooth(sigmas)(mirrored)[:, 10:-10, 10:-10]
    np.testing.assert_allclose(smoothed, np.asarray(expected), atol=1e-6)


def test_sharpened_image_is_monais_inside(rng):
    image = torch.from_numpy(rng.random((3, 40, 40), np.float32))
    sharpen = RandSharpend("image", prob=1.0, sigma_range=(0.8, 0.8), alpha_range=(20.0, 20.0))
    sharpened = sharpen({"image": image})["image"]
    expected = monai_transforms.GaussianSharpen(sigma1=0.8, sigma2=0.8, alpha=20.0)(image)
    np.testing.assert_allclose(sharpened[:, 8:-8, 8:-8], expected[:, 8:-8, 8:-8], atol=1e-4)


class WithoutIntegers(np.random.RandomState):
    """Random numbers whose integers cost no draw, as ours needs none."""

    def randint(self, low, high=None, size=None, dtype=int):
        return low


@pytest.mark.parametrize("n_points", [3, 5])
def test_bent_histogram_is_monais(n_points, rng):
    image = torch.from_numpy(rng.uniform(0.2, 0.7, (3, 30, 30)).astype(np.float32))
    ours = RandHistogramd("image", prob=1.0, n_points=n_points)
    theirs = monai_transforms.RandHistogramShift(num_control_points=n_points, prob=1.0)
    for seed in range(5):
        bent = ours.set_random_state(seed=seed)({"image": image})["image"]
        expected = theirs.set_random_state(state=WithoutIntegers(seed))(image)
        np.testing.assert_allclose(bent, expected, atol=1e-6)
        assert abs(bent - image).max() > 0.01
        np.testing.assert_allclose(torch.aminmax(bent), torch.aminmax(image), atol=1e-6)


def test_sharpening_draws_the_second_sigma_below_the_first():
    sharpen = RandSharpend("image", prob=1.0, sigma_range=(0.5, 1.0), alpha_range=(10.0, 30.0))
    dot = torch.zeros(3, 21, 21)
    dot[:, 10, 10] = 1
    peaks = []
    for seed in range(40):
        sharpen.set_random_state(seed=seed)
        peaks.append(sharpen({"image": dot})["image"][0, 10, 10].item())
    # Once smoothed by 0.5 to 1.0: 0.16 to 0.48; amplified by at most 30 × its difference.
    assert min(peaks) > 0.16
    assert max(peaks) < 0.48 + 30 * 0.48


def test_inversion_swaps_light_and_dark(rng):
    data = make_data(rng)
    inverted = run(only(names=["inversion"]), data)["image"]
    # The crop's place does not depend on what follows.
    np.testing.assert_allclose(inverted, 1 - plain(data)["image"], atol=1e-6)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["mixing", "channel"])
def test_changed_colours_stay_in_range_and_keep_equal_pixels_equal(seed, name):
    image = np.zeros((3, 4, 6), np.float32)
    image[:, :, :3] = np.array([0.9, 0.2, 0.4], np.float32)[:, None, None]
    image[:, :, 3:] = np.array([0.1, 0.8, 0.3], np.float32)[:, None, None]
    data = {"image": image, "label": np.zeros((1, 4, 6), np.int32)}
    changed = run(only(names=[name]), data, 4, seed)["image"].numpy()
    assert changed.dtype == np.float32
    assert 0 <= changed.min() <= changed.max() <= 1
    assert len(np.unique(changed.reshape(3, -1), axis=1).T) == 2


def test_saturation_cuts_off_what_noise_left_beyond_the_range(rng):
    data = make_data(rng)
    changed = run(only(names=["noise", "saturation"], noise_sigma=1.0), data)["image"]
    assert (changed.min(), changed.max()) == (0, 1)


def test_crop_of_one_value_passes_every_change_without_a_warning():
    data = {"image": np.zeros((3, 16, 16), np.uint8), "label": np.zeros((1, 16, 16), np.int32)}
    names = [
        field.name.removesuffix("_probability")
        for field in dataclasses.fields(Augmentation)
        if field.name.endswith("_probability")
    ]
    crop = run(only(names=names), data, 16)
    assert torch.isfinite(crop["image"]).all()


def test_crops_are_plain_tensors(rng):
    set_track_meta(True)
    crop = run(only(names=["flip", "rotation", "noise", "contrast"]), make_data(rng))
    assert type(crop["image"]) is type(crop["label"]) is torch.Tensor


def test_input_is_not_modified(rng):
    data = make_data(rng)
    before = {key: value.copy() for key, value in data.items()}
    for value in data.values():
        value.flags.writeable = False
    names = [f.name for f in dataclasses.fields(Augmentation) if f.name.endswith("_probability")]
    everything = dataclasses.replace(Augmentation(), **dict.fromkeys(names, 1.0))
    run(everything, data, excludes_boundary=True)
    for key, value in data.items():
        np.testing.assert_array_equal(value, before[key])
