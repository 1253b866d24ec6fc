"""Measured seconds: what is known after which calls."""

import pytest

from mediar_infer.engine.costs import STAGE_PRIORS, Costs


def costs_after(*calls, batch=4, n_members=2):
    costs = Costs(n_members, batch)
    for member, n_windows, seconds in calls:
        costs.rates[member].add(n_windows, seconds)
    return costs


def test_nothing_is_known_before_the_first_window():
    costs = costs_after()
    assert not costs.is_known
    with pytest.raises(ValueError, match="found no timed window"):
        costs.window_s(0)


def test_first_call_counts_until_there_is_another_one():
    costs = costs_after((0, 1, 5.0))
    assert (costs.window_s(0), costs.is_early) == (5.0, True)
    costs.rates[0].add(2, 0.4)
    assert (costs.window_s(0), costs.is_early) == (0.2, True)
    costs.rates[0].add(2, 0.8)
    assert (costs.window_s(0), costs.is_early) == (pytest.approx(0.3), True)


def test_first_batch_counts_until_there_is_a_second_one():
    costs = costs_after((0, 1, 5.0), (0, 4, 1.2), (0, 4, 0.4))
    assert (costs.window_s(0), costs.is_early) == (pytest.approx(0.1), False)
    costs.rates[0].add(4, 0.8)
    assert costs.window_s(0) == pytest.approx(0.15)


def test_first_call_of_an_accelerator_says_nothing():
    costs = Costs(1, 4, warms_up=True)
    costs.rates[0].add(1, 3.0)
    assert not costs.is_known
    costs.rates[0].add(1, 0.1)
    assert (costs.window_s(0), costs.is_early) == (0.1, True)


def test_small_calls_count_as_part_of_a_full_batch():
    costs = costs_after((0, 1, 9.0), (0, 4, 0.4), (0, 1, 0.2))
    assert costs.window_s(0) == pytest.approx(0.1)
    costs.rates[0].add(3, 0.3)
    assert costs.window_s(0) == pytest.approx(0.5 / 4)


def test_slower_machine_is_noticed_within_a_few_batches():
    costs = costs_after((0, 1, 0.1), *[(0, 4, 0.4)] * 50, *[(0, 4, 1.2)] * 4)
    assert costs.window_s(0) == pytest.approx(0.3, rel=0.05)


def test_other_models_are_taken_to_cost_the_same_until_they_are_known():
    costs = costs_after((0, 1, 0.3), (0, 4, 0.4))
    assert costs.window_s(1) == pytest.approx(0.1)
    costs.rates[1].add(4, 20.0)
    assert costs.window_s(1) == pytest.approx(0.1)
    costs.rates[1].add(4, 2.0)
    assert costs.window_s(1) == pytest.approx(0.5)
    assert costs.network_s([10, 20]) == pytest.approx(1 + 10)
    assert costs.network_s([10]) == pytest.approx(1)


def test_stages_are_guessed_then_learned():
    costs = costs_after()
    assert costs.stage_s_per_megapixel("labels") == STAGE_PRIORS["labels"]
    costs.learn({"labels": 6.0, "read": 99.0}, megapixels=2.0)
    assert costs.stage_s_per_megapixel("labels") == (STAGE_PRIORS["labels"] + 3.0) / 2
    assert costs.stage_s_per_megapixel("write") == STAGE_PRIORS["write"]


def test_tiny_images_teach_nothing():
    costs = costs_after()
    costs.learn({"labels": 6.0}, megapixels=0.01)
    assert costs.stage_s_per_megapixel("labels") == STAGE_PRIORS["labels"]
