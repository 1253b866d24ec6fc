"""Random changes of a training crop as MONAI dictionary transforms.

Convention:
    - a crop in the making is ``{"image": (3, H, W), "label": (1, H, W)}``, (y, x) order; the image
      is float32 in [0, 1] or, before the crop is cut, also uint8 (read as 255ths); labels are
      int32 instance ids, 0 = background.
    - spatial transforms move image and labels alike; intensity transforms touch the image only.
    - ``set_random_state`` of the composed transform decides every random choice.
    - input arrays are not modified.
"""

from collections.abc import Hashable, Mapping
from typing import Any, Final

import numpy as np
from monai import transforms
from monai.data.meta_obj import set_track_meta

from mediar_infer.arrays import LabelArray
from mediar_infer.labels.flows import renumber_labels
from mediar_infer.labels.overlay import find_inner_boundary
from mediar_infer.training.augmentation.crop_entries import IMAGE, LABEL, to_entries
from mediar_infer.training.augmentation.intensity import (
    RandCellIntensityd,
    RandChanneld,
    RandColourMixd,
    RandHistogramd,
    RandInversiond,
    RandNoised,
    RandSaturationd,
    RandSharpend,
    RandSmoothd,
)
from mediar_infer.training.augmentation.microscopes import (
    RandCamerad,
    RandFadingd,
    RandJpegd,
    RandLightd,
    RandStaind,
)
from mediar_infer.training.augmentation.settings import Augmentation, Range
from mediar_infer.training.augmentation.sized_crops import RandSizedCropd
from mediar_infer.training.augmentation.zooming import AxisWindow, crop_by_area, crop_by_nearest

KEPT_CELL_PIXELS: Final = 196
"""Smaller cells (14 × 14 pixels) keep their boundary: little would be left of them."""
KEPT_BORDER: Final = 2
"""Pixels this close to the border of the image are not excluded."""

_Data = Mapping[Hashable, Any]


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
            crop_size,
            prob=zoom,
            cell_size_range=augmentation.cell_size_range,
            kept_zoom_range=augmentation.kept_zoom_range,
            zoom_range=augmentation.zoom_range,
            turn_prob=augmentation.turn_probability,
            mirror_prob=augmentation.mirror_probability,
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
        zoom_range: zooms, drawn uniformly.
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
        cut = crop_by_nearest(labels[0], *self.windows)
        return dict(data) | to_entries(crop, cut, is_in_bytes=image.dtype == np.uint8)
