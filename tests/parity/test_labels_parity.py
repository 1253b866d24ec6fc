"""The label stage against stored results of the released one, and against its plain reading."""

import numpy as np
import pytest
from fakes import agreement
from released_labels import (
    clean,
    consecutive,
    drop_giants,
    flow_errors,
    follow,
    labels_of_end_points,
    released_labels,
    tracked,
    unit_flow,
)
from scipy import ndimage

from mediar_infer.arrays import FLOW_SCALE
from mediar_infer.config import MaskConfig
from mediar_infer.labels.flows import compute_flow_errors, compute_unit_flow
from mediar_infer.labels.kernels import Frame
from mediar_infer.labels.masks import compute_labels, foreground_of, remove_small

UNIT_FLOW_TOLERANCE = 1e-3
"""Measured 0: equal to the last bit."""
FLOW_ERROR_TOLERANCE = 1e-4
"""Measured 2e-9."""
MIN_AGREEMENT = 0.999
"""Pixels equal up to renumbering; measured 1 in nine cases, 0.99995 in one."""

SHAPES = ["sparse", "dense_touching", "tiny", "large", "elongated"]
CASES = [f"{shape}_{kind}" for shape in SHAPES for kind in ("clean", "noisy")]
SIZES = [(1, 1), (1, 40), (40, 1), (2, 30), (5, 5), (17, 33), (64, 64), (47, 91), (120, 31)]


@pytest.fixture(scope="module")
def golden(golden_dir):
    with np.load(golden_dir / "flows.npz") as arrays:
        yield arrays


def maps_of(golden, case):
    logits = golden[f"{case}_cellprob_logits"][None]
    return np.concatenate([golden[f"{case}_flow"], logits]).astype(np.float32)


def random_foreground(rng, shape, amount=0.6):
    """Blobs of all sizes, ragged edges and pinholes."""
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 2, mode="constant")
    rough = smooth / max(smooth.std(), 1e-9) + rng.normal(scale=0.5, size=shape)
    return rough > np.quantile(rough, 1 - amount)


def random_maps(rng, shape):
    """Flows to nearby centres plus noise, on ragged foreground: float32 as from the network."""
    n_cells = max(1, shape[0] * shape[1] // 150)
    centres = rng.uniform(0, 1, (n_cells, 2)) * shape
    y, x = np.mgrid[: shape[0], : shape[1]]
    to_centre = centres[:, :, None, None] - np.stack([y, x])
    nearest = (to_centre**2).sum(axis=1).argmin(axis=0)
    towards = np.take_along_axis(to_centre, nearest[None, None], axis=0)[0]
    length = np.sqrt((towards**2).sum(axis=0))
    flow = FLOW_SCALE * towards / np.maximum(length, 1) + rng.normal(scale=0.7, size=(2, *shape))
    logits = np.where(random_foreground(rng, shape, 0.85), 2.0, -2.0)
    return np.concatenate([flow, logits[None]]).astype(np.float32)


@pytest.mark.parametrize("case", CASES)
def test_labels_equal_the_released_ones(golden, kernels, case):
    labels, n_cells = compute_labels(maps_of(golden, case), kernels=kernels)
    expected = golden[f"{case}_labels"]
    assert agreement(labels, expected) >= MIN_AGREEMENT
    assert n_cells == labels.max()
    assert abs(n_cells - np.unique(expected[expected > 0]).size) <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_unit_flow_equals_the_released_one(golden, kernels, shape):
    found = compute_unit_flow(golden[f"{shape}_clean_true"], kernels)
    expected = golden[f"{shape}_unit_flow"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=UNIT_FLOW_TOLERANCE)


@pytest.mark.parametrize("case", CASES)
def test_flow_errors_equal_the_released_ones(golden, kernels, case):
    labels, flow = golden[f"{case}_true"].astype(np.int32), golden[f"{case}_flow"]
    found = compute_flow_errors(labels, flow.astype(np.float32), kernels)
    expected = golden[f"{case}_flow_error_of_true"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=FLOW_ERROR_TOLERANCE)


@pytest.mark.parametrize("case", ["sparse_noisy", "tiny_clean"])
def test_the_plain_reading_gives_the_released_labels(golden, case):
    assert agreement(released_labels(maps_of(golden, case)), golden[f"{case}_labels"]) == 1


@pytest.mark.parametrize("shape", SIZES)
def test_cleaned_foreground_equals_the_plain_reading(rng, shape):
    for amount in (0.2, 0.5, 0.8):
        foreground = random_foreground(rng, shape, amount)
        np.testing.assert_array_equal(remove_small(foreground, 16), clean(foreground))


@pytest.mark.parametrize("shape", SIZES)
def test_tracks_equal_the_plain_reading(kernels, rng, shape):
    field = np.stack([ndimage.gaussian_filter(rng.normal(size=shape), 3) for _ in "yx"])
    flow = (FLOW_SCALE * field / max(np.abs(field).max(), 1e-9)).astype(np.float32)
    followed = np.abs(flow[0] / FLOW_SCALE) > 1e-3
    points = np.argwhere(followed)
    y, x = follow(flow.astype(np.float64) / FLOW_SCALE, *points.T.astype(np.float64))
    ends, n = kernels.track(flow, np.ones(shape, np.bool_), Frame(0, 0, *shape))
    assert n == len(points)
    found = np.stack(np.divmod(ends[followed], shape[1]), axis=1)
    # Truncation tells 2.999999 from 3: ends that near an integer may go either way.
    exact = np.stack([y, x], axis=1)
    assert np.all((found <= exact + 1e-2) & (exact - 1e-2 <= found + 1))


def random_end_points(rng, shape, n_points):
    """Ends in tight clumps that may touch, overlap, or lie in corners."""
    n_clumps = max(1, n_points // 40)
    centres = rng.uniform(-0.05, 1.05, (n_clumps, 2)) * shape
    spread = rng.choice([0.3, 1.0, 2.5], size=(n_points, 1))
    ends = centres[rng.integers(0, n_clumps, n_points)] + rng.normal(size=(n_points, 2)) * spread
    return ends.clip(0, np.array(shape) - 1).astype(np.int64)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("seed", range(3))
def test_cells_of_given_end_points_equal_the_plain_reading(monkeypatch, kernels, shape, seed):
    rng = np.random.default_rng(seed)
    maps = random_maps(rng, shape)
    starts = np.argwhere(tracked(maps[:2], clean(maps[2] > 0)))
    given = random_end_points(rng, shape, len(starts))
    ends = np.arange(shape[0] * shape[1], dtype=np.int32).reshape(shape)
    ends[tuple(starts.T)] = given[:, 0] * shape[1] + given[:, 1]
    monkeypatch.setattr(kernels, "track", lambda *_, **__: (ends, len(starts)), raising=True)

    found, _ = compute_labels(maps, MaskConfig(flow_threshold=None), kernels)
    end_y, end_x = np.mgrid[: shape[0], : shape[1]]
    if len(starts) >= 5:
        end_y, end_x = np.divmod(ends, shape[1])
    np.testing.assert_array_equal(found, drop_giants(labels_of_end_points(end_y, end_x)))


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("seed", range(3))
def test_labels_of_noisy_maps_equal_the_plain_reading(kernels, shape, seed):
    maps = random_maps(np.random.default_rng(seed), shape)
    foreground = remove_small(foreground_of(maps[2], 0.5), 16)
    ends, n = kernels.track(maps[:2].copy(), foreground, Frame(0, 0, *shape))
    starts = tracked(maps[:2], clean(maps[2] > 0))
    assert n == starts.sum()
    found, n_cells = compute_labels(maps, kernels=kernels)
    given = np.stack(np.divmod(ends[starts], shape[1]), axis=1)
    np.testing.assert_array_equal(found, released_labels(maps, given))
    assert n_cells == found.max()


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("seed", range(2))
def test_flow_errors_of_ragged_touching_labels_equal_the_plain_reading(kernels, shape, seed):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 9, (shape[0] // 7 + 1, shape[1] // 5 + 1))
    labels = np.kron(coarse, np.ones((7, 5), dtype=int))[: shape[0], : shape[1]]
    labels = np.where(random_foreground(rng, shape, 0.8), labels, 0)
    labels = consecutive(labels).astype(np.int32)
    flow = rng.normal(scale=3, size=(2, *shape)).astype(np.float32)
    np.testing.assert_allclose(
        compute_unit_flow(labels, kernels), unit_flow(labels), rtol=0, atol=1e-6
    )
    found = compute_flow_errors(labels, flow, kernels)
    np.testing.assert_allclose(found, flow_errors(labels, flow), rtol=0, atol=1e-5)
