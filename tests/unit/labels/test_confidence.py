"""What the maps say about each cell, against plain numpy over the final labels."""

import numpy as np
import pytest
from fakes import draw_cells, maps_of_labels

from mediar_infer.arrays import CELLPROB
from mediar_infer.config import MaskConfig
from mediar_infer.image_trace import Trace
from mediar_infer.labels import blocks
from mediar_infer.labels.blocks import Labelling, label_bands
from mediar_infer.labels.confidence import CellConfidence, to_probability
from mediar_infer.labels.flows import compute_flow_errors
from mediar_infer.labels.kernels.choice import select_kernels
from mediar_infer.labels.stitching import _cap_speed

MODES = ["auto", "paper", "stitched"]


@pytest.fixture
def everything_is_large(monkeypatch):
    monkeypatch.setattr(blocks, "LARGE_IMAGE_PIXELS", 1)


@pytest.fixture(scope="module")
def maps():
    rng = np.random.default_rng(5)
    maps = maps_of_labels(draw_cells(rng, 700, 190), noise=1.2)
    maps[CELLPROB] += rng.normal(0, 1.5, maps.shape[1:]).astype(np.float32)
    return maps


def measure(maps, rows=204, kernels=None, **settings):
    """Labels and confidence; every value is checked to be final with its cell's last row."""
    _, height, width = maps.shape
    bands = (maps[:, top : top + rows] for top in range(0, height, rows))
    confidence, taken, n_rows = CellConfidence(), [], 0
    config = MaskConfig(block_size=64, fill_holes=False, **settings)
    how = Labelling(config, kernels or select_kernels(), Trace(), confidence=confidence)
    early = {}
    for labels in label_bands(bands, (height, width), how):
        taken.append(labels)
        n_rows += len(labels)
        for each in np.unique(labels[labels > 0]):
            early[each] = confidence.mean_cellprob[each - 1], confidence.flow_error[each - 1]
    labels = np.concatenate(taken)
    assert n_rows == height
    n_cells = labels.max(initial=0)
    assert confidence.mean_cellprob.shape == confidence.flow_error.shape == (n_cells,)
    for each, values in early.items():
        assert values == (confidence.mean_cellprob[each - 1], confidence.flow_error[each - 1])
    return labels, confidence


def mean_cellprobs(labels, maps):
    probability = 1 / (1 + np.exp(-maps[CELLPROB].astype(np.float64)))
    return [probability[labels == each].mean() for each in range(1, labels.max() + 1)]


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("flow_threshold", [None, 0.3])
def test_mean_cell_probability_is_that_of_the_final_labels(maps, mode, flow_threshold):
    labels, confidence = measure(maps, blocks=mode, flow_threshold=flow_threshold)
    assert labels.max() > 30
    np.testing.assert_allclose(
        confidence.mean_cellprob, mean_cellprobs(labels, maps), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("mode", ["auto", "paper"])
def test_flow_errors_are_those_of_the_labels(kernels, maps, mode):
    labels, confidence = measure(maps, kernels=kernels, blocks=mode, flow_threshold=None)
    expected = compute_flow_errors(labels, maps[:CELLPROB].copy(), kernels)
    np.testing.assert_array_equal(confidence.flow_error, expected)


def test_stitched_flow_errors_are_those_of_the_shortened_flow(kernels, maps):
    labels, confidence = measure(maps, kernels=kernels, blocks="stitched", flow_threshold=None)
    # On purpose: iterations are counted per cell, and temperatures are held in float32.
    warmth = kernels.diffuse(labels, labels.max(), same_iterations=False)
    sums = np.zeros(labels.max() + 1)
    flow = _cap_speed(maps[:CELLPROB])
    kernels.add_flow_errors(labels, warmth.astype(np.float32).astype(np.float64), flow, sums)
    expected = (sums / np.bincount(labels.ravel()))[1:]
    np.testing.assert_allclose(confidence.flow_error, expected, rtol=1e-12)


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("mode", MODES)
def test_flow_errors_are_those_that_the_check_compares(maps, mode):
    _, all_cells = measure(maps, blocks=mode, flow_threshold=None)
    limit = float(np.median(all_cells.flow_error))
    labels, kept = measure(maps, blocks=mode, flow_threshold=limit)
    expected = all_cells.flow_error[all_cells.flow_error <= limit]
    assert 0 < labels.max() < len(all_cells.flow_error)
    np.testing.assert_array_equal(kept.flow_error, expected)


@pytest.mark.usefixtures("everything_is_large")
def test_blocks_keep_the_errors_of_cells_that_lie_in_the_image(maps):
    # The far blocks are padded: an id that lies in the padding alone must not shift the others.
    cut = maps[:, :100, :100]
    labels, confidence = measure(cut, blocks="paper", flow_threshold=None)
    for top in (0, 64):
        for left in (0, 64):
            inside = labels[top : top + 64, left : left + 64]
            block = np.zeros((3, 64, 64), np.float32)
            part = cut[:, top : top + 64, left : left + 64]
            block[:, : part.shape[1], : part.shape[2]] = part
            own = np.zeros((64, 64), np.int32)
            own[: part.shape[1], : part.shape[2]] = inside
            ids = np.unique(own[own > 0])
            renumbered = np.searchsorted(ids, own, side="left") + 1
            renumbered = np.where(own > 0, renumbered, 0).astype(np.int32)
            expected = compute_flow_errors(renumbered, block[:CELLPROB].copy())
            np.testing.assert_allclose(confidence.flow_error[ids - 1], expected, atol=1e-12)


@pytest.mark.parametrize("mode", ["auto", "stitched"])
@pytest.mark.parametrize("rows", [17, 700])
def test_values_do_not_depend_on_the_rows_given_at_a_time(maps, mode, rows):
    _, expected = measure(maps, blocks=mode)
    _, found = measure(maps, rows, blocks=mode)
    np.testing.assert_array_equal(found.mean_cellprob, expected.mean_cellprob)
    np.testing.assert_array_equal(found.flow_error, expected.flow_error)


@pytest.mark.parametrize("mode", MODES)
def test_image_without_cells_has_no_values(mode):
    labels, confidence = measure(np.full((3, 70, 65), -4, np.float32), blocks=mode)
    assert not labels.any()
    assert confidence.flow_error.size == confidence.mean_cellprob.size == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("flow_threshold", [None, 0.4])
def test_asking_for_confidence_does_not_change_the_labels(maps, mode, flow_threshold):
    config = MaskConfig(blocks=mode, block_size=64, flow_threshold=flow_threshold, fill_holes=False)
    plain = label_bands(iter([maps]), maps.shape[1:], Labelling(config, select_kernels(), Trace()))
    labels, _ = measure(maps, blocks=mode, flow_threshold=flow_threshold)
    np.testing.assert_array_equal(np.concatenate(list(plain)), labels)


def test_nothing_is_computed_for_a_confidence_that_is_not_wanted(maps, monkeypatch):
    monkeypatch.setattr("mediar_infer.labels.masks.compute_flow_errors", None)
    config = MaskConfig(flow_threshold=None)
    list(label_bands(iter([maps]), maps.shape[1:], Labelling(config, select_kernels(), Trace())))


def test_probability_is_exact_at_the_ends_and_does_not_overflow():
    logits = np.array([-1e9, -80, 0, 80, 1e9], np.float32)
    found = to_probability(logits)
    assert found.dtype == np.float32
    assert found[2] == 0.5
    assert found[[3, 4]].tolist() == [1, 1]
    assert found[[0, 1]] == pytest.approx(0, abs=1e-30)
