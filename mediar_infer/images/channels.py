"""The channel rule of the package: which stored channels become the three of the network."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from mediar_infer.arrays import AnyArray
from mediar_infer.errors import ImageReadError, UsageError

NO_CHANNEL: Final = "-"
"""Stands for a channel of zeros in a choice of channels."""
_MERGE: Final = "+"
"""Stands between the channels of which the maximum is taken."""
Picks = tuple[tuple[int, ...], ...]
"""For each channel of the network the numbers of the channels that it is made of: none for zeros,
several where their maximum is taken."""
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


def check_choice(wanted: Sequence[str | int] | str | int) -> None:
    """Refuse a choice of channels that no image can satisfy.

    Args:
        wanted: names or numbers; empty if nothing is chosen.

    Raises:
        UsageError: if there are more than three, none but ``NO_CHANNEL``, or a single name or
            number in place of a list.
    """
    if isinstance(wanted, str | int):  # the letters of a name would be channels of their own
        raise UsageError(
            f"found channels {wanted!r}, expected a list of names or numbers; use [{wanted!r}]"
        )
    listed = ",".join(map(str, wanted))
    if len(wanted) > MAX_CHANNELS:
        raise UsageError(
            f"found --channels {listed}, expected at most {MAX_CHANNELS}, as the network has"
            " red, green and blue"
        )
    if wanted and all(channel in (NO_CHANNEL, "") for channel in wanted):
        raise UsageError(f"found --channels {listed}, expected at least one name or number")


def find_channels(name: str, wanted: Sequence[str | int], channel_names: Sequence[str]) -> Picks:
    """Find the channels that a user chose in an image.

    Args:
        name: file name, for messages.
        wanted: names or numbers from 0, at most three; ``NO_CHANNEL`` is a channel of zeros, and
            ``A+B`` the maximum of several. Names come first: ``"488"`` and ``"CD4+"`` are channels
            of that name where there is one.
        channel_names: names of the image's channels, empty where the file states none.

    Returns:
        Numbers of the channels of each.

    Raises:
        ImageReadError: if a channel does not exist, or several have its name.
    """
    return tuple(_find_pick(name, str(channel), channel_names) for channel in wanted)


def _find_pick(name: str, wanted: str, channel_names: Sequence[str]) -> tuple[int, ...]:
    if wanted == NO_CHANNEL:
        return ()
    found = _find_matches(wanted, channel_names)
    if len(found) == 1:
        return (found[0],)
    merged = _find_merge(wanted, channel_names)
    if not found and merged:
        return merged
    listed = ", ".join(f"{k} {known}".strip() for k, known in enumerate(channel_names))
    problem = f"{len(found)} channels" if found else "no channel"
    raise ImageReadError(
        f"{name}: found {problem} {wanted!r}, expected one of: {listed}; choose by name or number"
        " with --channels"
    )


def _find_matches(wanted: str, channel_names: Sequence[str]) -> list[int]:
    """Channels of a name or number: names as written, else in any case, else the number."""
    if not wanted:  # which is no name: channels without one would match
        return []
    found = [k for k, known in enumerate(channel_names) if known == wanted]
    found = found or [
        k for k, known in enumerate(channel_names) if known.casefold() == wanted.casefold()
    ]
    if not found and wanted.isdecimal() and int(wanted) < len(channel_names):
        return [int(wanted)]
    return found


def _find_merge(wanted: str, channel_names: Sequence[str]) -> tuple[int, ...]:
    """Channels whose names are joined by ``+``, which names may contain too; none if unknown."""
    found = _find_matches(wanted.strip(), channel_names)
    if len(found) == 1:
        return (found[0],)
    for place in (k for k, letter in reversed(list(enumerate(wanted))) if letter == _MERGE):
        first = _find_matches(wanted[:place].strip(), channel_names)
        rest = _find_merge(wanted[place + 1 :], channel_names) if len(first) == 1 else ()
        if rest:
            return tuple(dict.fromkeys((first[0], *rest)))
    return ()


def keep_picked(picked: Picks, n_channels: int) -> tuple[list[int], Picks]:
    """Choose the channels that are read at all.

    Args:
        picked: from ``find_channels``.
        n_channels: channels of the image.

    Returns:
        Numbers of the channels to read, the first three if none is picked, and the picks among
        these.
    """
    kept = list(dict.fromkeys(k for pick in picked for k in pick))
    kept = kept or list(range(n_channels))[:MAX_CHANNELS]
    return kept, tuple(tuple(kept.index(k) for k in pick) for pick in picked)


def pick_channels(image: AnyArray, picked: Picks) -> AnyArray:
    """Take channels of an image in any order, or the maximum of several.

    Args:
        image: ``(H, W)`` or ``(H, W, C)``.
        picked: numbers of the channels of each.

    Returns:
        ``(H, W, len(picked))`` of the same dtype, a new array.
    """
    if image.ndim == 2:
        image = image[:, :, None]
    result = np.zeros((*image.shape[:2], len(picked)), image.dtype)
    for k, numbers in enumerate(picked):
        if numbers:
            result[:, :, k] = image[:, :, numbers].max(axis=2)
    return result
