"""Random changes that differ between microscopes."""

import numpy as np
import pytest
import torch

from mediar_infer.training.augmentation.microscopes import (
    RandCamerad,
    RandFadingd,
    RandJpegd,
    RandLightd,
    RandStaind,
    draw_log,
)

CHANGES = {
    "light": RandLightd("image", prob=1.0, strength=0.4),
    "fading": RandFadingd("image", prob=1.0, range_kept=(0.4, 0.6)),
    "stain": RandStaind("image", prob=1.0, gain_range=(0.6, 1.6)),
    "camera": RandCamerad("image", prob=1.0, photons_range=(30.0, 60.0)),
    "jpeg": RandJpegd("image", prob=1.0, quality_range=(40.0, 60.0)),
}


def make_image(seed=0):
    smooth = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    image = torch.nn.functional.interpolate(smooth, (48, 48), mode="bilinear")[0]
    return image.clamp(0.05, 0.95)


@pytest.mark.parametrize("name", CHANGES)
def test_change_depends_on_the_seed_and_leaves_its_input(name):
    change, image = CHANGES[name], make_image()
    kept, results = image.clone(), []
    for seed in (1, 1, 2):
        change.set_random_state(seed=seed)
        results.append(change({"image": image})["image"])
    assert torch.equal(image, kept)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    for result in results:
        assert result.shape == image.shape
        assert result.dtype == torch.float32
        assert not torch.equal(result, image)


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_bright_stays_brighter(name):
    change, image = CHANGES[name], make_image()
    change.set_random_state(seed=4)
    result = change({"image": image})["image"]
    assert np.corrcoef(result.flatten(), image.flatten())[0, 1] > 0.6


def test_fading_keeps_the_range_named():
    change, image = CHANGES["fading"], make_image()
    for seed in range(10):
        change.set_random_state(seed=seed)
        result = change({"image": image})["image"]
        kept = float((result.max() - result.min()) / (image.max() - image.min()))
        assert 0.4 <= kept <= 0.6
        assert float(result.min()) >= 0
        assert float(result.max()) <= 1


def test_grey_images_get_grey_noise():
    image = make_image()[:1].repeat(3, 1, 1)
    change = CHANGES["camera"]
    change.set_random_state(seed=0)
    result = change({"image": image})["image"]
    assert torch.equal(result[0], result[1])
    assert torch.equal(result[0], result[2])


def test_stain_scales_the_optical_density():
    image = torch.full((3, 4, 4), 0.5)
    change = RandStaind("image", prob=1.0, gain_range=(2.0, 2.0))
    change.set_random_state(seed=0)
    gains = change({"image": image})["image"].log() / np.log(0.5)
    assert ((gains > 2 * np.exp(-0.23)) & (gains < 2 * np.exp(0.23))).all()


def test_numbers_are_drawn_evenly_by_their_factors():
    random = np.random.RandomState(0)
    drawn = np.array([draw_log(random, (1.0, 100.0)) for _ in range(2000)])
    assert drawn.min() >= 1
    assert drawn.max() <= 100
    assert (drawn < 10).mean() == pytest.approx(0.5, abs=0.05)
