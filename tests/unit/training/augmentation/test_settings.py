"""The numbers of Table 1, and what is refused."""

from dataclasses import fields

import pytest

from mediar_infer.errors import UsageError
from mediar_infer.training.augmentation.settings import Augmentation

TABLE_1 = {
    "zoom_probability": 0.5,
    "zoom_range": (0.25, 1.5),
    "flip_probability": 0.5,
    "rotation_probability": 0.5,
    "cell_intensity_probability": 0.25,
    "cell_intensity_range": (1.0, 1.7),
    "noise_probability": 0.25,
    "noise_sigma": 0.1,
    "contrast_probability": 0.25,
    "contrast_range": (0.0, 2.0),
    "smoothing_probability": 0.25,
    "smoothing_sigma_range": (1.0, 1.0),
    "histogram_probability": 0.25,
    "histogram_points": 3,
    "sharpening_probability": 0.25,
    "sharpening_sigma_range": (0.5, 1.0),
    "sharpening_alpha_range": (10.0, 30.0),
}
RELEASED = {"plain_zoom_probability": 0.0, "cell_intensity_fraction": 0.4, "noise_varies": False}


def test_defaults_are_table_1_and_what_it_does_not_have_is_off():
    defaults = {field.name: field.default for field in fields(Augmentation)}
    ours = {name for name in defaults if name not in TABLE_1 | RELEASED}
    assert {name: defaults[name] for name in TABLE_1 | RELEASED} == TABLE_1 | RELEASED
    assert all(defaults[name] == 0 for name in ours if name.endswith("_probability"))
    assert defaults["cell_size_range"] == (0.0, 0.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("zoom_probability", 1.5),
        ("inversion_probability", -0.1),
        ("cell_intensity_fraction", 2.0),
        ("zoom_range", (1.5, 0.25)),
        ("zoom_range", (0.0, 1.0)),
        ("contrast_range", (-1.0, 2.0)),
        ("smoothing_sigma_range", (0.0, 1.0)),
        ("noise_sigma", -0.1),
        ("histogram_points", 2),
        ("cell_size_range", (0.0, 40.0)),
        ("stain_gain_range", (0.0, 1.0)),
        ("camera_photons_range", (0.0, 1.0)),
        ("fading_range", (0.5, 1.5)),
        ("light_strength", 2.0),
    ],
)
def test_value_out_of_range_is_refused_with_its_name(field, value):
    with pytest.raises(UsageError, match="expected"):
        Augmentation(**{field: value})
