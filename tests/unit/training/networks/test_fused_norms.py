import copy

import pytest
import torch
from fakes import TINY
from torch import nn

from mediar_infer.network.model import MediarFormer
from mediar_infer.training.networks import fused_norms
from mediar_infer.training.networks.fused_norms import (
    FastMish,
    NormMish,
    fuse_norms,
    load_activation_library,
)
from mediar_infer.training.networks.synchronised_norm import freeze_statistics

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}

needs_library = pytest.mark.skipif(
    load_activation_library() is None,
    reason="the loops were not compiled when the package was installed",
)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def build_block(n_channels, order):
    norm = nn.BatchNorm2d(n_channels)
    nn.init.uniform_(norm.weight, -1.0, 2.0)
    nn.init.uniform_(norm.bias, -1.0, 1.0)
    nn.init.uniform_(norm.running_mean, -0.5, 0.5)
    layers = [norm, nn.Mish()] if order == "norm first" else [nn.Mish(), norm]
    return nn.Sequential(*layers)


def run_both(plain, inputs, *, frozen=False):
    """Outputs, gradients and buffers of torch's layers in float64, and of the fused ones."""
    fused = copy.deepcopy(plain)
    fuse_norms(fused)
    assert list(fused.state_dict()) == list(plain.state_dict())
    results = []
    for model in (plain.double(), fused):
        if frozen:
            freeze_statistics(model)
        dtype = next(model.parameters()).dtype
        x = inputs.to(dtype, copy=True).requires_grad_()
        outputs = model(x)
        factors = torch.linspace(-1, 1, outputs.numel(), dtype=dtype).view(outputs.shape)
        (outputs * factors).sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        found = {"outputs": outputs, "inputs": x.grad, **gradients, **dict(model.named_buffers())}
        results.append({name: value.detach().double() for name, value in found.items()})
    return results


@needs_library
@pytest.mark.parametrize("order", ["norm first", "mish first"])
@pytest.mark.parametrize("n_channels", [1, 8, 24, 320, 700])
@pytest.mark.parametrize("size", [(4, 6), (1, 3), (33, 17)])
def test_fused_block_equals_torch_in_values_gradients_and_statistics(order, n_channels, size):
    torch.manual_seed(0)
    inputs = 3 * torch.randn(2, n_channels, *size) + 1
    expected, found = run_both(build_block(n_channels, order), inputs)
    if order == "mish first":  # this norm is torch's own, whose sums are of float32
        del expected["1.weight"], found["1.weight"]
    torch.testing.assert_close(found, expected, **TOLERANCE)


@needs_library
@pytest.mark.parametrize("order", ["norm first", "mish first"])
def test_frozen_statistics_stay_and_give_torchs_gradients(order):
    torch.manual_seed(0)
    expected, found = run_both(build_block(16, order), torch.randn(2, 16, 9, 7), frozen=True)
    torch.testing.assert_close(found, expected, **TOLERANCE)
    assert found["0.num_batches_tracked" if order == "norm first" else "1.num_batches_tracked"] == 0


@needs_library
@pytest.mark.usefixtures("two_threads")
def test_threads_share_the_rows():
    torch.manual_seed(0)
    expected, found = run_both(build_block(16, "norm first"), torch.randn(2, 16, 40, 40))
    torch.testing.assert_close(found, expected, **TOLERANCE)


@needs_library
def test_extreme_values_stay_finite_and_are_those_of_torch():
    x = torch.tensor([-1e4, -200.0, -88.0, -30.0, 0.0, 19.0, 21.0, 88.0, 200.0, 1e4])
    x = x.view(1, 1, 2, 5)
    found = x.clone().requires_grad_()
    expected = x.clone().requires_grad_()
    FastMish()(found).sum().backward()
    nn.Mish()(expected).sum().backward()
    torch.testing.assert_close(FastMish()(x), nn.Mish()(x), rtol=1e-6, atol=1e-30)
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-6, atol=1e-30)


@needs_library
def test_network_keeps_its_entries_and_its_output():
    torch.manual_seed(0)
    plain = MediarFormer(TINY).eval()
    fused = copy.deepcopy(plain)
    fuse_norms(fused)
    assert sum(isinstance(layer, NormMish) for layer in fused.modules()) == 16
    assert sum(isinstance(layer, FastMish) for layer in fused.modules()) == 2
    assert list(fused.state_dict()) == list(plain.state_dict())
    inputs = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(fused(inputs), plain(inputs), **TOLERANCE)


@needs_library
def test_other_types_are_left_to_torch():
    norm = NormMish(4).double()
    inputs = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    expected = nn.functional.mish(nn.BatchNorm2d(4).double()(inputs))
    torch.testing.assert_close(norm(inputs), expected)


def test_without_compiled_loops_the_model_stays(monkeypatch):
    monkeypatch.setattr(fused_norms, "load_activation_library", lambda: None)
    block = build_block(8, "norm first")
    fuse_norms(block)
    assert type(block[0]) is nn.BatchNorm2d
    assert type(block[1]) is nn.Mish


@needs_library
@pytest.mark.parametrize("mean", [10.0, 1000.0])
def test_variance_far_from_zero_keeps_its_digits(mean):
    torch.manual_seed(0)
    inputs = torch.randn(2, 8, 20, 20) + mean
    expected = nn.Sequential(nn.BatchNorm2d(8), nn.Mish()).double()(inputs.double())
    block = nn.Sequential(nn.BatchNorm2d(8), nn.Mish())
    fuse_norms(block)
    # what the input itself has lost: 1000 + 1e-4
    torch.testing.assert_close(block(inputs).double(), expected, rtol=1e-4, atol=2e-7 * mean)


@needs_library
@pytest.mark.parametrize("order", ["norm first", "mish first"])
def test_bfloat16_differs_from_float32_by_its_rounding_only(order):
    torch.manual_seed(0)
    fused = build_block(16, order)
    fuse_norms(fused)
    inputs = torch.randn(2, 16, 9, 7).bfloat16()
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        model, x = copy.deepcopy(fused), inputs.to(dtype).requires_grad_()
        outputs = model(x)
        assert outputs.dtype == dtype
        outputs.float().square().sum().backward()
        results.append((outputs.detach().float(), x.grad.float()))
    torch.testing.assert_close(results[1], results[0], rtol=0.02, atol=0.1)


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_a_number_stays_visible(dtype):
    x = torch.zeros(1, 4, 3, 3, dtype=dtype)
    x[0, 1, 2, 2] = float("nan")
    assert FastMish()(x).isnan().sum() == 1
    assert NormMish(4)(x)[:, 1].isnan().all()
