"""Images whose cells the network only knows at another size, through the whole segmenter."""

from dataclasses import replace

import numpy as np
import pytest
from fakes import (
    Clock,
    FunctionBackend,
    TimedBackend,
    draw_discs,
    intersection_over_union,
    know_cells_of,
)

from mediar_infer import image_work
from mediar_infer.config import CellSize, EngineConfig, MaskConfig, Plan
from mediar_infer.errors import ImageReadError, UsageError
from mediar_infer.image_trace import Trace
from mediar_infer.images.sources import ArraySource
from mediar_infer.segmenter import Segmenter

CONFIG = EngineConfig(roi_size=96, plan=Plan(max_members=1, overlap=0.25))
KNOWN = know_cells_of(13, 30)


def segment(image, **settings):
    segmenter = Segmenter([FunctionBackend(KNOWN)], replace(CONFIG, **settings), {}, 20.0)
    return segmenter.segment(image)


@pytest.mark.parametrize(("diameter", "scale"), [(9, 2), (7, 3), (12, 1.5), (45, 0.4), (60, 0.3)])
def test_cells_that_only_another_scale_shows_are_found(diameter, scale):
    image, true = draw_discs(11 * diameter, 8 * diameter + 3, diameter)
    assert segment(image).n_cells == 0
    result = segment(image, scale=scale)
    assert result.n_cells == true.max() > 12
    assert result.labels.shape == result.cellprob.shape == result.flow.shape[1:] == image.shape
    assert intersection_over_union(true, result.labels).min() > 0.75
    assert ((result.cellprob > 0.5) == (true > 0)).mean() > 0.95


def test_scale_one_gives_the_same_bits_without_a_copy():
    image, _ = draw_discs(200, 150, 20)
    plain, same = segment(image), segment(image, scale=1.0)
    for name in ("labels", "flow", "cellprob"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(same, name))
    nearly = segment(image, cell_size=CellSize(20.5))
    np.testing.assert_array_equal(plain.labels, nearly.labels)


@pytest.mark.parametrize("scale", [0.4, 2])
def test_labels_do_not_depend_on_the_block_size(scale):
    diameter = 20 / scale
    image, true = draw_discs(int(9 * diameter), int(7 * diameter), diameter)
    results = [
        segment(image, scale=scale, masks=MaskConfig(blocks="stitched", block_size=size)).labels
        for size in (64, 1000)
    ]
    assert results[0].max() == true.max()
    for each in results[1:]:
        np.testing.assert_array_equal(each, results[0])


@pytest.mark.parametrize("scale", [2, 0.4])
def test_confidence_has_the_ids_of_the_resized_labels(scale):
    image, true = draw_discs(int(90 * 2 / scale), int(70 * 2 / scale), 20 / scale)
    segmenter = Segmenter([FunctionBackend(KNOWN)], replace(CONFIG, scale=scale))
    result = segmenter.segment(image, confidence=True)
    assert len(result.confidence.mean_cellprob) == result.n_cells == true.max()
    assert len(result.confidence.flow_error) == result.n_cells
    assert result.confidence.mean_cellprob.min() > 0.9
    assert result.confidence.flow_error.max() < 0.4


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (5, 5, 4)])
@pytest.mark.parametrize("scale", [0.1, 0.6, 8, "auto"])
def test_every_shape_gets_an_answer(shape, scale):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert segment(image, scale=scale).labels.shape == shape[:2]


def test_cell_size_finds_the_scale():
    image, true = draw_discs(160, 120, 8)
    assert segment(image, cell_size=CellSize(8)).n_cells == true.max()


def test_cell_size_without_that_of_training_is_refused_at_once():
    with pytest.raises(UsageError, match="no size of the training cells"):
        Segmenter([FunctionBackend(KNOWN)], replace(CONFIG, cell_size=CellSize(8)))


def test_micrometres_without_a_pixel_size_fail_before_anything_is_predicted():
    backend = FunctionBackend(KNOWN)
    segmenter = Segmenter([backend], replace(CONFIG, cell_size=CellSize(8, "um")), {}, 20.0)
    with pytest.raises(ImageReadError, match="found no pixel size"):
        segmenter.begin(ArraySource(np.ones((9, 9), np.uint8)), Trace())
    assert backend.n_calls == 0


def test_memory_is_that_of_the_scaled_image(monkeypatch):
    image = ArraySource(np.ones((400, 300), np.uint8))
    monkeypatch.setattr(image_work, "available_memory_bytes", lambda: 8 * 2**20)
    Segmenter([FunctionBackend(KNOWN)], CONFIG).begin(image, Trace()).close()
    enlarging = Segmenter([FunctionBackend(KNOWN)], replace(CONFIG, scale=4.0))
    with pytest.raises(ImageReadError, match=r"400 × 300 pixels that take at least \d+ MiB"):
        enlarging.begin(image, Trace())


@pytest.mark.parametrize(("scale", "is_cheaper"), [(0.5, False), (1.0, False), (2.0, True)])
def test_budget_counts_the_windows_of_the_scaled_image(scale, is_cheaper):
    clock = Clock()
    image = np.random.default_rng(0).integers(0, 256, (600, 480), dtype=np.uint8)
    backend = TimedBackend(lambda inputs: inputs * 0 - 4, clock, window_s=0.03)
    config = replace(CONFIG, fit_budget=0.9, scale=scale)
    trace = Trace(clock=clock)
    with Segmenter([backend], config).begin(ArraySource(image), trace) as work:
        labels = np.concatenate(list(work.labels()))
    assert labels.shape == image.shape
    assert trace.budget["n_windows"] == backend.n_windows
    assert trace.budget["fits"]
    assert (trace.budget["plan"]["overlap"] < CONFIG.plan.overlap) == is_cheaper


def test_row_of_a_change_of_plan_is_one_of_the_image():
    clock = Clock()
    image = np.random.default_rng(0).integers(0, 256, (200, 160), dtype=np.uint8)
    backend = TimedBackend(
        lambda inputs: inputs * 0 - 4, clock, window_s=0.03, slow_after=60, slowdown=8
    )
    trace = Trace(clock=clock)
    segmenter = Segmenter([backend], replace(CONFIG, fit_budget=0.9, scale=3.0))
    with segmenter.begin(ArraySource(image), trace) as work:
        list(work.labels())
    (row,) = {change["row"] for change in trace.budget["changes"]}
    assert 0 < row < 200
