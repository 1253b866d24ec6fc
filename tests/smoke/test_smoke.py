"""The quickest answer to "is it broken?": one image, one parity case per step, the imports.

Everything here is tested in more cases elsewhere; these take seconds together (``make smoke``).
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from fakes import FunctionBackend, agreement, normalise_image

from mediar_infer.config import EngineConfig, Plan
from mediar_infer.demo.scenes import make_scene
from mediar_infer.engine.bands import predict_bands
from mediar_infer.engine.preprocess import Scaling
from mediar_infer.image_trace import Trace
from mediar_infer.images.sources import ArraySource
from mediar_infer.labels.masks import compute_labels
from mediar_infer.labels.metrics import evaluate_labels

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.smoke

BYTES = Scaling(low=0, high=255, lut=np.arange(256, dtype=np.uint8))


def run(*command):
    return subprocess.run(
        [*map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_command_finds_the_cells_of_an_image_with_the_shipped_pair(tmp_path):
    image, true = make_scene("fluorescence", 300, 340, seed=3)
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "cells.tif", image)
    arguments = ("predict", "-i", tmp_path / "in", "-o", tmp_path / "out", "--threads", "1")
    done = run(sys.executable, "-m", "mediar_infer", *arguments)
    assert done.returncode == 0, done.stderr
    labels = tifffile.imread(tmp_path / "out" / "cells_label.tiff")
    [scores] = evaluate_labels(true, labels, thresholds=[0.5])
    assert scores.n_true > 20
    assert scores.f1 > 0.8


def test_normalised_image_equals_the_released_one(golden_dir):
    with np.load(golden_dir / "preprocess.npz") as golden:
        found = normalise_image(golden["rgb16_in"]) / np.float32(255)
        expected = golden["rgb16_out"].reshape(3, *found.shape[:2])
    np.testing.assert_allclose(np.moveaxis(found, 2, 0), expected, rtol=0, atol=1e-6)


def importance_of(side):
    """MONAI's Gaussian importance map, as it is defined."""
    distance = np.arange(side) - (side - 1) / 2
    line = np.exp(-0.5 * (distance / (0.125 * side)) ** 2)
    weights = np.outer(line, line)
    return np.maximum(weights, max(weights[weights > 0].min(), 1e-3))


def starts_of(size, side, overlap):
    """First pixels of MONAI's windows along an axis; the last one is moved inside."""
    step = int(side * (1 - overlap))
    n = -(-(size - side) // step) + 1
    return [min(i * step, size - side) for i in range(n)]


def test_merged_windows_equal_the_plain_reading_of_monai():
    side, overlap = 64, 0.6
    image = np.random.default_rng(0).integers(0, 256, (90, 150, 3), dtype=np.uint8)
    inputs = np.moveaxis(image / np.float32(255), 2, 0)
    ramp = np.linspace(-1, 1, side, dtype=np.float32)

    weights, total = importance_of(side), np.zeros((3, 90, 150))
    sum_of_weights = np.zeros((90, 150))
    for top in starts_of(90, side, overlap):
        for left in starts_of(150, side, overlap):
            here = np.s_[top : top + side, left : left + side]
            total[:, *here] += weights * (inputs[:, *here] + ramp)
            sum_of_weights[here] += weights

    backend = FunctionBackend(lambda windows: windows + torch.from_numpy(ramp))
    config = EngineConfig(plan=Plan(max_members=1, flips=("identity",)), roi_size=side)
    bands = predict_bands(ArraySource(image), BYTES, [backend], config, Trace())
    found = np.concatenate(list(bands), axis=1)
    np.testing.assert_allclose(found, total / sum_of_weights, rtol=0, atol=1e-5)


def test_labels_equal_the_released_ones(golden_dir):
    with np.load(golden_dir / "flows.npz") as golden:
        logits = golden["sparse_noisy_cellprob_logits"][None]
        maps = np.concatenate([golden["sparse_noisy_flow"], logits]).astype(np.float32)
        expected = golden["sparse_noisy_labels"]
    assert agreement(compute_labels(maps)[0], expected) >= 0.999


def test_score_equals_the_official_one(golden_dir):
    rows = json.loads((golden_dir / "metric.json").read_text())
    with np.load(golden_dir / "metric_small.npz") as pairs:
        found = evaluate_labels(pairs["0_true"], pairs["0_pred"])
    expected = {row["threshold"]: row["f1"] for row in rows if str(row["pair"]) == "0"}
    assert {scores.threshold: scores.f1 for scores in found} == pytest.approx(expected, abs=1e-9)


def test_import_contracts_hold():
    linter = Path(sys.executable).with_name("lint-imports")
    if not linter.is_file():
        pytest.skip("import-linter is not installed")
    done = run(linter)
    assert done.returncode == 0, done.stdout
