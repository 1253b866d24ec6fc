"""The compared networks: shapes, sizes, gradients and errors."""

import pytest
import torch
from fakes import TINY

from mediar_infer.errors import UsageError
from mediar_infer.network.architecture import ENCODERS, Architecture
from mediar_infer.network.model import MediarFormer
from mediar_infer.training.networks.build import (
    NETWORKS,
    build_network,
    pool_features,
    window_size,
)

PAPER = Architecture(*ENCODERS["mit_b5"])


def build(name, **options):
    if name in ("unetr", "swin_unetr"):
        pytest.importorskip("einops", reason="MONAI's transformers need einops")
    torch.manual_seed(0)
    return build_network(name, TINY, **options)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_gives_three_maps_of_the_input_size(name):
    network = build(name, crop_size=64).eval()
    with torch.inference_mode():
        assert network(torch.rand(2, 3, 64, 64)).shape == (2, 3, 64, 64)


def test_only_unetr_is_bound_to_the_windows_that_it_was_trained_on():
    assert window_size(build("mediar_former", crop_size=64)) == 512
    assert window_size(build("unetr", crop_size=64)) == 64


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_reach_every_trained_parameter(name):
    network = build(name, crop_size=64).train()
    network(torch.rand(2, 3, 64, 64)).square().mean().backward()
    without = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_default_network_is_the_engines():
    assert isinstance(build("mediar_former"), MediarFormer)


def test_one_head_predicts_all_maps_from_one_convolution():
    network, former = build("mediar_former_one_head"), build("mediar_former")
    shared = {n for n in former.state_dict() if n.startswith(("encoder.", "decoder."))}
    assert network.state_dict().keys() - shared == {"head.weight", "head.bias"}
    assert network.head.weight.shape == (3, TINY.decoder_channels[-1], 3, 3)


def test_encoder_weights_fit_both_forms_of_the_former():
    network, former = build("mediar_former_one_head"), build("mediar_former")
    network.encoder.load_state_dict(former.encoder.state_dict(), strict=True)


def test_compared_networks_have_published_sizes_beside_the_papers_encoder():
    with torch.device("meta"):
        network = build_network("unet", PAPER)
    widths = {p.shape[0] for n, p in network.named_parameters() if n.endswith("conv.weight")}
    assert {16, 32, 64, 128, 256} <= widths


def test_smaller_encoder_narrows_the_compared_networks():
    small = sum(p.numel() for p in build("unet").parameters())
    with torch.device("meta"):
        full = sum(p.numel() for p in build_network("unet", PAPER).parameters())
    assert small < full / 10


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(UsageError, match=r"'vnet', expected one of mediar_former, .*swin_unetr"):
        build_network("vnet", TINY)


@pytest.mark.parametrize("crop_size", [32, 100])
def test_crop_that_does_not_fit_is_refused(crop_size):
    with pytest.raises(UsageError, match=f"crops of {crop_size} pixels"):
        build_network("unet", TINY, crop_size=crop_size)


def test_missing_package_is_named_with_its_cure(monkeypatch):
    from monai.networks.nets import swin_unetr
    from monai.utils import optional_import

    missing, _ = optional_import("no_such_package", name="rearrange")
    monkeypatch.setattr(swin_unetr, "rearrange", missing)

    def fail(*_args, **_kwargs):
        return missing(1)

    monkeypatch.setattr("monai.networks.nets.SwinUNETR", fail)
    with pytest.raises(UsageError, match=r"swin_unetr: .*no_such_package.*\[training\]"):
        build_network("swin_unetr", TINY)


def test_pooled_features_leave_padding_out():
    network = build("mediar_former").eval()
    inputs, weights = torch.rand(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
    weights[..., :32, :32] = 1
    with torch.inference_mode():
        pooled = pool_features(network, inputs, weights)
        features = network.encoder(inputs)
    corners = [f[..., : f.shape[2] // 2, : f.shape[3] // 2].mean((2, 3)) for f in features]
    torch.testing.assert_close(pooled, torch.cat(corners, 1))


def test_pooled_features_of_a_whole_image_are_the_means_of_all_stages():
    network = build("mediar_former").eval()
    inputs = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        pooled = pool_features(network, inputs, torch.ones(2, 1, 64, 96))
        expected = torch.cat([f.mean((2, 3)) for f in network.encoder(inputs)], 1)
    torch.testing.assert_close(pooled, expected)


def test_embeddings_need_a_former():
    with pytest.raises(UsageError, match="whose encoder gives the embeddings"):
        pool_features(build("unet"), torch.rand(1, 3, 64, 64), torch.ones(1, 1, 64, 64))
