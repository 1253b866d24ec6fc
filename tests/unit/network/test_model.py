"""Properties of the network that need no trained weights."""

import pytest
import torch
from fakes import TINY, tiny_state_dict

from mediar_infer.network.architecture import ENCODERS, Architecture
from mediar_infer.network.model import STRIDE, MediarFormer


@pytest.fixture
def model():
    network = MediarFormer(TINY)
    network.load_state_dict(tiny_state_dict())
    return network.eval()


def inputs_of(n, height, width):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (160, 32)])
def test_maps_have_the_size_of_the_input(model, size):
    with torch.inference_mode():
        assert model(inputs_of(2, *size)).shape == (2, 3, *size)


def test_windows_of_a_batch_do_not_see_each_other(model):
    # The softmax over all pairs of positions must not run over the batch.
    batch = inputs_of(3, 64, 64)
    with torch.inference_mode():
        together = model(batch)
        alone = torch.cat([model(window[None]) for window in batch])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_input_is_not_modified(model):
    batch = inputs_of(1, 64, 64)
    before = batch.clone()
    with torch.inference_mode():
        model(batch)
    assert torch.equal(batch, before)


def test_memory_format_does_not_change_the_result(model):
    batch = inputs_of(2, 64, 64)
    with torch.inference_mode():
        expected = model(batch)
        channels_last = model.to(memory_format=torch.channels_last)
        found = channels_last(batch.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_position_attention_is_computed_in_float32_under_autocast(model, dtype):
    # For a 512 window the mean softmax value is 1.5e-5: below the normal range of float16.
    attention = model.decoder.center
    features = torch.randn(1, 32, 16, 16, generator=torch.Generator().manual_seed(0)) / 64
    seen = {}
    for name in ("center_conv", "top_conv", "bottom_conv"):
        attention.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.update({name: output})
        )
    attention.out_conv.register_forward_pre_hook(lambda _, inputs: seen.update(sum=inputs[0]))
    with torch.inference_mode(), torch.autocast("cpu", dtype):
        attention(features)
    assert seen["top_conv"].dtype == dtype
    query, key, value = (
        seen[name].double().flatten(2) for name in ("center_conv", "top_conv", "bottom_conv")
    )
    weights = (query.mT @ key).flatten().softmax(0).view(256, 256)
    expected = (weights @ value[0].mT).reshape(features.shape)
    found = seen["sum"] - features
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_stochastic_depth_acts_in_training_only():
    torch.manual_seed(0)
    network = MediarFormer(Architecture((8, 16, 20, 32), (1, 1, 1, 4), (16, 16, 8, 8, 8), 8), 0.9)
    batch = inputs_of(1, 32, 32)
    with torch.no_grad():
        network.eval()
        assert torch.equal(network(batch), network(batch))
        network.encoder.train()
        assert not torch.equal(network(batch), network(batch))


def test_encoder_gives_four_scales(model):
    with torch.inference_mode():
        shapes = [tuple(feature.shape[1:]) for feature in model.encoder(inputs_of(1, 64, 96))]
    assert shapes == [(8, 16, 24), (16, 8, 12), (20, 4, 6), (32, 2, 3)]
    assert STRIDE == 32


def test_gradients_reach_every_parameter():
    network = MediarFormer(TINY).train()
    network(inputs_of(2, 64, 64)).square().mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize("name", list(ENCODERS))
def test_published_encoders_are_known_by_name(name):
    assert Architecture(*ENCODERS[name]).name == name
    assert TINY.name == "custom"
