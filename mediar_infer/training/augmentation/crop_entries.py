"""The two entries of a crop in the making: image and labels, as MONAI's dictionary transforms."""

from typing import Final

import numpy as np
import torch
from torch import Tensor

from mediar_infer.arrays import Float32Array, LabelArray

IMAGE: Final = "image"
"""Key of the image."""
LABEL: Final = "label"
"""Key of the labels."""


def to_entries(image: Float32Array, labels: LabelArray, *, is_in_bytes: bool) -> dict[str, Tensor]:
    """Turn a crop that has just been cut into its entries.

    Args:
        image: ``(S, S, 3)``; overwritten if it is in bytes.
        labels: ``(S, S)`` int32; the entry shares its memory.
        is_in_bytes: whether the image is in 0 … 255, not in [0, 1].

    Returns:
        ``(3, S, S)`` float32 in [0, 1] and ``(1, S, S)`` int32, by ``IMAGE`` and ``LABEL``.
    """
    if is_in_bytes:
        image *= np.float32(1 / 255)
    channels_first = np.ascontiguousarray(np.moveaxis(image, 2, 0))
    return {IMAGE: torch.from_numpy(channels_first), LABEL: torch.from_numpy(labels[None])}
