"""ImageNet encoders: files of the library, put into our network under our names."""

import pytest
import torch
from fakes import TINY
from safetensors.torch import save_file

from mediar_infer.errors import CheckpointError
from mediar_infer.network.architecture import ENCODERS, Architecture
from mediar_infer.network.model import MediarFormer
from mediar_infer.training.networks.encoders import load_encoder

smp = pytest.importorskip("segmentation_models_pytorch", reason="extra: training")
SMALL = Architecture(*ENCODERS["mit_b0"], (16, 16, 8, 8, 8), 8)


@pytest.fixture(scope="module")
def library_encoder():
    torch.manual_seed(0)
    return smp.encoders.get_encoder("mit_b0", weights=None).eval()


@pytest.mark.parametrize("prefix", ["", "module.", "encoder."])
def test_file_of_the_library_gives_its_features(tmp_path, library_encoder, prefix):
    path = tmp_path / "mit_b0.safetensors"
    state = {prefix + name: value for name, value in library_encoder.state_dict().items()}
    # the classifier of the published files
    state |= {prefix + "head.weight": torch.zeros(1000, 256), prefix + "head.bias": torch.zeros(1)}
    save_file(state, path)
    model = MediarFormer(SMALL).eval()
    load_encoder(model, "mit_b0", str(path))
    inputs = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        ours, theirs = model.encoder(inputs), library_encoder(inputs)[2:]
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_pickled_file_with_a_state_dict_inside_is_read(tmp_path, library_encoder):
    path = tmp_path / "mit_b0.pth"
    torch.save({"state_dict": library_encoder.state_dict()}, path)
    model = MediarFormer(SMALL)
    load_encoder(model, "mit_b0", str(path))
    name = "patch_embed1.proj.weight"
    assert torch.equal(model.encoder.get_parameter(name), library_encoder.state_dict()[name])


def test_encoder_of_another_size_is_refused_with_its_shapes(tmp_path, library_encoder):
    path = tmp_path / "mit_b0.pth"
    torch.save(library_encoder.state_dict(), path)
    with pytest.raises(CheckpointError, match=r"shapes .*\(32, 3, 7, 7\) for \(8, 3, 7, 7\)"):
        load_encoder(MediarFormer(TINY), "mit_b0", str(path))


def test_missing_and_damaged_files_are_named(tmp_path):
    path = tmp_path / "none.pth"
    with pytest.raises(CheckpointError, match="found no such file"):
        load_encoder(MediarFormer(SMALL), "mit_b0", str(path))
    path.write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"none\.pth: cannot be read"):
        load_encoder(MediarFormer(SMALL), "mit_b0", str(path))


def test_download_gives_what_the_library_gives(monkeypatch, library_encoder):
    asked = []

    def get_encoder(name, weights):
        asked.append((name, weights))
        return library_encoder

    monkeypatch.setattr(smp.encoders, "get_encoder", get_encoder)
    model = MediarFormer(SMALL)
    load_encoder(model, "mit_b0", "imagenet")
    assert asked == [("mit_b0", "imagenet")]
    for name, value in library_encoder.state_dict().items():
        assert torch.equal(model.state_dict()[f"encoder.{name}"], value)


def test_without_a_network_the_error_says_what_to_do(monkeypatch):
    def get_encoder(name, weights):
        raise OSError("no route")

    monkeypatch.setattr(smp.encoders, "get_encoder", get_encoder)
    with pytest.raises(CheckpointError, match=r"cannot be downloaded \(no route\).*name a file"):
        load_encoder(MediarFormer(SMALL), "mit_b0", "imagenet")
