"""Random changes of a training crop as MONAI dictionary transforms.

Convention:
    - a crop in the making is ``{"image": (3, H, W), "label": (1, H, W)}``, (y, x) order; the image
      is float32 in [0, 1] or, before the crop is cut, also uint8 (read as 255ths); labels are
      int32 instance ids, 0 = background.
    - spatial transforms move image and labels alike; intensity transforms touch the image only.
    - ``set_random_state`` of the composed transform decides every random choice.
    - no array that is handed in is modified.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final

import cv2
import numpy as np
import torch
from monai import transforms
from monai.data.meta_obj import set_track_meta
from monai.networks.layers.convutils import gaussian_1d
from torch import Tensor

from mediar_infer.flows import renumber_labels
from mediar_infer.overlay import find_inner_boundary
from mediar_infer.training.augmentation import Augmentation, Range
from mediar_infer.training.image_changes import RandImaged
from mediar_infer.training.microscopes import (
    RandCamerad,
    RandFadingd,
    RandJpegd,
    RandLightd,
    RandStaind,
)
from mediar_infer.training.sized_crops import RandSizedCropd
from mediar_infer.training.zooming import AxisWindow, crop_by_area, crop_by_nearest
from mediar_infer.types import Float32Array, LabelArray

IMAGE: Final = "image"
LABEL: Final = "label"
KEPT_CELL_PIXELS: Final = 196
"""Smaller cells (14 × 14 pixels) keep their boundary: little would be left of them."""
KEPT_BORDER: Final = 2
"""Pixels this close to the border of the image are not excluded."""

_Data = Mapping[Hashable, Any]
# Optical density is counted from here on.
_DARKEST = 1 / 255


def build_transforms(
    augmentation: Augmentation,
    crop_size: int,
    *,
    excludes_boundary: bool,
    intensity: bool = True,
) -> transforms.Compose:
    """Compose the random changes that make a crop out of an image.

    Args:
        augmentation: probabilities and ranges.
        crop_size: side of the crop in pixels.
        excludes_boundary: turn the boundaries of cells into background (pretraining and memory).
        intensity: change intensities too; without, the crop is zoomed with
            ``plain_zoom_probability``.

    Returns:
        Transform of ``{"image": (3, H, W) uint8 or float32, "label": (1, H, W) int32}`` (arrays or
        tensors) to the tensors ``(3, crop_size, crop_size)`` float32 and
        ``(1, crop_size, crop_size)`` int32 under the same keys.
    """
    zoom = augmentation.zoom_probability if intensity else augmentation.plain_zoom_probability
    steps: list[transforms.Transform] = [ExcludeBoundaryd(LABEL)] if excludes_boundary else []
    steps += [
        RandSizedCropd(
            (IMAGE, LABEL),
            crop_size,
            prob=zoom,
            cell_size_range=augmentation.cell_size_range,
            zoom_range=augmentation.zoom_range,
            turn_prob=augmentation.turn_probability,
        )
        if augmentation.cell_size_range[1] > 0
        else RandZoomCropd(crop_size, prob=zoom, zoom_range=augmentation.zoom_range),
        transforms.RandAxisFlipd((IMAGE, LABEL), prob=augmentation.flip_probability),
        transforms.RandRotate90d((IMAGE, LABEL), prob=augmentation.rotation_probability),
    ]
    if intensity:
        steps += _build_intensity_transforms(augmentation)
    return PlainCompose(steps)


def _build_intensity_transforms(augmentation: Augmentation) -> list[transforms.Transform]:
    a = augmentation
    every = [
        RandChanneld(IMAGE, prob=a.channel_probability),
        RandColourMixd(IMAGE, prob=a.mixing_probability),
        RandStaind(IMAGE, prob=a.stain_probability, gain_range=a.stain_gain_range),
        RandInversiond(IMAGE, prob=a.inversion_probability),
        RandCellIntensityd(
            prob=a.cell_intensity_probability,
            fraction=a.cell_intensity_fraction,
            gain_range=a.cell_intensity_range,
        ),
        RandLightd(IMAGE, prob=a.light_probability, strength=a.light_strength),
        RandFadingd(IMAGE, prob=a.fading_probability, range_kept=a.fading_range),
        RandNoised(IMAGE, prob=a.noise_probability, sigma=a.noise_sigma, varies=a.noise_varies),
        transforms.RandAdjustContrastd(IMAGE, prob=a.contrast_probability, gamma=a.contrast_range),
        RandSmoothd(IMAGE, prob=a.smoothing_probability, sigma_range=a.smoothing_sigma_range),
        RandHistogramd(IMAGE, prob=a.histogram_probability, n_points=a.histogram_points),
        RandSharpend(
            IMAGE,
            prob=a.sharpening_probability,
            sigma_range=a.sharpening_sigma_range,
            alpha_range=a.sharpening_alpha_range,
        ),
        RandCamerad(IMAGE, prob=a.camera_probability, photons_range=a.camera_photons_range),
        RandJpegd(IMAGE, prob=a.jpeg_probability, quality_range=a.jpeg_quality_range),
        RandSaturationd(IMAGE, prob=a.saturation_probability),
    ]
    return [step for step in every if step.prob > 0]


class PlainCompose(transforms.Compose):  # type: ignore[misc]  # MONAI is read without its types
    """``Compose`` that works on plain tensors, and whose transforms draw from one generator.

    MONAI has one switch for the whole process that keeps it from wrapping tensors with a record of
    their past; it is off once a crop has been made.
    """

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> "PlainCompose":
        """Take this generator; one per transform, as ``Compose`` makes, takes milliseconds."""
        self.R = np.random.RandomState(seed) if state is None else state
        for step in self.transforms:
            if isinstance(step, transforms.Randomizable):
                step.set_random_state(state=self.R)
        return self

    def __call__(self, input_: _Data, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        """Run the transforms one after the other."""
        # Here, because worker processes start with the switch on. Putting it back would be unsafe
        # with two threads.
        set_track_meta(False)
        return super().__call__(input_, *args, **options)


class ExcludeBoundaryd(transforms.MapTransform):  # type: ignore[misc]
    """Turn the boundary pixels of cells into background (paper, Table 1).

    To be used on whole images, before the crop is cut: it looks at the sizes of cells and at the
    border of the image. See :func:`exclude_boundary`.
    """

    def __call__(self, data: _Data) -> dict[Hashable, Any]:
        """Transform the labels."""
        changed = dict(data)
        for key in self.key_iterator(changed):
            changed[key] = exclude_boundary(np.asarray(changed[key])[0])[None]
        return changed


def exclude_boundary(labels: LabelArray) -> LabelArray:
    """Turn the boundary pixels of cells into background.

    A boundary pixel has a 4-neighbour of another label. Cells of fewer than ``KEPT_CELL_PIXELS``
    pixels and the outer ``KEPT_BORDER`` rows and columns of the image are left as they are. What
    remains of a cell keeps its id: the released routine, by a slip, leaves the rim in place and
    gives the inside twice the id.

    Args:
        labels: ``(H, W)`` int32 of a whole image. Not modified.

    Returns:
        ``(H, W)`` int32.
    """
    excluded = np.zeros(labels.shape, np.bool_)
    inner = slice(KEPT_BORDER, -KEPT_BORDER)
    excluded[inner, inner] = find_inner_boundary(labels)[inner, inner]
    renumbered, n_cells = renumber_labels(labels)
    is_large = np.bincount(renumbered.ravel(), minlength=n_cells + 1) >= KEPT_CELL_PIXELS
    excluded &= is_large[renumbered]
    remaining: LabelArray = np.where(excluded, np.int32(0), labels)
    return remaining


class RandZoomCropd(transforms.RandomizableTransform):  # type: ignore[misc]
    """Zoom at random, pad with 0 to the crop's size, cut a random crop (paper, Table 1).

    Zoomed images and labels are those of MONAI's ``RandZoomd`` with the modes ``area`` and
    ``nearest-exact``, padding and crops those of ``SpatialPadd`` and ``RandSpatialCropd``; but what
    is cut away is never zoomed.

    Args:
        crop_size: side of the crop in pixels.
        prob: how often the image is zoomed.
        zoom_range: zooms, drawn evenly.
    """

    def __init__(self, crop_size: int, *, prob: float, zoom_range: Range) -> None:
        super().__init__(prob)
        self.crop_size = crop_size
        self.zoom_range = zoom_range
        self.zoom = 1.0
        self.windows: tuple[AxisWindow, ...] = ()

    def randomize(self, data: tuple[int, ...]) -> None:
        """Draw zoom and place of the crop for an image of this height and width."""
        super().randomize(None)
        self.zoom = self.R.uniform(*self.zoom_range) if self._do_transform else 1.0
        self.windows = tuple(self._draw_window(length) for length in data)

    def _draw_window(self, length: int) -> AxisWindow:
        zoomed = max(1, int(length * self.zoom))
        spare = zoomed - self.crop_size
        start = int(self.R.randint(spare + 1)) if spare > 0 else -(-spare // 2)
        return AxisWindow(length, zoomed, start, self.crop_size)

    def __call__(self, data: _Data) -> dict[Hashable, Any]:
        """Cut the crop out of image and labels."""
        image, labels = np.asarray(data[IMAGE]), np.asarray(data[LABEL])
        self.randomize(labels.shape[1:])
        crop = crop_by_area(np.moveaxis(image, 0, 2), *self.windows)
        if image.dtype == np.uint8:
            crop *= np.float32(1 / 255)
        return dict(data) | {
            IMAGE: torch.from_numpy(np.ascontiguousarray(np.moveaxis(crop, 2, 0))),
            LABEL: torch.from_numpy(crop_by_nearest(labels[0], *self.windows)[None]),
        }


class RandCellIntensityd(transforms.RandomizableTransform):  # type: ignore[misc]
    """Scale the brightness of single cells (paper, Table 1: cell-aware intensity).

    Args:
        prob: how often it happens.
        fraction: probability of each cell to be scaled then.
        gain_range: factors, drawn evenly and anew for each cell.
    """

    def __init__(self, *, prob: float, fraction: float, gain_range: Range) -> None:
        super().__init__(prob)
        self.fraction = fraction
        self.gain_range = gain_range

    def draw_gains(self, n_cells: int) -> Float32Array:
        """Draw the factor of the background (1) and of each cell: ``(n_cells + 1,)``."""
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
    """Let the colours change places or turn them to grey, each in half of the cases."""

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
    """Let light and dark change places."""

    def change(self, image: Tensor) -> Tensor:
        """Change ``(3, S, S)`` float32 in [0, 1]."""
        return 1 - image


class RandSaturationd(RandImaged):
    """Cut off values beyond [0, 1]."""

    def change(self, image: Tensor) -> Tensor:
        """Change ``(3, S, S)`` float32."""
        return image.clamp(0, 1)


class RandSmoothd(RandImaged):
    """Smooth by a Gaussian, as MONAI's ``RandGaussianSmoothd``; see :func:`smooth_image`.

    Args:
        keys: of the image.
        prob: how often.
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
        keys: of the image.
        prob: how often.
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
    """Smooth by MONAI's Gaussian, some ten times faster.

    Beyond its edge the crop goes on as its mirror image, where MONAI's is black: at inference no
    window has a dark rim, which sharpening would turn into a bright frame.

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
    """Bend the histogram as MONAI's ``RandHistogramShiftd``, some five times faster.

    Images of one value stay as they are, without MONAI's warning.

    Args:
        keys: of the image.
        prob: how often.
        n_points: control points, at least 3; the two ends stay where they are.
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
        # A sum of ramps, one per piece, looks nothing up.
        slopes = np.diff(heights) * (self.n_points - 1)
        bent = torch.full_like(image, low.item())
        for i, slope in enumerate(slopes.tolist()):
            start = low + i * step
            bent += slope * (image.clamp(start, start + step) - start)
        return bent


class RandNoised(RandImaged):
    """Add Gaussian noise as MONAI's ``RandGaussianNoised``, some ten times faster.

    Args:
        keys: of the image.
        prob: how often.
        sigma: standard deviation.
        varies: draw the standard deviation evenly from 0 to ``sigma``.
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
