from dataclasses import replace

import numpy as np
import pytest
from fakes import FunctionBackend, draw_discs, know_cells_of

from mediar_infer.config import EngineConfig, Plan
from mediar_infer.engine.preprocess import compute_scaling
from mediar_infer.image_trace import Trace
from mediar_infer.images.sources import ArraySource
from mediar_infer.scales.places import choose_places, read_part
from mediar_infer.scales.trials import SCALES, Trial, find_scale, judge

TYPICAL = 24.0  # cells that the fake network knows
CONFIG = EngineConfig(roi_size=96, plan=Plan(max_members=1))
RIGHT = Trial(1.0, 40, 0.95, 0.9, 0.05, 0.2, 30.0)
POOR = replace(RIGHT, kept=0.3, flow_length=0.5, undecided=0.3)


def find(image, backend=None):
    source, trace = ArraySource(image), Trace()
    backend = backend or FunctionBackend(know_cells_of(13, 30))
    choice = find_scale(source, compute_scaling(source), backend, CONFIG, trace, TYPICAL)
    assert trace.stages_s["scale"] > 0
    return choice


@pytest.mark.parametrize(("diameter", "low", "high"), [(8, 1.6, 3.8), (60, 0.2, 0.5)])
def test_scale_at_which_the_network_knows_the_cells_is_found(diameter, low, high):
    image, _ = draw_discs(12 * diameter, 10 * diameter, diameter)
    choice = find(image)
    assert low <= choice.scale <= high
    assert choice.warning is None
    assert {trial["scale"] for trial in choice.trials} <= set(SCALES)


def test_known_cells_are_seen_as_they_are_after_one_look_at_each_place():
    backend = FunctionBackend(know_cells_of(13, 30))
    image, _ = draw_discs(400, 300, 20)
    assert find(image, backend).scale == 1
    assert backend.n_windows <= 2


def test_nothing_to_see_is_undecided_and_says_so():
    choice = find(np.zeros((200, 300), np.uint8))
    assert choice.scale == 1
    assert "found no scale at which the network is sure" in choice.warning


def test_a_clearly_better_scale_is_taken():
    choice = judge([POOR, replace(RIGHT, scale=2.0), replace(RIGHT, scale=4.0, kept=0.7)], TYPICAL)
    assert choice.scale == 2
    assert choice.reason == (
        "40 cells of 30 px with certainty 0.81, as it is 40 cells of 30 px with certainty 0.10"
    )
    assert [trial["scale"] for trial in choice.trials] == [1, 2, 4]


def test_a_slightly_better_scale_is_not():
    assert judge([replace(RIGHT, kept=0.7), replace(RIGHT, scale=2.0)], TYPICAL).scale == 1


def test_one_giant_cell_proves_nothing():
    assert judge([POOR, replace(RIGHT, scale=0.35, n_cells=1)], TYPICAL).scale == 1


def test_certain_specks_that_explain_little_are_not_better():
    specks = replace(RIGHT, scale=2.0, foreground=0.004, kept=0.9)
    assert judge([replace(RIGHT, kept=0.6, undecided=0.2), specks], TYPICAL).scale == 1


@pytest.mark.parametrize("diameter", [6.0, 90.0])
def test_cells_of_unknown_size_lose_to_known_ones_however_sure_the_network_is(diameter):
    strange = replace(RIGHT, diameter=diameter)
    assert judge([strange, replace(RIGHT, scale=2.0, kept=0.8)], TYPICAL).scale == 2
    assert (
        judge([replace(RIGHT, kept=0.5), replace(strange, scale=2.0, kept=1.0)], TYPICAL).scale == 1
    )


def test_cells_of_unknown_size_are_not_taken_at_one_look():
    image, _ = draw_discs(400, 300, 20)
    source = ArraySource(image)
    arguments = source, compute_scaling(source), FunctionBackend(know_cells_of(13, 30)), CONFIG
    assert len(find_scale(*arguments, Trace(), 20.0).trials) == 1
    assert len(find_scale(*arguments, Trace(), 80.0).trials) > 1


def test_weights_that_state_no_size_are_taken_to_know_usual_cells():
    image, _ = draw_discs(400, 300, 20)
    source = ArraySource(image)
    backend = FunctionBackend(know_cells_of(13, 30))
    assert find_scale(source, compute_scaling(source), backend, CONFIG, Trace()).scale == 1


def test_few_cells_of_which_the_network_is_sure_need_no_warning():
    choice = judge([replace(RIGHT, n_cells=1), replace(POOR, scale=2.0)], TYPICAL)
    assert (choice.scale, choice.warning) == (1, None)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (96, 96), (97, 40), (1000, 1000)])
def test_places_are_inside_and_apart(shape):
    source = ArraySource(np.random.default_rng(0).integers(1, 255, shape, dtype=np.uint8))
    scaling = compute_scaling(source)
    places = choose_places(source, scaling, 96, 2)
    assert 1 <= len(places) <= 2
    for place in places:
        part = read_part(source, scaling, place, 96)
        assert part.shape == (3, min(shape[0], 96), min(shape[1], 96))
    if len(places) == 2:
        assert max(abs(a - b) for a, b in zip(*places, strict=True)) >= 96


def test_places_have_something_to_see():
    image = np.full((1500, 1200), 9, np.uint8)
    image[900:1200, 500:800] = draw_discs(300, 300, 16)[0]
    source = ArraySource(image)
    for y, x in choose_places(source, compute_scaling(source), 96, 2):
        assert 850 <= y <= 1250
        assert 450 <= x <= 850
