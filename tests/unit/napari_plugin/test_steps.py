"""Segmenting in steps: progress, result, and an end between two bands."""

import numpy as np
import pytest
from fakes import FunctionBackend, draw_discs, know_cells_of
from folder_helpers import slide
from slides import decode_scene

from mediar_infer.config import PLANS, EngineConfig, MaskConfig, RuntimeConfig
from mediar_infer.errors import PredictionError
from mediar_infer.images.sources import ArraySource
from mediar_infer.labels.metrics import evaluate_labels
from mediar_infer.napari_plugin import steps
from mediar_infer.napari_plugin.steps import segment_in_steps
from mediar_infer.segmenter import Segmenter

RUNTIME = RuntimeConfig(device="cpu", threads=1)


@pytest.fixture
def backend(monkeypatch):
    member = FunctionBackend(decode_scene, batch=1)
    monkeypatch.setattr(
        steps, "load_segmenter", lambda weights, config: Segmenter([member], config)
    )
    return member


def run(generator):
    """Fractions that were yielded, and the value that was returned."""
    fractions = []
    while True:
        try:
            fractions.append(next(generator))
        except StopIteration as stop:
            return fractions, stop.value


@pytest.mark.parametrize("blocks", ["auto", "stitched"])
def test_labels_and_progress(backend, blocks):
    image, true = slide(height=1400, width=300)
    config = EngineConfig(plan=PLANS["fast"], runtime=RUNTIME, masks=MaskConfig(blocks=blocks))
    fractions, found = run(segment_in_steps(ArraySource(image), (), config))
    assert evaluate_labels(true, found.labels, (0.5,))[0].f1 == 1
    assert found.n_cells == true.max()
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
    assert len(set(fractions)) > 3
    assert found.seconds > 0
    assert found.scale == 1


@pytest.mark.parametrize(("scale", "blocks"), [(2, "auto"), (2, "stitched"), ("auto", "auto")])
def test_labels_and_progress_at_another_scale(backend, scale, blocks):
    backend.function = know_cells_of(13, 30)
    image, true = draw_discs(700, 150, 8)
    config = EngineConfig(
        plan=PLANS["fast"], runtime=RUNTIME, masks=MaskConfig(blocks=blocks), scale=scale
    )
    fractions, found = run(segment_in_steps(ArraySource(image), (), config))
    assert evaluate_labels(true, found.labels, (0.5,))[0].f1 > 0.99
    assert found.scale > 1.5
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert len(set(fractions)) > 3


def test_stopping_ends_the_network(backend):
    image, _ = slide(height=4000, width=300)
    generator = segment_in_steps(ArraySource(image), (), EngineConfig(plan=PLANS["fast"]))
    while next(generator) == 0:
        pass
    n_calls = backend.n_calls
    generator.close()
    assert 0 < n_calls < 8
    assert backend.n_calls == n_calls


def test_what_makes_the_result_differ_is_told(backend):
    _, found = run(
        segment_in_steps(ArraySource(np.zeros((60, 70, 2))), (), EngineConfig(plan=PLANS["fast"]))
    )
    assert "2 channels found: read as red and green, blue is zero" in found.warnings
    assert found.n_cells == 0


def test_an_error_of_the_network_comes_out(backend):
    backend.function = lambda inputs: inputs * float("nan")
    with pytest.raises(PredictionError):
        run(segment_in_steps(ArraySource(slide()[0]), (), EngineConfig(plan=PLANS["fast"])))
