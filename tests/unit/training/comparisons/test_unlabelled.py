"""Further terms of the loss: what they compare, which crops they look at, what they leave alone."""

import pytest
import torch
from fakes import TINY, tiny_state_dict
from torch import nn

from mediar_infer.errors import UsageError
from mediar_infer.training.augmentation.loader import Batch
from mediar_infer.training.comparisons import unlabelled
from mediar_infer.training.comparisons.unlabelled import (
    APPROACHES,
    ConsistencyLoss,
    ReconstructionLoss,
    build_extra_loss,
    distort,
)
from mediar_infer.training.networks.build import ReconstructingFormer, build_network


def make_batch(has_labels=(True, False, False), size=64):
    n = len(has_labels)
    return Batch(
        inputs=torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1)),
        foreground=torch.zeros(n, size, size),
        unit_flow=torch.zeros(n, 2, size, size),
        image_ids=tuple(map(str, range(n))),
        has_labels=torch.tensor(has_labels),
    )


def make_network():
    torch.manual_seed(0)
    return build_network("mediar_former_reconstructing", TINY).train()


class Constant(nn.Module):
    """The same logits everywhere, whatever is shown; six channels, of which three are the image."""

    def __init__(self, cell_logit=-20.0, painted=0.25):
        super().__init__()
        self.painted = nn.Parameter(torch.tensor(painted))
        self.cell_logit, self.seen = cell_logit, []

    def forward(self, inputs):
        self.seen.append(inputs)
        outputs = torch.zeros(len(inputs), 6, *inputs.shape[2:])
        outputs[:, 2] = self.cell_logit
        return outputs + self.painted * torch.tensor([0, 0, 0, 1, 1, 1.0])[:, None, None]


@pytest.mark.parametrize("approach", APPROACHES)
def test_batch_with_labels_only_adds_nothing(approach):
    assert build_extra_loss(approach)(make_network(), make_batch((True, True))) is None


@pytest.mark.parametrize("approach", APPROACHES)
def test_term_is_a_finite_scalar_with_gradients(approach):
    network = make_network()
    term = build_extra_loss(approach)(network, make_batch())
    assert term.shape == ()
    assert torch.isfinite(term)
    term.backward()
    assert network.encoder.patch_embed1.proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("approach", APPROACHES)
def test_only_crops_without_labels_are_looked_at(approach):
    batch, network = make_batch((True, False)), Constant()
    build_extra_loss(approach)(network, batch)
    assert all(len(inputs) == 1 for inputs in network.seen)
    torch.testing.assert_close(network.seen[0], batch.inputs[1:])


@pytest.mark.parametrize("approach", APPROACHES)
def test_weight_is_a_factor(approach):
    terms = []
    for weight in (1.0, 3.0):
        torch.manual_seed(5)
        terms.append(build_extra_loss(approach, weight)(Constant(1.0), make_batch()).item())
    assert terms[1] == pytest.approx(3 * terms[0])


def test_consistency_of_a_network_that_does_not_look_is_zero():
    term = ConsistencyLoss()(Constant(), make_batch())
    assert term.item() == pytest.approx(0, abs=1e-6)


def test_consistency_target_is_predicted_in_evaluation_mode_and_modes_are_restored():
    network, modes = make_network(), []
    network.encoder.eval()
    network.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    ConsistencyLoss()(network, make_batch())
    assert modes == [False, True]
    assert network.training
    assert network.decoder.training
    assert not network.encoder.training


def test_consistency_target_has_no_gradient():
    network = nn.Conv2d(3, 3, 1)
    torch.manual_seed(2)
    ConsistencyLoss()(network, make_batch()).backward()
    gradients = [p.grad.clone() for p in network.parameters()]
    frozen = nn.Conv2d(3, 3, 1)
    frozen.load_state_dict(network.state_dict())
    # A network that answers its first call as a constant has the same gradient.
    fixed = network(make_batch().inputs[1:]).detach()
    calls = iter([lambda _: fixed, frozen])

    class Teacher(nn.Module):
        def forward(self, inputs):
            return next(calls)(inputs)

    torch.manual_seed(2)
    ConsistencyLoss()(Teacher(), make_batch()).backward()
    for found, expected in zip(frozen.parameters(), gradients, strict=True):
        torch.testing.assert_close(found.grad, expected)


def test_consistency_undoes_the_mirroring_of_pixels_and_vectors(monkeypatch):
    class Gradient(nn.Module):
        """Flow = the image's slope: turns with the image."""

        def forward(self, inputs):
            grey = inputs.mean(1)
            flow_y, flow_x = ((grey.roll(-1, axis) - grey.roll(1, axis)) / 2 for axis in (1, 2))
            return torch.stack([flow_y, flow_x, grey], 1)

    monkeypatch.setattr(unlabelled, "distort", lambda inputs: inputs)
    values = set()
    for seed in range(20):
        torch.manual_seed(seed)
        values.add(round(ConsistencyLoss()(Gradient(), make_batch()).item(), 5))
    assert len(values) == 1


def test_distortion_differs_between_crops_and_follows_from_torchs_seed():
    inputs = torch.full((6, 3, 16, 16), 0.5)
    torch.manual_seed(3)
    first = distort(inputs)
    torch.manual_seed(3)
    assert torch.equal(distort(inputs), first)
    assert len(torch.unique(first.flatten(1), dim=0)) > 1
    assert torch.equal(inputs, torch.full((6, 3, 16, 16), 0.5))


def test_smoothing_leaves_a_plain_crop_as_it_is():
    from mediar_infer.training.comparisons.unlabelled import _smooth

    inputs = torch.full((1, 3, 8, 8), 0.3)
    torch.testing.assert_close(_smooth(inputs), inputs)


def test_reconstruction_is_the_mean_squared_error_of_the_image():
    batch = make_batch()
    term = ReconstructionLoss(only_cells=False)(Constant(painted=0.25), batch)
    expected = ((batch.inputs[1:] - 0.25) ** 2).mean().item()
    assert term.item() == pytest.approx(expected, rel=1e-5)


def test_reconstruction_of_cells_counts_their_pixels_only():
    class HalfCells(Constant):
        def forward(self, inputs):
            outputs = super().forward(inputs).clone()
            outputs[:, 2, :, :32] = 5.0
            return outputs

    batch = make_batch()
    term = ReconstructionLoss(only_cells=True)(HalfCells(), batch)
    expected = ((batch.inputs[1:, :, :, :32] - 0.25) ** 2).mean().item()
    assert term.item() == pytest.approx(expected, rel=1e-5)


def test_reconstruction_without_any_cell_is_zero_but_differentiable():
    network = Constant(cell_logit=-5.0)
    term = ReconstructionLoss(only_cells=True)(network, make_batch())
    term.backward()
    assert term.item() == 0
    assert network.painted.grad.item() == 0


def test_reconstruction_needs_its_network():
    with pytest.raises(UsageError, match="found a network with 3 channels, expected 6"):
        ReconstructionLoss(only_cells=False)(build_network("unet", TINY).train(), make_batch())


def test_reconstructing_network_predicts_as_the_engines_outside_of_training():
    network, plain = make_network(), build_network("mediar_former", TINY)
    state = tiny_state_dict()
    plain.load_state_dict(state)
    network.load_state_dict(network.additional_entries() | state)
    inputs = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert isinstance(network, ReconstructingFormer)
        assert torch.equal(network.eval()(inputs), plain.eval()(inputs))
        assert network.train()(inputs).shape == (1, 6, 64, 64)


def test_unknown_approach_lists_the_known_ones():
    with pytest.raises(UsageError, match=r"'magic'.*consistency, reconstruction_cells"):
        build_extra_loss("magic")
