"""Windows, importance map, flips and ensemble against MONAI and against stored maps."""

import numpy as np
import pytest
import torch
from fakes import FunctionBackend
from released_network import released_maps
from safetensors.torch import load_file

from mediar_infer.config import ALL_FLIPS, EngineConfig, Plan
from mediar_infer.devices import CPU
from mediar_infer.engine.bands import predict_bands
from mediar_infer.engine.preprocess import Scaling
from mediar_infer.engine.windows import MIN_IMPORTANCE, SIGMA_SCALE, importance_map, window_starts
from mediar_infer.image_trace import Trace
from mediar_infer.images.sources import ArraySource
from mediar_infer.network.architecture import ENCODERS, Architecture
from mediar_infer.network.backends.torch_backend import TorchBackend
from mediar_infer.network.model import MediarFormer

pytest.importorskip("monai", reason="extra: training")

MAX_TOLERANCE, MEAN_TOLERANCE = 1e-3, 1e-5
"""Merged maps of the released system, float32 on the CPU; measured 1.3e-5 and 1.2e-6."""
MERGE_TOLERANCE = 1e-5
"""Float32 sums in another order, of values up to 7; measured 2.4e-6."""

SIZES = [
    (1, 1), (1, 2), (2, 1), (3, 5), (1, 40), (40, 1), (31, 31), (31, 32), (32, 31), (32, 32),
    (32, 33), (33, 32), (33, 33), (44, 45), (45, 44), (63, 65), (64, 64), (65, 63), (76, 77),
    (77, 76), (100, 100), (127, 129), (31, 900), (900, 31), (200, 33), (17, 333), (333, 17),
    (255, 64), (51, 50), (95, 97),
]  # fmt: skip


class IdentityScaling:
    """Stands in for ``Scaling`` where an image is in [0, 1] already; the engine divides by 255."""

    def apply(self, rows):
        return rows * np.float32(255)


BYTES = Scaling(low=0, high=255, lut=np.arange(256, dtype=np.uint8))


def position_dependent(inputs, gain=1.0):
    """A network whose output depends on content, place in the window and the window's mean."""
    n_rows, n_columns = inputs.shape[2:]
    rows = torch.linspace(-1, 1, n_rows)[:, None]
    columns = torch.linspace(0, 1, n_columns)
    mean = inputs.mean(dim=(1, 2, 3))[:, None, None]
    return torch.stack(
        [
            gain * inputs[:, 0] + rows - mean,
            inputs[:, 1] * columns + gain * mean,
            5 * inputs[:, 2] - 2 * rows * columns,
        ],
        dim=1,
    )


def merged_maps(image, scaling, members, config):
    bands = list(predict_bands(ArraySource(image), scaling, members, config, Trace()))
    return np.concatenate(bands, axis=1)


def random_image(rng, height, width):
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("roi_size", [32, 64, 512])
def test_importance_map_equals_that_of_monai(roi_size):
    from monai.data import utils

    expected = utils.compute_importance_map(
        (roi_size, roi_size), mode="gaussian", sigma_scale=SIGMA_SCALE
    )
    expected = expected.float().clamp(min=max(float(expected.min()), MIN_IMPORTANCE))
    np.testing.assert_allclose(importance_map(roi_size), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.6])
@pytest.mark.parametrize("roi_size", [32, 512])
def test_window_grid_equals_that_of_monai(roi_size, overlap):
    from monai.data import utils as data
    from monai.inferers import utils as inferers

    offsets = [0, 1, 2, 11, 12, 13, 203, 204, 205, 407, 408, 409, 511, 512, 513, 4488, 9984]
    for size in (roi_size + offset for offset in offsets):
        shape, roi = (size, roi_size), (roi_size, roi_size)
        interval = inferers._get_scan_interval(shape, roi, 2, (overlap, overlap))
        slices = data.dense_patch_slices(shape, roi, interval)
        assert window_starts(size, roi_size, overlap) == sorted({rows.start for rows, _ in slices})


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_merged_maps_equal_those_of_monai(rng, height, width):
    image = random_image(rng, height, width)
    config = EngineConfig(plan=Plan(flips=("identity",), overlap=0.6), roi_size=32)
    found = merged_maps(image, BYTES, [FunctionBackend(position_dependent)], config)
    expected = released_maps(image, [position_dependent], ("identity",), 32, 0.6)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=MERGE_TOLERANCE)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_merged_maps_equal_those_of_monai_for_other_overlaps(rng, overlap):
    image = random_image(rng, 141, 99)
    config = EngineConfig(plan=Plan(flips=ALL_FLIPS, overlap=overlap), roi_size=32)
    found = merged_maps(image, BYTES, [FunctionBackend(position_dependent)], config)
    expected = released_maps(image, [position_dependent], ALL_FLIPS, 32, overlap)
    np.testing.assert_allclose(found, expected, rtol=0, atol=MERGE_TOLERANCE)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (511, 513), (31, 2000), (717, 601)])
def test_merged_maps_equal_those_of_monai_at_the_released_window_size(rng, height, width):
    image = random_image(rng, height, width)
    config = EngineConfig(plan=Plan(flips=ALL_FLIPS))
    found = merged_maps(image, BYTES, [FunctionBackend(position_dependent)], config)
    expected = released_maps(image, [position_dependent], ALL_FLIPS, 512, 0.6)
    np.testing.assert_allclose(found, expected, rtol=0, atol=MERGE_TOLERANCE)


@pytest.mark.parametrize("flips", [ALL_FLIPS, ("horizontal",), ("vertical", "identity")])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 3), (31, 33), (32, 32), (45, 101), (101, 45), (150, 20), (77, 77)]
)
def test_flips_equal_a_flipped_image_that_is_flipped_back(rng, height, width, flips):
    image = random_image(rng, height, width)
    predictors = [position_dependent, lambda inputs: position_dependent(inputs, gain=-3.0)]
    config = EngineConfig(plan=Plan(flips=flips), roi_size=32)
    members = [FunctionBackend(predictor, batch=5) for predictor in predictors]
    found = merged_maps(image, BYTES, members, config)
    expected = released_maps(image, predictors, flips, 32, 0.6)
    np.testing.assert_allclose(found, expected, rtol=0, atol=MERGE_TOLERANCE)


@pytest.fixture(scope="module")
def released_pair(parity_dir):
    architecture = Architecture(*ENCODERS["mit_b0"], (64, 32, 16, 16, 16), 16)
    members = []
    for name in "ab":
        model = MediarFormer(architecture)
        model.load_state_dict(load_file(parity_dir / f"former_mit_b0_{name}.safetensors"))
        members.append(TorchBackend(model, CPU, "float32"))
    return members


@pytest.mark.parametrize(
    ("key", "flips"), [("maps_no_tta", ("identity",)), ("maps_tta", ALL_FLIPS)]
)
def test_maps_of_the_ensemble_equal_the_released_ones(parity_dir, released_pair, key, flips):
    with np.load(parity_dir / "ensemble_tta.npz") as golden:
        image, expected = golden["image"].astype(np.float32), golden[key]
    config = EngineConfig(plan=Plan(flips=flips))
    found = merged_maps(image.transpose(1, 2, 0), IdentityScaling(), released_pair, config)
    difference = np.abs(found - expected)
    assert difference.max() <= MAX_TOLERANCE
    assert difference.mean() <= MEAN_TOLERANCE
