"""Table 1 of the paper as numbers: probabilities and ranges of the changes to training crops."""

from dataclasses import dataclass, fields

from mediar_infer.errors import UsageError

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Probabilities and ranges of the random changes of a crop.

    The defaults are those of Table 1; where it is silent or the released code differs, the field
    says so. Changes that the paper does not use are off by default. Values are drawn uniformly from
    their range. The image is in [0, 1].

    Raises:
        UsageError: if a value is out of its range.
    """

    zoom_probability: float = 0.5
    """Probability that a crop is zoomed."""
    zoom_range: Range = (0.25, 1.5)
    """Smallest and largest zoom; below 1 the crop shows more of the image."""
    plain_zoom_probability: float = 0.0
    """Probability that a crop without intensity changes (public images) is zoomed; 0, as
    released."""
    cell_size_range: Range = (0.0, 0.0)
    """Median diameters in pixels that the cells of a crop are zoomed to, within ``zoom_range``;
    0 to 0 zooms without a look at the cells. See ``sized_crops``."""
    kept_zoom_range: Range = (0.8, 1.25)
    """With ``cell_size_range``: zooms of the crops whose cells are not zoomed to a size."""
    turn_probability: float = 0.0
    """With ``cell_size_range``: probability that a crop is turned by any angle and stretched."""
    mirror_probability: float = 0.0
    """With ``cell_size_range``: probability that a crop shows the mirror image beyond the edge of
    the image, not black. Turned crops always do."""
    flip_probability: float = 0.5
    """Probability that a crop is mirrored along one of its two axes."""
    rotation_probability: float = 0.5
    """Probability that a crop is rotated by 90, 180 or 270 degrees."""
    cell_intensity_probability: float = 0.25
    """Probability that the brightness of single cells changes."""
    cell_intensity_fraction: float = 0.4
    """Fraction of the cells that change then (released; Table 1 names none)."""
    cell_intensity_range: Range = (1.0, 1.7)
    """Factors of the brightness of a cell."""
    noise_probability: float = 0.25
    """Probability of Gaussian noise."""
    noise_sigma: float = 0.1
    """Standard deviation of the noise."""
    noise_varies: bool = False
    """Draw the standard deviation from 0 to ``noise_sigma`` (released) instead of using the
    latter."""
    contrast_probability: float = 0.25
    """Probability that the contrast changes."""
    contrast_range: Range = (0.0, 2.0)
    """Exponents of the contrast change (released: 1 to 2)."""
    smoothing_probability: float = 0.25
    """Probability that the image is smoothed by a Gaussian."""
    smoothing_sigma_range: Range = (1.0, 1.0)
    """Standard deviations of that Gaussian in pixels (released: 1 to 2)."""
    histogram_probability: float = 0.25
    """Probability that the histogram is warped."""
    histogram_points: int = 3
    """Control points of the warped curve, including its two ends."""
    sharpening_probability: float = 0.25
    """Probability that the image is sharpened: smoothed twice, and the difference amplified."""
    sharpening_sigma_range: Range = (0.5, 1.0)
    """Standard deviations of the two Gaussians in pixels, the second not above the first."""
    sharpening_alpha_range: Range = (10.0, 30.0)
    """Factors of the difference."""
    channel_probability: float = 0.0
    """Probability that the colours are permuted or turn to grey, with equal shares."""
    mixing_probability: float = 0.0
    """Probability that the colours are mixed, as light or as optical density of stains."""
    inversion_probability: float = 0.0
    """Probability that light and dark are inverted."""
    stain_probability: float = 0.0
    """Probability that optical densities are scaled."""
    stain_gain_range: Range = (0.6, 1.6)
    """Factors of the densities."""
    light_probability: float = 0.0
    """Probability that the illumination is uneven."""
    light_strength: float = 0.4
    """Its largest relative deviation."""
    fading_probability: float = 0.0
    """Probability that a part of the range of brightness is left unused."""
    fading_range: Range = (0.4, 0.9)
    """Part of it that is kept."""
    camera_probability: float = 0.0
    """Probability that the image gets shot noise, and with one half also a blur."""
    camera_photons_range: Range = (30.0, 2000.0)
    """Photons of the brightest pixel."""
    jpeg_probability: float = 0.0
    """Probability that the image is compressed as JPEG."""
    jpeg_quality_range: Range = (30.0, 95.0)
    """Qualities of the JPEG file."""
    saturation_probability: float = 0.0
    """Probability that, after all other changes, values are clipped to [0, 1] as by a camera."""

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            if name.endswith(("_probability", "_fraction")):
                _check(name, value, 0 <= value <= 1, "a number from 0 to 1")
            if name.endswith("_range"):
                _check(name, value, 0 <= value[0] <= value[1], "two numbers, 0 <= first <= second")
        for name in ("zoom_range", "kept_zoom_range"):
            value = getattr(self, name)
            _check(name, value, value[0] > 0, "zooms above 0")
        sizes = self.cell_size_range
        _check("cell_size_range", sizes, sizes[0] > 0 or sizes[1] == 0, "sizes above 0, or 0 to 0")
        for name in ("stain_gain_range", "camera_photons_range"):
            value = getattr(self, name)
            _check(name, value, value[0] > 0, "numbers above 0")
        for name in ("fading_range", "light_strength"):
            value = getattr(self, name)
            _check(name, value, (value[1] if isinstance(value, tuple) else value) <= 1, "at most 1")
        smallest = min(self.smoothing_sigma_range[0], self.sharpening_sigma_range[0])
        _check("the smallest sigma", smallest, smallest > 0, "standard deviations above 0")
        _check("noise_sigma", self.noise_sigma, self.noise_sigma >= 0, "0 or more")
        points = self.histogram_points
        _check("histogram_points", points, points >= 3, "at least 3")


def _check(name: str, value: object, is_right: bool, expected: str) -> None:
    if not is_right:
        raise UsageError(f"augmentation: {name}: found {value}, expected {expected}")
