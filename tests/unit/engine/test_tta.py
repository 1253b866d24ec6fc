"""Flips and their inverses, signs included."""

import pytest
import torch

from mediar_infer.arrays import FLOW_X, FLOW_Y
from mediar_infer.config import ALL_FLIPS
from mediar_infer.engine.tta import flip_inputs, unflip_logits


@pytest.fixture
def batch():
    return torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).view(2, 3, 4, 5) + 1


def test_horizontal_flip_mirrors_columns_and_vertical_flip_rows(batch):
    torch.testing.assert_close(flip_inputs(batch, "horizontal"), batch.flip(3), rtol=0, atol=0)
    torch.testing.assert_close(flip_inputs(batch, "vertical"), batch.flip(2), rtol=0, atol=0)


def test_identity_copies_nothing(batch):
    assert flip_inputs(batch, "identity") is batch
    assert unflip_logits(batch, "identity") is batch


@pytest.mark.parametrize(("flip", "channel"), [("horizontal", FLOW_X), ("vertical", FLOW_Y)])
def test_unflipping_puts_pixels_back_and_reverses_the_mirrored_flow_only(batch, flip, channel):
    restored = unflip_logits(flip_inputs(batch, flip), flip)
    sign = torch.ones(3)
    sign[channel] = -1
    torch.testing.assert_close(restored, batch * sign[:, None, None], rtol=0, atol=0)


@pytest.mark.parametrize("flip", ALL_FLIPS)
def test_augmenting_maps_and_undoing_it_is_the_identity(batch, flip):
    # A mirrored image has mirrored maps in which the mirrored flow points the other way.
    once = unflip_logits(batch.clone(), flip)
    torch.testing.assert_close(unflip_logits(once, flip), batch, rtol=0, atol=0)


@pytest.mark.parametrize("flip", ["horizontal", "vertical"])
def test_arguments_are_not_modified(batch, flip):
    before = batch.clone()
    flip_inputs(batch, flip).add_(1)
    unflip_logits(batch, flip)
    torch.testing.assert_close(batch, before, rtol=0, atol=0)


def test_a_vector_to_the_right_points_right_again_after_flip_and_unflip():
    maps = torch.zeros(1, 3, 1, 3)
    maps[0, FLOW_X, 0] = torch.tensor([-7.0, 0.0, 2.0])
    restored = unflip_logits(maps, "horizontal")
    assert restored[0, FLOW_X, 0].tolist() == [-2.0, 0.0, 7.0]
