"""The loss against numbers worked out by hand."""

import math

import pytest
import torch

from mediar_infer.training.stages.losses import compute_loss


def hand_drawn():
    """Two pixels: a cell with unit flow (0.6, -0.8), and background."""
    foreground = torch.tensor([[[1.0, 0.0]]])
    unit_flow = torch.tensor([[[[0.6, 0.0]], [[-0.8, 0.0]]]])
    logits = torch.tensor([[[[2.0, 0.0]], [[-4.0, 1.0]], [[math.log(3.0), 0.0]]]])
    return logits, foreground, unit_flow


def test_loss_of_two_pixels_by_hand():
    loss = compute_loss(*hand_drawn())
    # -ln(3/4) for the cell, ln 2 for the background
    assert loss.cellprob.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    # targets are (3, -4) and (0, 0): errors 1, 0, 0, 1
    assert loss.flow.item() == pytest.approx((1 + 0 + 0 + 1) / 4)
    assert loss.total.item() == pytest.approx(loss.cellprob.item() + 0.5 * 0.5)


def test_flow_weight_changes_the_total_only():
    batch = hand_drawn()
    plain, light = compute_loss(*batch), compute_loss(*batch, flow_weight=0.25)
    assert (light.cellprob, light.flow) == (plain.cellprob, plain.flow)
    assert light.total.item() == pytest.approx((plain.cellprob + 0.25 * plain.flow).item())


def test_perfect_prediction_has_no_loss():
    unit_flow = torch.tensor([[[[0.6]], [[-0.8]]]])
    logits = torch.tensor([[[[3.0]], [[-4.0]], [[100.0]]]])
    assert compute_loss(logits, torch.ones(1, 1, 1), unit_flow).total.item() == pytest.approx(0)


def test_half_precision_logits_are_compared_in_float32():
    logits = torch.zeros(1, 3, 4, 4, dtype=torch.bfloat16)
    loss = compute_loss(logits, torch.zeros(1, 4, 4), torch.zeros(1, 2, 4, 4))
    assert loss.total.dtype == torch.float32
    assert loss.total.item() == pytest.approx(math.log(2))


def test_crops_without_labels_do_not_count():
    labelled = hand_drawn()
    batch = [torch.cat([part, torch.full_like(part, 7.0)]) for part in labelled]
    loss = compute_loss(*batch, has_labels=torch.tensor([True, False]))
    expected = compute_loss(*labelled)
    for part in ("total", "cellprob", "flow"):
        assert getattr(loss, part).item() == pytest.approx(getattr(expected, part).item())


def test_loss_of_labelled_crops_does_not_depend_on_the_way():
    batch = [torch.cat([part, part.flip(-1)]) for part in hand_drawn()]
    loss = compute_loss(*batch, has_labels=torch.tensor([True, True]))
    assert loss.total.item() == pytest.approx(compute_loss(*batch).total.item())


def test_batch_without_labels_has_no_loss_and_zero_gradients():
    logits, foreground, unit_flow = hand_drawn()
    logits.requires_grad_()
    loss = compute_loss(logits, foreground, unit_flow, has_labels=torch.tensor([False]))
    loss.total.backward()
    assert loss.total.item() == 0
    assert not logits.grad.any()
