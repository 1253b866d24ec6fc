"""The channel rule of the package: which stored channels become the three of the network."""

import numpy as np

from mediar_infer.arrays import AnyArray


def to_three_channels(image: AnyArray) -> AnyArray:
    """Convert an image to three channels: the one channel rule of the package.

    Grey is repeated; two channels become (first, second, zeros); of more than three the first
    three are kept (as released).

    Args:
        image: ``(H, W)`` or ``(H, W, C)`` with ``C >= 1``. Not modified.

    Returns:
        ``(H, W, 3)`` of the same dtype, a new C-contiguous array.
    """
    if image.ndim == 2:
        image = image[:, :, None]
    n_channels = image.shape[2]
    three = np.empty((*image.shape[:2], 3), image.dtype)
    if n_channels == 2:
        three[:, :, :2] = image
        three[:, :, 2] = 0
    else:
        three[...] = image[:, :, :3]
    return three


def channel_notes(n_channels: int) -> list[str]:
    """Sentences about the channels that ``to_three_channels`` adds or drops.

    Args:
        n_channels: number of channels without opacity.

    Returns:
        An empty list for 1 and 3 channels, else one sentence.
    """
    if n_channels == 2:
        return ["2 channels found: read as red and green, blue is zero"]
    if n_channels > 3:
        return [f"{n_channels} channels found: the first 3 are used"]
    return []


KEPT_OPACITY = "a channel is marked as opacity but varies like an image: it is used as a channel"
DROPPED_OPACITY = (
    "opacity is dropped although it varies: the colours of transparent pixels are used"
)


def without_opacity(image: AnyArray) -> tuple[AnyArray, list[str]]:
    """Drop a last channel that is marked as opacity, unless it holds an image.

    Many writers mark the second of two channels as opacity (Pillow's ``LA``). Real opacity of a
    grey microscopy image is the same everywhere, so one that varies is a channel.

    Args:
        image: ``(H, W, C)`` with ``C >= 1``, the last channel marked as opacity.

    Returns:
        The image without opacity (a view), and a sentence if opacity varied.
    """
    n_channels = image.shape[2]
    if n_channels == 1:
        return image, [KEPT_OPACITY]
    opacity = image[:, :, -1]
    if (opacity == opacity[0, 0]).all():
        return image[:, :, :-1], []
    if n_channels == 2:
        return image, [KEPT_OPACITY]
    return image[:, :, :-1], [DROPPED_OPACITY]
