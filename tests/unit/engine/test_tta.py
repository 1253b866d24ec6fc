"""Flips and their inverses, signs included, on numpy arrays and torch tensors."""

import numpy as np
import pytest
import torch
import ttach

from mediar_infer.arrays import FLOW_X, FLOW_Y
from mediar_infer.config import ALL_FLIPS
from mediar_infer.devices import CPU
from mediar_infer.engine.array_ops import HostOps
from mediar_infer.engine.torch_ops import TorchOps
from mediar_infer.engine.tta import flip_windows, unflip_logits

BATCH = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5) + 1
TTACH = {"horizontal": ttach.HorizontalFlip(), "vertical": ttach.VerticalFlip()}


@pytest.fixture(params=[HostOps(), TorchOps(CPU)], ids=["numpy", "torch"])
def ops(request):
    return request.param


@pytest.fixture
def batch(ops):
    return ops.from_host(BATCH.copy())


@pytest.mark.parametrize("flip", ["horizontal", "vertical"])
def test_windows_are_flipped_as_ttach_does(batch, ops, flip):
    flipped = ops.start_to_host(flip_windows(batch, flip, ops))()
    expected = TTACH[flip].apply_aug_image(torch.from_numpy(BATCH), apply=True)
    np.testing.assert_array_equal(flipped, expected.numpy())
    assert flipped.flags.c_contiguous


def test_identity_copies_nothing(batch, ops):
    assert flip_windows(batch, "identity", ops) is batch
    assert unflip_logits(batch, "identity", ops) is batch


@pytest.mark.parametrize(("flip", "channel"), [("horizontal", FLOW_X), ("vertical", FLOW_Y)])
def test_unflipping_puts_pixels_back_and_reverses_the_mirrored_flow_only(batch, ops, flip, channel):
    restored = unflip_logits(flip_windows(batch, flip, ops), flip, ops)
    sign = np.ones((3, 1, 1), np.float32)
    sign[channel] = -1
    np.testing.assert_array_equal(ops.start_to_host(restored)(), BATCH * sign)


@pytest.mark.parametrize("flip", ALL_FLIPS)
def test_augmenting_maps_and_undoing_it_is_the_identity(batch, ops, flip):
    # A mirrored image has mirrored maps in which the mirrored flow points the other way.
    once = unflip_logits(ops.copy(batch), flip, ops)
    np.testing.assert_array_equal(ops.start_to_host(unflip_logits(once, flip, ops))(), BATCH)


@pytest.mark.parametrize("flip", ["horizontal", "vertical"])
def test_arguments_are_not_modified(batch, ops, flip):
    flipped = flip_windows(batch, flip, ops)
    flipped += 1
    unflip_logits(batch, flip, ops)
    np.testing.assert_array_equal(ops.start_to_host(batch)(), BATCH)


def test_a_vector_to_the_right_points_right_again_after_flip_and_unflip(ops):
    maps = np.zeros((3, 1, 3), np.float32)
    maps[FLOW_X, 0] = [-7, 0, 2]
    restored = ops.start_to_host(unflip_logits(ops.from_host(maps), "horizontal", ops))()
    assert restored[FLOW_X, 0].tolist() == [-2, 0, 7]
