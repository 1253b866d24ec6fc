"""Sliding windows: where they lie, and the weight of each of their pixels.

Results equal MONAI's ``sliding_window_inference(mode="gaussian", sigma_scale=0.125)``, but each
window's weights are divided by the sum of all windows' weights before they are used. So one
accumulator serves any number of flips and models, and a row is finished as soon as no window will
touch it again, without a second pass or a canvas of weights.

References:
    Cardoso et al., MONAI, 2022; monai/inferers/utils.py, monai/data/utils.py (Apache-2.0).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mediar_infer.arrays import Float32Array
from mediar_infer.config import FlipName
from mediar_infer.engine.array_ops import DeviceArray

SIGMA_SCALE = 0.125
MIN_IMPORTANCE = 1e-3


def window_starts(size: int, roi_size: int, overlap: float) -> list[int]:
    """Place windows along one axis: from 0 in equal steps, the last one clamped to the far edge.

    Args:
        size: length of the image along the axis, at least 1.
        roi_size: length of a window.
        overlap: fraction of a window shared with the next, in [0, 1).

    Returns:
        First pixels of the windows, increasing. An image shorter than a window gets one window that
        starts before it: the image lies in its middle, the odd pixel of padding after it.
    """
    if size <= roi_size:
        return [-((roi_size - size) // 2)]
    stride = max(1, int(roi_size * (1 - overlap)))
    n_strides = -(-(size - roi_size) // stride)
    return [min(i * stride, size - roi_size) for i in range(n_strides + 1)]


def continued_starts(last: int, size: int, roi_size: int, overlap: float) -> list[int]:
    """Place the windows after the one at ``last``, up to the far edge, at another overlap."""
    far = size - roi_size
    stride = max(1, int(roi_size * (1 - overlap)))
    n_strides = max(0, -(-(far - last) // stride))
    return [min(last + i * stride, far) for i in range(1, n_strides + 1)]


def flipped_starts(starts: list[int], size: int, roi_size: int) -> list[int]:
    """Where the windows of the flipped image lie in the image itself, increasing."""
    return [size - roi_size - start for start in reversed(starts)]


@lru_cache(maxsize=4)
def importance_map(roi_size: int) -> Float32Array:
    """Gaussian weights of a window, ``(roi_size, roi_size)``, everywhere above zero. Read-only."""
    offsets = np.arange(roi_size, dtype=np.float32) - np.float32((roi_size - 1) / 2)
    sigma = SIGMA_SCALE * roi_size
    profile = np.exp(offsets**2 / np.float32(-2 * sigma**2)).astype(np.float32)
    weights = np.maximum(np.outer(profile, profile), np.float32(MIN_IMPORTANCE))
    weights.flags.writeable = False
    return weights


def normalised_importance(
    roi_size: int, row_offsets: tuple[int, ...], column_offsets: tuple[int, ...]
) -> Float32Array:
    """Weights of a window over the sum of weights of all windows at each of its pixels.

    Args:
        roi_size: side of the windows.
        row_offsets: rows from this window to each window that shares rows with it, itself (0) too.
        column_offsets: the same for columns.

    Returns:
        ``(roi_size, roi_size)`` float32; over all windows they sum to 1 at every pixel.
    """
    own = importance_map(roi_size)
    total = np.zeros_like(own)
    for dy in row_offsets:
        for dx in column_offsets:
            height, width = roi_size - abs(dy), roi_size - abs(dx)
            top, left = max(dy, 0), max(dx, 0)
            other_top, other_left = max(-dy, 0), max(-dx, 0)
            total[top : top + height, left : left + width] += own[
                other_top : other_top + height, other_left : other_left + width
            ]
    total /= own
    return np.reciprocal(total, out=total)


@dataclass(frozen=True, slots=True)
class WindowGrid:
    """The windows of one pass over an image, in the image's own coordinates."""

    roi_size: int
    """Side of the windows."""
    tops: list[int]
    """First rows, increasing; negative where the image is padded."""
    lefts: list[int]
    """First columns, increasing."""
    margins: tuple[int, int] = (0, 0)
    """Rows at the top and at the bottom of each window, and columns at both of its sides, that are
    left out: all of them lie outside the image."""

    @classmethod
    def of_image(
        cls,
        height: int,
        width: int,
        roi_size: int,
        overlap: float,
        flip: FlipName = "identity",
        *,
        margins: tuple[int, int] = (0, 0),
    ) -> "WindowGrid":
        """Lay the grid over an image, or over its flipped copy and map it back.

        Args:
            height: rows of the image.
            width: columns of the image.
            roi_size: side of the windows.
            overlap: fraction of a window shared with the next, in [0, 1).
            flip: ``vertical`` reverses the rows, ``horizontal`` the columns.
            margins: what is left out of each window, see the field.
        """
        tops = window_starts(height, roi_size, overlap)
        lefts = window_starts(width, roi_size, overlap)
        return cls(
            roi_size=roi_size,
            tops=flipped_starts(tops, height, roi_size) if flip == "vertical" else tops,
            lefts=flipped_starts(lefts, width, roi_size) if flip == "horizontal" else lefts,
            margins=margins,
        )

    @property
    def part_shape(self) -> tuple[int, int]:
        """Rows and columns of a window without its margins."""
        rows, columns = self.margins
        return self.roi_size - 2 * rows, self.roi_size - 2 * columns

    def without_margins(self, values: DeviceArray) -> DeviceArray:
        """View of ``(…, roi_size, roi_size)`` that leaves the margins out."""
        (top, left), (height, width) = self.margins, self.part_shape
        return values[..., top : top + height, left : left + width]

    def neighbours(self, top: int, left: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """List the offsets from a window to the windows that overlap it, itself included.

        Args:
            top: first row of the window, one of ``tops``.
            left: its first column, one of ``lefts``.

        Returns:
            Row offsets and column offsets, each in increasing order (negative above and to the
            left) with 0 for the window itself; all pairs of them are the overlapping windows.
        """
        return (
            tuple(t - top for t in self.tops if abs(t - top) < self.roi_size),
            tuple(x - left for x in self.lefts if abs(x - left) < self.roi_size),
        )
