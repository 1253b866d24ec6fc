"""Schedules and AdamW's groups."""

import itertools
from dataclasses import replace

import pytest
import torch
from fakes import TINY
from small_runs import make_recipe

from mediar_infer.network.model import MediarFormer
from mediar_infer.training.stages.optimisation import build_optimizer, compute_learning_rate
from mediar_infer.training.stages.recipe_files import find_recipe, read_recipe

STAGE = replace(make_recipe().stages[0], steps=110, warmup_steps=10)


def test_schedule_of_the_paper_is_torchs_cosine_per_epoch_without_restarts():
    for stage in read_recipe(find_recipe("paper")).stages:
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], stage.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, T_max=100, eta_min=stage.final_learning_rate
        )
        steps_per_epoch = 7
        n_steps = int(stage.epochs) * steps_per_epoch
        for epoch in range(int(stage.epochs)):
            for step in (epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch - 1):
                rate = compute_learning_rate(stage, step, n_steps, steps_per_epoch)
                assert rate == pytest.approx(schedule.get_last_lr()[0], rel=1e-6)
            optimizer.step()
            schedule.step()


def test_schedule_values_of_table_3():
    first, _, third, _ = read_recipe(find_recipe("paper")).stages
    at = {epoch: compute_learning_rate(first, 10 * epoch, 800, 10) for epoch in (0, 50, 79)}
    assert at[0] == 5e-5
    assert at[50] == pytest.approx((5e-5 + 1e-6) / 2)
    assert at[79] == pytest.approx(6.1412e-6, rel=1e-4)
    at = {epoch: compute_learning_rate(third, 10 * epoch, 2000, 10) for epoch in (0, 100, 199)}
    assert at[0] == 2e-5
    assert at[100] == pytest.approx(1e-7)
    assert at[199] == pytest.approx(2e-5, rel=1e-3)


def test_learning_rate_warms_up_then_falls_to_its_end():
    rates = [compute_learning_rate(STAGE, step, 110, 1) for step in range(110)]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[9] == pytest.approx(1e-2)
    assert rates[59] == pytest.approx((1e-2 + 1e-4) / 2)
    assert rates[109] == pytest.approx(1e-4)
    assert all(a > b for a, b in itertools.pairwise(rates[9:]))


def test_constant_schedule_stays_after_the_warm_up():
    stage = replace(STAGE, schedule="constant")
    assert [compute_learning_rate(stage, step, 110, 1) for step in (9, 50, 109)] == [1e-2] * 3


def test_stage_shorter_than_its_warm_up_ends_at_the_highest_rate():
    assert compute_learning_rate(STAGE, 2, 3, 1) == pytest.approx(1e-2)


def test_biases_and_norms_have_no_weight_decay():
    model = MediarFormer(TINY)
    decayed, plain = build_optimizer(model, replace(STAGE, weight_decay=0.02)).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.02, 0.0)
    assert {p.ndim for p in plain["params"]} == {1}
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))
