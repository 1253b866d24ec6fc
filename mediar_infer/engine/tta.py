"""Test-time augmentation: flips of window batches and their inverses on flow maps.

A flip of the whole image equals a mirrored window grid plus a flip of each window, so no flipped
copy of the image is made. A mirrored flow points the other way.
"""

from typing import Final

from mediar_infer.arrays import FLOW_X, FLOW_Y
from mediar_infer.config import FlipName
from mediar_infer.engine.array_ops import ArrayOps, DeviceArray

_AXIS: Final = {"vertical": -2, "horizontal": -1}
_REVERSED_CHANNEL: Final = {"vertical": FLOW_Y, "horizontal": FLOW_X}


def flip_windows(windows: DeviceArray, flip: FlipName, ops: ArrayOps) -> DeviceArray:
    """Flip windows ``(…, 3, h, w)``; the identity returns them as they are."""
    return windows if flip == "identity" else ops.flip(windows, _AXIS[flip])


def unflip_logits(logits: DeviceArray, flip: FlipName, ops: ArrayOps) -> DeviceArray:
    """Undo ``flip_windows`` on maps ``(…, 3, h, w)``: pixels back, mirrored flow reversed."""
    if flip == "identity":
        return logits
    restored = ops.flip(logits, _AXIS[flip])
    restored[..., _REVERSED_CHANNEL[flip], :, :] *= -1
    return restored
