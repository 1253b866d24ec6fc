"""Test-time augmentation: flips of window batches and their inverses on flow maps.

A flip of the whole image equals a mirrored window grid plus a flip of each window, so no flipped
copy of the image is made. ttach moves the pixels; that a mirrored flow points the other way is
added here.
"""

import ttach
from torch import Tensor

from mediar_infer.arrays import FLOW_X, FLOW_Y
from mediar_infer.config import FlipName

_TRANSFORMS = {"horizontal": ttach.HorizontalFlip(), "vertical": ttach.VerticalFlip()}
_REVERSED_CHANNEL = {"horizontal": FLOW_X, "vertical": FLOW_Y}


def flip_inputs(inputs: Tensor, flip: FlipName) -> Tensor:
    """Flip a batch ``(N, 3, h, w)`` of windows; the identity returns it as it is."""
    if flip == "identity":
        return inputs
    flipped: Tensor = _TRANSFORMS[flip].apply_aug_image(inputs, apply=True)
    return flipped


def unflip_logits(logits: Tensor, flip: FlipName) -> Tensor:
    """Undo ``flip_inputs`` on ``(N, 3, h, w)`` maps: pixels back, mirrored flow reversed."""
    if flip == "identity":
        return logits
    restored: Tensor = _TRANSFORMS[flip].apply_deaug_mask(logits, apply=True)
    restored[:, _REVERSED_CHANNEL[flip]] *= -1
    return restored
