"""The channel rule of the package: which stored channels become the three of the network."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from mediar_infer.arrays import AnyArray
from mediar_infer.errors import ImageReadError, UsageError

NO_CHANNEL: Final = "-"
"""Stands for a channel of zeros in a choice of channels."""
MAX_CHANNELS: Final = 3
"""Channels that the network sees."""


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


def check_choice(wanted: Sequence[str | int]) -> None:
    """Refuse a choice of channels that no image can satisfy.

    Args:
        wanted: names or numbers; empty if nothing is chosen.

    Raises:
        UsageError: if there are more than three, or none but ``NO_CHANNEL``.
    """
    listed = ",".join(map(str, wanted))
    if len(wanted) > MAX_CHANNELS:
        raise UsageError(
            f"found --channels {listed}, expected at most {MAX_CHANNELS}, as the network has"
            " red, green and blue"
        )
    if wanted and all(channel in (NO_CHANNEL, "") for channel in wanted):
        raise UsageError(f"found --channels {listed}, expected at least one name or number")


def find_channels(
    name: str, wanted: Sequence[str | int], channel_names: Sequence[str]
) -> tuple[int | None, ...]:
    """Find the channels that a user chose in an image.

    Args:
        name: file name, for messages.
        wanted: names or numbers from 0, at most three; ``NO_CHANNEL`` is a channel of zeros. Names
            come first: ``"488"`` is a channel of that name where there is one.
        channel_names: names of the image's channels, empty where the file states none.

    Returns:
        Number of each channel; None for zeros.

    Raises:
        ImageReadError: if a channel does not exist, or several have its name.
    """
    return tuple(_find_channel(name, str(channel), channel_names) for channel in wanted)


def _find_channel(name: str, wanted: str, channel_names: Sequence[str]) -> int | None:
    if wanted == NO_CHANNEL:
        return None
    found = [k for k, known in enumerate(channel_names) if known == wanted]
    found = found or [
        k for k, known in enumerate(channel_names) if known.casefold() == wanted.casefold()
    ]
    if len(found) == 1:
        return found[0]
    if not found and wanted.isdecimal() and int(wanted) < len(channel_names):
        return int(wanted)
    listed = ", ".join(f"{k} {known}".strip() for k, known in enumerate(channel_names))
    problem = f"{len(found)} channels" if found else "no channel"
    raise ImageReadError(
        f"{name}: found {problem} {wanted!r}, expected one of: {listed}; choose by name or number"
        " with --channels"
    )


def pick_channels(image: AnyArray, picked: Sequence[int | None]) -> AnyArray:
    """Take channels of an image in any order.

    Args:
        image: ``(H, W)`` or ``(H, W, C)``.
        picked: number of each channel; None for zeros.

    Returns:
        ``(H, W, len(picked))`` of the same dtype, a new array.
    """
    if image.ndim == 2:
        image = image[:, :, None]
    result = np.zeros((*image.shape[:2], len(picked)), image.dtype)
    for k, number in enumerate(picked):
        if number is not None:
            result[:, :, k] = image[:, :, number]
    return result
