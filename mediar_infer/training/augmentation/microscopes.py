"""Random changes that differ between microscopes: light, stain strength, focus, camera, files.

Convention:
    - images are ``(3, S, S)`` float32, about [0, 1]; none that is handed in is modified.
"""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mediar_infer.training.augmentation.image_changes import RandImaged
from mediar_infer.training.augmentation.settings import Range

_DARKEST = 1 / 255
_GRID = 4
_JPEG_STEPS = 255


def draw_log(random: np.random.RandomState, bounds: Range) -> float:
    """Draw from a range so that every factor is as likely as any other.

    Args:
        random: source of the choice.
        bounds: smallest and largest value, above 0.
    """
    return float(np.exp(random.uniform(*np.log(bounds))))


class RandLightd(RandImaged):
    """Light the image unevenly: a smooth random field is multiplied, and a weaker one added.

    Args:
        keys: of the image.
        prob: how often.
        strength: largest relative deviation of the light.
    """

    def __init__(self, keys: str, *, prob: float, strength: float) -> None:
        super().__init__(keys, prob=prob)
        self.strength = strength

    def change(self, image: Tensor) -> Tensor:
        """Change ``(3, S, S)`` float32."""
        strength = self.R.uniform(0, self.strength)
        grids = self.R.uniform(-1, 1, (1, 2, _GRID, _GRID)).astype(np.float32)
        fields = F.interpolate(
            torch.from_numpy(grids), image.shape[1:], mode="bicubic", align_corners=True
        )[0]
        factor, haze = fields[0], fields[1].clamp(min=0)
        lit: Tensor = image * (1 + strength * factor) + 0.4 * strength * haze
        return lit


class RandFadingd(RandImaged):
    """Leave a part of the range of brightness unused: a veil below, nothing bright above.

    Args:
        keys: of the image.
        prob: how often.
        range_kept: smallest and largest part of the range that is kept.
    """

    def __init__(self, keys: str, *, prob: float, range_kept: Range) -> None:
        super().__init__(keys, prob=prob)
        self.range_kept = range_kept

    def change(self, image: Tensor) -> Tensor:
        """Change ``(3, S, S)`` float32."""
        kept = self.R.uniform(*self.range_kept)
        veil = self.R.uniform(0, 1 - kept) * (self.R.uniform() < 0.5)
        faded: Tensor = image * kept + veil
        return faded


class RandStaind(RandImaged):
    """Stain more or less: the optical density of each colour is scaled.

    On dark fields, where density means nothing, this bends the brightness of each colour.

    Args:
        keys: of the image.
        prob: how often.
        gain_range: factors of the density, drawn for all colours together; each deviates from it
            by up to a quarter.
    """

    def __init__(self, keys: str, *, prob: float, gain_range: Range) -> None:
        super().__init__(keys, prob=prob)
        self.gain_range = gain_range

    def change(self, image: Tensor) -> Tensor:
        """Change ``(3, S, S)`` float32; the result is above 0 and at most 1."""
        gains = draw_log(self.R, self.gain_range) * np.exp(self.R.uniform(-0.22, 0.22, (3, 1, 1)))
        return image.clamp(_DARKEST, 1) ** torch.from_numpy(gains.astype(np.float32))


class RandCamerad(RandImaged):
    """Take the picture anew: out of focus in half of the cases, with shot and read-out noise.

    Args:
        keys: of the image.
        prob: how often.
        photons_range: photons of the brightest pixel; fewer give more noise.
    """

    def __init__(self, keys: str, *, prob: float, photons_range: Range) -> None:
        super().__init__(keys, prob=prob)
        self.photons_range = photons_range

    def change(self, image: Tensor) -> Tensor:
        """Change ``(3, S, S)`` float32."""
        if self.R.uniform() < 0.5:
            image = _blur(image, draw_log(self.R, (0.4, 2.5)))
        n_photons = draw_log(self.R, self.photons_range)
        generator = torch.Generator().manual_seed(int(self.R.randint(2**31)))
        is_grey = bool((image[0] == image[1]).all() and (image[0] == image[2]).all())
        shape = (1, *image.shape[1:]) if is_grey else image.shape
        noise = torch.randn(shape, generator=generator)
        read_out = self.R.uniform(0, 0.02)
        noisy: Tensor = image + noise * (image.clamp(0, 1) / n_photons + read_out**2).sqrt()
        return noisy


def _blur(image: Tensor, sigma: float) -> Tensor:
    blurred = cv2.GaussianBlur(
        np.moveaxis(image.numpy(), 0, 2), (0, 0), sigma, borderType=cv2.BORDER_REFLECT
    )
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(blurred, 2, 0)))


class RandJpegd(RandImaged):
    """Save the image as JPEG and read it again.

    Args:
        keys: of the image.
        prob: how often.
        quality_range: qualities of the file, 1 to 100.
    """

    def __init__(self, keys: str, *, prob: float, quality_range: Range) -> None:
        super().__init__(keys, prob=prob)
        self.quality_range = quality_range

    def change(self, image: Tensor) -> Tensor:
        """Change ``(3, S, S)`` float32; the result is in [0, 1], in steps of 255ths."""
        pixels = (image.clamp(0, 1) * _JPEG_STEPS).round().to(torch.uint8).permute(1, 2, 0).numpy()
        quality = round(self.R.uniform(*self.quality_range))
        encoded = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, quality))[1]
        decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(decoded, 2, 0))) / _JPEG_STEPS
