"""The ladder of plans: each step does a part of the one above it."""

from itertools import pairwise

import pytest

from mediar_infer.config import PLANS, Plan
from mediar_infer.engine.plans import ladder_below, name_dropped


def names(plans):
    return [plan.name for plan in plans]


def test_paper_plan_goes_down_by_overlap_then_by_passes():
    plans = ladder_below(Plan(), n_members=2)
    assert [(plan.max_members, len(plan.flips), plan.overlap) for plan in plans] == [
        (2, 3, 0.6), (2, 3, 0.4), (2, 3, 0.25), (2, 3, 0.1), (2, 2, 0.1), (2, 1, 0.1), (1, 1, 0.1),
        (1, 1, 0.0),
    ]  # fmt: skip
    assert plans[0] == PLANS["paper"]


TOPS = [*PLANS.values(), Plan("custom", flips=("vertical", "identity"), overlap=0.2), Plan("x", 5)]


@pytest.mark.parametrize("n_members", [1, 2, 3])
@pytest.mark.parametrize("top", TOPS, ids=lambda plan: plan.name)
def test_each_plan_does_a_part_of_the_one_above(top, n_members):
    plans = ladder_below(top, n_members)
    assert plans[0].max_members == min(top.max_members, n_members)
    assert (plans[0].flips, plans[0].overlap) == (top.flips, top.overlap)
    for upper, lower in pairwise(plans):
        assert lower.max_members <= upper.max_members
        assert lower.flips == upper.flips[: len(lower.flips)]
        assert lower.overlap <= upper.overlap
        assert name_dropped(upper, lower)
    assert len(set(names(plans))) == len(plans)
    assert plans[-1].overlap == 0


def test_what_is_asked_for_is_never_made_richer():
    assert names(ladder_below(PLANS["fast"], 2)) == ["fast", "one-pass", "tiles"]


def test_one_model_is_not_called_an_ensemble():
    assert names(ladder_below(Plan(), 1)) == [
        "paper", "overlap-40", "overlap-25", "overlap-10", "two-flips", "one-pass", "tiles",
    ]  # fmt: skip


def test_dropped_passes_and_overlap_are_named():
    plans = ladder_below(Plan(), 2)
    assert name_dropped(plans[0], plans[3]) == ["overlap 0.6 to 0.1"]
    assert name_dropped(plans[3], plans[4]) == ["model 1 vertical", "model 2 vertical"]
    assert name_dropped(plans[5], plans[7]) == ["model 2 identity", "overlap 0.1 to 0.0"]
