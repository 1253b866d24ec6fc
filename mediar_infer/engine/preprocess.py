"""Whole-image normalisation as constants plus a per-row mapping, so that no whole image is held.

The released system clips the image to two percentiles of its non-zero values, truncates to 8 bits
and scales to [0, 1]. The percentiles need every pixel: they are found exactly, for every dtype, by
counting 16 bits of the sorted order at a time (one pass over 8- and 16-bit images, two over 32-bit,
four over 64-bit ones). After that any rows can be normalised by themselves.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mediar_infer.engine.contrast import contrast_warnings
from mediar_infer.errors import ImageReadError
from mediar_infer.images.sources import ImageSource

HIGH_PERCENTILE = 99.5

_Array = npt.NDArray[Any]
_COLOURS = ("red", "green", "blue")
"""Channels of the network."""
_DIGIT_BITS = 16
_MIN_DIGITS = 16
"""Fewest leading digits in the range of an image by which its contrast can be judged."""
# cv2 counts in float32, which is exact up to here.
_COUNTED_AT_ONCE = 1 << 24


@dataclass(frozen=True, slots=True)
class Scaling:
    """Constants that turn an image's values into the network's input range."""

    low: float
    """Smallest non-zero value; maps to 0."""
    high: float
    """99.5th percentile of the non-zero values; maps to 255."""
    lut: npt.NDArray[np.uint8] | None
    """Result for every value of an 8- or 16-bit image, indexed by its bits; None otherwise."""
    warnings: tuple[str, ...] = ()
    """What was unusual about the values, one sentence each."""

    def apply(self, rows: _Array) -> npt.NDArray[np.uint8]:
        """Normalise rows of the image.

        Args:
            rows: array of any shape in the image's dtype. Not modified.

        Returns:
            uint8 of the same shape; divided by 255 it is the network's input.
        """
        if self.lut is not None:
            normalised: npt.NDArray[np.uint8] = self.lut[rows.view(f"u{rows.itemsize}")]
            return normalised
        return _rescale(rows, self.low, self.high)


def _rescale(values: _Array, low: float, high: float) -> npt.NDArray[np.uint8]:
    if not high > low:  # constant or empty: min-max scaling of a constant image gives zeros
        return np.zeros(values.shape, dtype=np.uint8)
    scaled = np.clip(values, low, high, dtype=np.float64)
    if values.dtype.kind == "f":
        scaled[~np.isfinite(values)] = low
    if math.isinf(high - low):  # halves of two float64 values differ by a finite number
        scaled, low, high = scaled / 2, low / 2, high / 2
    scaled -= low
    scaled /= high - low
    scaled *= 255.0
    truncated: npt.NDArray[np.uint8] = scaled.astype(np.uint8)
    return truncated


def _bands(source: ImageSource) -> Iterator[_Array]:
    rows = max(1, _COUNTED_AT_ONCE // (3 * source.width) // 2)
    for top in range(0, source.height, rows):
        yield source.read_rows(top, min(top + rows, source.height))


def _to_keys(values: _Array) -> _Array:
    """Map values to unsigned integers of the same width that sort in the same order."""
    bits: _Array = values.view(f"u{values.itemsize}")
    sign = bits.dtype.type(1 << (8 * values.itemsize - 1))
    if values.dtype.kind == "u":
        return bits
    if values.dtype.kind == "i":
        flipped: _Array = bits ^ sign
        return flipped
    # Negative floats sort backwards by their bits.
    keys: _Array = np.where(bits & sign, ~bits, bits | sign)
    return keys


def _from_keys(keys: _Array, dtype: np.dtype[Any]) -> _Array:
    """The values that ``_to_keys`` maps to these keys."""
    sign = keys.dtype.type(1 << (8 * dtype.itemsize - 1))
    if dtype.kind == "u":
        bits = keys
    elif dtype.kind == "i":
        bits = keys ^ sign
    else:
        bits = np.where(keys & sign, keys ^ sign, ~keys)
    values: _Array = bits.view(dtype)
    return values


def _count_digits(digits: _Array, n_bins: int) -> npt.NDArray[np.int64]:
    if digits.size == 0:
        return np.zeros(n_bins, dtype=np.int64)
    flat = np.ascontiguousarray(digits).reshape(1, -1)
    counts = cv2.calcHist([flat], [0], None, [n_bins], [0, n_bins])
    exact: npt.NDArray[np.int64] = counts.astype(np.int64).ravel()
    return exact


def _is_counted(values: _Array) -> npt.NDArray[np.bool_]:
    counted: npt.NDArray[np.bool_] = values != 0
    if values.dtype.kind == "f":
        counted &= np.isfinite(values)
    return counted


def _high_rank(n: int) -> tuple[int, float]:
    """Position of the high percentile among n sorted values: index below it and fraction."""
    position = HIGH_PERCENTILE / 100 * (n - 1)
    return int(position), position - int(position)


def _interpolate(below: float, above: float, fraction: float) -> float:
    step = above - below
    if math.isinf(step):
        return below * (1 - fraction) + above * fraction
    # numpy's own interpolation, to the last bit.
    return below + step * fraction if fraction < 0.5 else above - step * (1 - fraction)


class _RankSearch:
    """Key of the rank-th smallest counted value, found one digit per pass."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.prefix = 0

    def narrow(self, counts: npt.NDArray[np.int64], digit_bits: int) -> None:
        upto = counts.cumsum()
        digit = int(np.searchsorted(upto, self.rank, side="right"))
        self.rank -= int(upto[digit - 1]) if digit else 0
        self.prefix = self.prefix << digit_bits | digit


def _search_ranks(
    source: ImageSource, first_counts: npt.NDArray[np.int64], ranks: list[int]
) -> list[float]:
    """Values at the given ranks of the sorted non-zero values."""
    bits = 8 * source.dtype.itemsize
    digit_bits = min(bits, _DIGIT_BITS)
    searches = [_RankSearch(rank) for rank in ranks]
    for search in searches:
        search.narrow(first_counts, digit_bits)
    for shift in range(bits - 2 * digit_bits, -1, -digit_bits):
        counts = np.zeros((len(searches), 1 << digit_bits), dtype=np.int64)
        for band in _bands(source):
            keys = _to_keys(band[_is_counted(band)])
            prefixes = keys >> keys.dtype.type(shift + digit_bits)
            for i, search in enumerate(searches):
                digits = keys[prefixes == search.prefix] >> keys.dtype.type(shift)
                counts[i] += _count_digits(digits.astype(np.uint16), 1 << digit_bits)
        for i, search in enumerate(searches):
            search.narrow(counts[i], digit_bits)
    keys = np.array([search.prefix for search in searches], f"u{source.dtype.itemsize}")
    return [float(value) for value in _from_keys(keys, source.dtype)]


class _SameEverywhere:
    """Channels that have one value in all rows seen so far."""

    def __init__(self) -> None:
        self._values: _Array | None = None
        self._is_same = np.ones(3, dtype=bool)

    def see(self, band: _Array) -> None:
        if self._values is None:
            self._values = band[0, 0].copy()
        for k in np.flatnonzero(self._is_same):
            # Nearly always the first row tells.
            self._is_same[k] = all(
                (rows == self._values[k]).all() for rows in (band[0, :, k], band[:, :, k])
            )

    def warnings(self, high: float) -> list[str]:
        """A sentence about a channel that is at the brightest level, if others vary."""
        if self._values is None or self._is_same.all():
            return []
        bright = self._is_same & (self._values == high) & (self._values > 0)
        return [
            f"{_COLOURS[k]} is {self._values[k]:g} everywhere, the brightest level, which may hide"
            " what the other channels show: if it is no image, leave it out with --channels"
            for k in np.flatnonzero(bright)
        ]


def _first_digits(source: ImageSource, same: _SameEverywhere) -> tuple[npt.NDArray[np.int64], int]:
    """Count the leading digits of all non-zero finite values; also the pixels not all finite."""
    bits = 8 * source.dtype.itemsize
    digit_bits = min(bits, _DIGIT_BITS)
    # Of short integers every value is counted; the zeros are taken off at the end.
    has_zeros = bits <= _DIGIT_BITS and source.dtype.kind != "f"
    counts, n_bad = np.zeros(1 << digit_bits, dtype=np.int64), 0
    for band in _bands(source):
        same.see(band)
        if source.dtype.kind == "f":
            n_bad += int((~np.isfinite(band).all(axis=2)).sum())
        if has_zeros:
            digits = _to_keys(band)
        else:
            keys = _to_keys(band[_is_counted(band)])
            digits = keys >> keys.dtype.type(bits - digit_bits)
        kind = np.uint8 if digit_bits == 8 else np.uint16
        counts += _count_digits(digits.astype(kind, copy=False), 1 << digit_bits)
    if has_zeros:
        counts[int(_to_keys(np.zeros(1, source.dtype))[0])] = 0
    return counts, n_bad


def _contrast_warnings(
    counts: npt.NDArray[np.int64], dtype: np.dtype[Any], low: float, high: float
) -> tuple[str, ...]:
    """Judge contrast by the leading digits of the values, where these are fine enough."""
    bits = 8 * dtype.itemsize
    shift = max(0, bits - _DIGIT_BITS)
    if dtype.kind != "f" and high > low and 1 << shift > (high - low) / _MIN_DIGITS:
        return ()
    unsigned = np.dtype(f"u{dtype.itemsize}")
    keys = np.arange(len(counts)).astype(unsigned) << unsigned.type(shift)
    levels = _rescale(_from_keys(keys, dtype), low, high)
    return contrast_warnings(levels, counts, low, high)


def compute_scaling(source: ImageSource) -> Scaling:
    """Find the normalisation constants of an image by reading it row band by row band.

    NaN and infinite values are ignored and later read as the lowest intensity, with a warning. A
    lack of contrast is a warning too.

    Args:
        source: the image; bool, integer or float of up to 64 bits.

    Returns:
        The constants. An image without non-zero values maps to zeros.

    Raises:
        ImageReadError: if no pixel is finite.
    """
    same = _SameEverywhere()
    counts, n_bad = _first_digits(source, same)
    n_pixels, n_counted = source.height * source.width, int(counts.sum())
    if n_bad == n_pixels and n_counted == 0:
        raise ImageReadError(
            f"{source.name}: found no finite pixel (all {source.height}x{source.width} are NaN or"
            " infinite), expected intensities; check how the file was exported"
        )
    warnings = []
    if n_bad:
        warnings.append(
            f"{n_bad} of {n_pixels} pixels are NaN or infinite; read as the lowest intensity"
        )
    low = high = 0.0
    if n_counted:
        rank, fraction = _high_rank(n_counted)
        low, below, above = _search_ranks(source, counts, [0, rank, min(rank + 1, n_counted - 1)])
        high = _interpolate(below, above, fraction)
    warnings += _contrast_warnings(counts, source.dtype, low, high)
    warnings += same.warnings(high)
    lut = None
    if source.dtype.itemsize <= 2:
        every = np.arange(1 << (8 * source.dtype.itemsize)).astype(f"u{source.dtype.itemsize}")
        lut = _rescale(every.view(source.dtype), low, high)
    return Scaling(low=low, high=high, lut=lut, warnings=tuple(warnings))
