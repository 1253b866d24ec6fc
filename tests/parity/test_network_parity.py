"""Our network against the released one: stored logits, and the library it was built from."""

import csv

import numpy as np
import pytest
import torch
from released_network import LibraryFormer
from safetensors.torch import load_file
from torch import nn

from mediar_infer.network.architecture import ENCODERS, Architecture
from mediar_infer.network.model import STRIDE, MediarFormer

TOLERANCE = 1e-4
"""Float32 logits of size 1 on the CPU; measured 2e-5."""
SMALL_DECODER = ((64, 32, 16, 16, 16), 16)
N_MISH = 22
N_PARAMETERS = 121_303_587


def released_entries(golden_dir):
    """Entry name → shape of the released size."""
    with (golden_dir / "state_dict_mit_b5.csv").open(newline="") as file:
        return {
            row["key"]: tuple(int(side) for side in row["shape"].split("x") if side)
            for row in csv.DictReader(file)
        }


@pytest.fixture(scope="module")
def released_size():
    with torch.device("meta"):
        return MediarFormer(Architecture(*ENCODERS["mit_b5"]))


def test_entries_are_those_of_the_released_size_and_no_more(golden_dir, released_size):
    ours = {name: tuple(tensor.shape) for name, tensor in released_size.state_dict().items()}
    assert ours == released_entries(golden_dir)
    assert len(ours) == 1198


def test_released_size_has_the_released_number_of_parameters(released_size):
    assert sum(parameter.numel() for parameter in released_size.parameters()) == N_PARAMETERS


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("member", ["a", "b"])
def test_logits_equal_the_released_ones(parity_dir, member, memory_format):
    model = MediarFormer(Architecture(*ENCODERS["mit_b0"], *SMALL_DECODER)).eval()
    weights = load_file(parity_dir / f"former_mit_b0_{member}.safetensors")
    model.load_state_dict(weights, strict=True)
    model.to(memory_format=memory_format)
    with np.load(parity_dir / "forward.npz") as golden, torch.inference_mode():
        found = model(torch.from_numpy(golden["x"])).numpy()
        np.testing.assert_allclose(found, golden[f"logits_{member}"], rtol=0, atol=TOLERANCE)


def shake_statistics(model):
    """Give every BatchNorm statistics and factors of its own, so that none can be mixed up."""
    generator = torch.Generator().manual_seed(7)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            shape = module.running_mean.shape
            module.running_mean.copy_(torch.randn(shape, generator=generator) / 4)
            module.running_var.copy_(torch.rand(shape, generator=generator) + 0.5)
            module.weight.data.copy_(torch.rand(shape, generator=generator) + 0.5)
            module.bias.data.copy_(torch.randn(shape, generator=generator) / 4)


@pytest.mark.parametrize(
    ("encoder_name", "size"), [("mit_b0", (96, 128)), ("mit_b2", (32, 96)), ("mit_b5", (64, 64))]
)
def test_logits_equal_those_of_the_library(encoder_name, size):
    pytest.importorskip("segmentation_models_pytorch", reason="extra: training")
    torch.manual_seed(1)
    theirs = LibraryFormer(encoder_name, *SMALL_DECODER).eval()
    assert theirs.n_mish == N_MISH
    shake_statistics(theirs)
    with torch.device("meta"):
        ours = MediarFormer(Architecture(*ENCODERS[encoder_name], *SMALL_DECODER)).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    inputs = torch.rand(2, 3, *size)
    assert all(side % STRIDE == 0 for side in size)
    with torch.inference_mode():
        expected, found = theirs(inputs), ours(inputs)
    assert expected.std() > 0.05
    assert ours.architecture.name == encoder_name
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
