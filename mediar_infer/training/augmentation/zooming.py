"""Crops of a zoomed image, made from the pixels that they show.

The straightforward way zooms the whole image, pads it to the crop's size and cuts the crop out.
Here only what the crop shows is zoomed; the result is the same.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mediar_infer.arrays import Float32Array

_Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class AxisWindow:
    """Where a crop lies along one axis of the zoomed image.

    Convention:
        - output pixel ``i`` of the zoomed axis covers ``[i, i + 1) * length / zoomed`` of the image
          (area averaging) and has its centre at the middle of that (nearest pixel).
    """

    length: int
    """Pixels of the image, at least 1."""
    zoomed: int
    """Pixels of the zoomed image, at least 1."""
    start: int
    """First pixel of the crop in the zoomed image; negative where there is padding before it."""
    size: int
    """Pixels of the crop."""

    @property
    def inside(self) -> slice:
        """The part of the crop that shows the image."""
        return slice(max(-self.start, 0), min(self.zoomed - self.start, self.size))

    @property
    def _shown(self) -> _Indices:
        return np.arange(max(self.start, 0), min(self.start + self.size, self.zoomed))

    def covered(self) -> tuple[_Indices, _Indices]:
        """First image pixel that each shown pixel covers in part, and the one after the last."""
        shown = self._shown
        return shown * self.length // self.zoomed, -(-(shown + 1) * self.length // self.zoomed)

    def nearest(self) -> _Indices:
        """Image pixel at the centre of each shown pixel."""
        return (2 * self._shown + 1) * self.length // (2 * self.zoomed)


def crop_by_area(image: npt.NDArray[Any], rows: AxisWindow, columns: AxisWindow) -> Float32Array:
    """Cut a crop out of the zoomed image; each pixel is the mean of the pixels that it covers.

    Args:
        image: ``(H, W, 3)`` uint8 or float32. Not modified.
        rows: the crop along y.
        columns: the crop along x.

    Returns:
        ``(rows.size, columns.size, 3)`` float32 in the range of the image; 0 in the padding.

    References:
        ``torch.nn.functional.interpolate(mode="area")`` gives every pixel that is covered in part
        the same weight as one that is covered in full; so does this.
    """
    (top, bottom), (left, right) = rows.covered(), columns.covered()
    shown = image[top[0] : bottom[-1], left[0] : right[-1]]
    if (rows.length, columns.length) != (rows.zoomed, columns.zoomed):
        # Any rectangle's sum from four values; where int32 wraps, their differences are right.
        depth = cv2.CV_32S if image.dtype == np.uint8 else cv2.CV_64F
        sums = cv2.integral(np.ascontiguousarray(shown), sdepth=depth)
        bands = sums[bottom - top[0]] - sums[top - top[0]]
        totals = bands[:, right - left[0]] - bands[:, left - left[0]]
        n_covered = np.multiply.outer(bottom - top, right - left)
        shown = totals / n_covered[..., None].astype(np.float32)
    crop = np.zeros((rows.size, columns.size, image.shape[2]), np.float32)
    crop[rows.inside, columns.inside] = shown
    return crop


def crop_by_nearest(
    labels: npt.NDArray[Any], rows: AxisWindow, columns: AxisWindow
) -> npt.NDArray[Any]:
    """Cut a crop out of the zoomed labels; each pixel is the one nearest to its centre.

    The pixel at the centre, not the first covered one (the released choice): that would move the
    labels against the image by up to half a pixel.

    Args:
        labels: ``(H, W)`` of any dtype. Not modified.
        rows: the crop along y.
        columns: the crop along x.

    Returns:
        ``(rows.size, columns.size)`` of the same dtype; 0 in the padding.
    """
    crop = np.zeros((rows.size, columns.size), labels.dtype)
    crop[rows.inside, columns.inside] = labels[rows.nearest()[:, None], columns.nearest()]
    return crop
