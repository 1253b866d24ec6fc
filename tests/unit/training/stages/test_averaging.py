"""Moving average and blends of weights."""

import pytest
import torch
from torch import nn

from mediar_infer.training.stages.averaging import WeightAverage, blend_weights


def test_average_moves_by_one_minus_decay_and_copies_counters():
    model = nn.BatchNorm2d(1)
    average = WeightAverage(model)
    with torch.no_grad():
        model.weight.fill_(2.0)
        model.running_mean.fill_(4.0)
        model.num_batches_tracked.fill_(9)
    average.update(model, 0.75)
    assert average.state["weight"].item() == pytest.approx(1.25)
    assert average.state["running_mean"].item() == pytest.approx(1.0)
    assert average.state["num_batches_tracked"].item() == 9


def test_blend_is_linear_and_takes_the_seconds_integers():
    first = {"w": torch.tensor([0.0, 4.0]), "n": torch.tensor(3)}
    second = {"w": torch.tensor([8.0, 4.0], dtype=torch.float16), "n": torch.tensor(5)}
    blend = blend_weights(first, second, 0.25)
    torch.testing.assert_close(blend["w"], torch.tensor([2.0, 4.0]))
    assert blend["n"].item() == 5
