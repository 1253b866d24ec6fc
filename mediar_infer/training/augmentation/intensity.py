"""Random changes of a training crop's intensities as MONAI dictionary transforms.

The convention is that of ``transforms``: ``{"image": (3, S, S), "label": (1, S, S)}``, float32 in
[0, 1] and int32. Only the image changes; input arrays are not modified.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from monai import transforms
from monai.networks.layers.convutils import gaussian_1d
from torch import Tensor

from mediar_infer.arrays import Float32Array
from mediar_infer.labels.flows import renumber_labels
from mediar_infer.training.augmentation.crop_entries import IMAGE, LABEL
from mediar_infer.training.augmentation.image_changes import RandImaged
from mediar_infer.training.augmentation.settings import Range

_Data = Mapping[Hashable, Any]
# Optical density starts here.
_DARKEST = 1 / 255


class RandCellIntensityd(transforms.RandomizableTransform):  # type: ignore[misc]
    """Scale the brightness of single cells (paper, Table 1: cell-aware intensity).

    Args:
        prob: probability.
        fraction: probability of each cell to be scaled then.
        gain_range: factors, drawn uniformly and separately for each cell.
    """

    def __init__(self, *, prob: float, fraction: float, gain_range: Range) -> None:
        super().__init__(prob)
        self.fraction = fraction
        self.gain_range = gain_range

    def draw_gains(self, n_cells: int) -> Float32Array:
        """Draw the factors of the background (1) and of each cell: ``(n_cells + 1,)``."""
        gains = self.R.uniform(*self.gain_range, n_cells + 1)
        gains[self.R.uniform(size=n_cells + 1) >= self.fraction] = 1
        gains[0] = 1
        drawn: Float32Array = gains.astype(np.float32)
        return drawn

    def __call__(self, data: _Data) -> dict[Hashable, Any]:
        """Scale the image inside the chosen cells."""
        changed = dict(data)
        self.randomize(None)
        if self._do_transform:
            renumbered, n_cells = renumber_labels(np.asarray(changed[LABEL])[0])
            factors = self.draw_gains(n_cells)[renumbered]
            changed[IMAGE] = changed[IMAGE] * torch.from_numpy(factors)
        return changed


class RandChanneld(RandImaged):
    """Permute the colours or convert them to greyscale, with equal probability."""

    def change(self, image: Tensor) -> Tensor:
        """Change ``(3, S, S)`` float32."""
        if self.R.uniform() < 0.5:
            return image[torch.from_numpy(self.R.permutation(3))]
        return image.mean(dim=0, keepdim=True).repeat(3, 1, 1)


class RandColourMixd(RandImaged):
    """Mix the colours by a random matrix; mixed optical densities turn one stain into another."""

    def change(self, image: Tensor) -> Tensor:
        """Change ``(3, S, S)`` float32; the result is in [0, 1]."""
        shares = self.R.dirichlet((0.6, 0.6, 0.6), 3) * self.R.uniform(0.5, 1.5, (3, 1))
        matrix = torch.from_numpy(shares.astype(np.float32))
        if self.R.uniform() < 0.5:
            return _mix(matrix, image).clamp_(0, 1)
        return _mix(matrix, -image.clamp(_DARKEST, 1).log_()).neg_().exp_()


def _mix(matrix: Tensor, image: Tensor) -> Tensor:
    return (matrix @ image.flatten(1)).reshape(image.shape)


class RandInversiond(RandImaged):
    """Invert light and dark."""

    def change(self, image: Tensor) -> Tensor:
        """Change ``(3, S, S)`` float32 in [0, 1]."""
        return 1 - image


class RandSaturationd(RandImaged):
    """Clip values to [0, 1]."""

    def change(self, image: Tensor) -> Tensor:
        """Change ``(3, S, S)`` float32."""
        return image.clamp(0, 1)


class RandSmoothd(RandImaged):
    """Smooth by a Gaussian, as MONAI's ``RandGaussianSmoothd``; see :func:`smooth_image`.

    Args:
        keys: key of the image.
        prob: probability.
        sigma_range: standard deviations in pixels, drawn for each axis.
    """

    def __init__(self, keys: str, *, prob: float, sigma_range: Range) -> None:
        super().__init__(keys, prob=prob)
        self.sigma_range = sigma_range

    def change(self, image: Tensor) -> Tensor:
        """Change ``(3, S, S)`` float32."""
        return smooth_image(image, self.R.uniform(*self.sigma_range, 2))


class RandSharpend(RandImaged):
    """Smooth twice and amplify the difference, as MONAI's ``RandGaussianSharpend``.

    Args:
        keys: key of the image.
        prob: probability.
        sigma_range: standard deviations of the first Gaussian in pixels, drawn for each axis; those
            of the second are drawn from the smallest to the one of the first.
        alpha_range: factors of the difference.
    """

    def __init__(self, keys: str, *, prob: float, sigma_range: Range, alpha_range: Range) -> None:
        super().__init__(keys, prob=prob)
        self.sigma_range = sigma_range
        self.alpha_range = alpha_range

    def change(self, image: Tensor) -> Tensor:
        """Change ``(3, S, S)`` float32."""
        first = self.R.uniform(*self.sigma_range, 2)
        second = self.R.uniform(self.sigma_range[0], first)
        once = smooth_image(image, first)
        alpha = float(self.R.uniform(*self.alpha_range))
        return once + alpha * (once - smooth_image(once, second))


def smooth_image(image: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Smooth by MONAI's Gaussian, about ten times faster.

    Beyond its edge the crop continues as its mirror image, whereas MONAI's is black: at inference
    no window has a dark rim, which sharpening would turn into a bright frame.

    Args:
        image: ``(3, H, W)`` float32. Not modified.
        sigmas: standard deviations along y and x in pixels, above 0.

    Returns:
        ``(3, H, W)`` float32.
    """
    y, x = (gaussian_1d(torch.tensor(float(sigma)), truncated=4.0).numpy() for sigma in sigmas)
    smoothed = [
        cv2.sepFilter2D(channel, cv2.CV_32F, x, y, borderType=cv2.BORDER_REFLECT)
        for channel in image.numpy()
    ]
    return torch.from_numpy(np.stack(smoothed))


class RandHistogramd(RandImaged):
    """Bend the histogram as MONAI's ``RandHistogramShiftd``, about five times faster.

    Constant images are unchanged, without MONAI's warning.

    Args:
        keys: key of the image.
        prob: probability.
        n_points: control points, at least 3; the two ends are fixed.
    """

    def __init__(self, keys: str, *, prob: float, n_points: int) -> None:
        super().__init__(keys, prob=prob)
        self.n_points = n_points

    def change(self, image: Tensor) -> Tensor:
        """Change ``(3, S, S)`` float32; smallest and largest value stay."""
        heights = np.linspace(0, 1, self.n_points)
        for i in range(1, self.n_points - 1):
            heights[i] = self.R.uniform(heights[i - 1], heights[i + 1])
        low, high = torch.aminmax(image)
        step = (high - low) / (self.n_points - 1)
        if step == 0:
            return image
        # A sum of ramps, one per piece, needs no lookup.
        slopes = np.diff(heights) * (self.n_points - 1)
        bent = torch.full_like(image, low.item())
        for i, slope in enumerate(slopes.tolist()):
            start = low + i * step
            bent += slope * (image.clamp(start, start + step) - start)
        return bent


class RandNoised(RandImaged):
    """Add Gaussian noise as MONAI's ``RandGaussianNoised``, about ten times faster.

    Args:
        keys: key of the image.
        prob: probability.
        sigma: standard deviation.
        varies: draw the standard deviation uniformly from 0 to ``sigma``.
    """

    def __init__(self, keys: str, *, prob: float, sigma: float, varies: bool) -> None:
        super().__init__(keys, prob=prob)
        self.sigma = sigma
        self.varies = varies

    def change(self, image: Tensor) -> Tensor:
        """Change ``(3, S, S)`` float32."""
        sigma = self.R.uniform(0, self.sigma) if self.varies else self.sigma
        generator = torch.Generator().manual_seed(int(self.R.randint(2**31)))
        return image + sigma * torch.randn(image.shape, generator=generator)
