"""The parts of an image on which scales are tried."""

from typing import Final

import numpy as np

from mediar_infer.arrays import AnyArray, Float32Array
from mediar_infer.engine.preprocess import Scaling
from mediar_infer.images.sources import ImageSource

_BLOCK: Final = 64
_MAX_STRIPS: Final = 32
_ROWS_READ_AT_ONCE: Final = 16


def choose_places(
    source: ImageSource, scaling: Scaling, size: int, n_places: int
) -> list[tuple[int, int]]:
    """Find places with something to see, from a few strips of rows.

    Args:
        source: the image.
        scaling: its normalisation constants.
        size: side of what will be looked at around them; places are at least this far apart.
        n_places: most places to find.

    Returns:
        Centres (row, column); at least one.
    """
    if source.height <= size and source.width <= size:
        return [(source.height // 2, source.width // 2)]
    centres, contrasts = _measure_contrast(source, scaling, size)
    # Typical of what has contrast: the highest is often dirt, or the border of a slide.
    typical = np.median(contrasts[contrasts >= contrasts.max() / 2])
    order = np.argsort(np.abs(contrasts - typical), kind="stable")
    places: list[tuple[int, int]] = []
    for row, column in centres[order].tolist():
        if all(max(abs(row - y), abs(column - x)) >= size for y, x in places):
            places.append((row, column))
        if len(places) == n_places:
            break
    return places


def _measure_contrast(
    source: ImageSource, scaling: Scaling, size: int
) -> tuple[AnyArray, Float32Array]:
    """Centres of blocks of pixels, and the deviation of their grey levels."""
    step = max(_BLOCK, source.height // _MAX_STRIPS)
    tops = range(0, max(source.height - _BLOCK, 1), step)
    n_blocks = max(source.width // _BLOCK, 1)
    lefts = np.arange(n_blocks) * _BLOCK
    centres, contrasts = [], []
    for top in tops:
        rows = source.read_rows(top, min(top + _ROWS_READ_AT_ONCE, source.height))
        grey = scaling.apply(rows).mean(axis=2, dtype=np.float32)
        blocks = grey[:, : n_blocks * _BLOCK].reshape(len(grey), n_blocks, -1)
        contrasts.append(blocks.std(axis=(0, 2)))
        centres.append(np.stack([np.full(n_blocks, top + _BLOCK // 2), lefts + _BLOCK // 2], 1))
    return np.concatenate(centres), np.concatenate(contrasts)


def read_part(
    source: ImageSource, scaling: Scaling, centre: tuple[int, int], size: int
) -> Float32Array:
    """Read a square part of an image around a centre, moved inside and cut at the borders.

    Returns:
        ``(3, rows, columns)`` float32, normalised to 0 … 255.
    """
    (top, bottom), (left, right) = find_part((source.height, source.width), centre, size)
    part = np.empty((3, bottom - top, right - left), np.float32)
    for first in range(top, bottom, _ROWS_READ_AT_ONCE):
        last = min(first + _ROWS_READ_AT_ONCE, bottom)
        rows = scaling.apply(source.read_rows(first, last)[:, left:right])
        part[:, first - top : last - top] = rows.transpose(2, 0, 1)
    return part


def find_part(
    shape: tuple[int, int], centre: tuple[int, int], size: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Find the square around a centre, moved inside an image and cut at its borders.

    Returns:
        First row and the one after the last; first column and the one after the last.
    """
    rows, columns = (
        _inside(middle, size, length) for middle, length in zip(centre, shape, strict=True)
    )
    return rows, columns


def _inside(middle: int, size: int, length: int) -> tuple[int, int]:
    start = max(min(middle - size // 2, length - size), 0)
    return start, min(start + size, length)
