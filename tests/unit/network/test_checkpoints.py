"""Weight files: which are found, which are refused and why, and that good ones load as they are."""

import os
import pickle
import warnings

import pytest
import torch
from fakes import TINY, tiny_state_dict
from safetensors.torch import load_file, save_file

from mediar_infer.errors import CheckpointError, OutputError
from mediar_infer.network import checkpoints
from mediar_infer.network.architecture import ENCODERS, Architecture
from mediar_infer.network.checkpoints import build_model, load_checkpoint, save_weights
from mediar_infer.network.model import MediarFormer
from mediar_infer.network.weight_files import (
    ListedWeights,
    compute_digest,
    find_weights,
    write_weights_manifest,
)


@pytest.fixture(scope="module")
def tiny():
    return tiny_state_dict()


@pytest.fixture
def weights(tmp_path, tiny):
    """One good safetensors file."""
    path = tmp_path / "a.safetensors"
    save_weights(tiny, path)
    return path


def touch(folder, *names):
    for name in names:
        (folder / name).write_bytes(b"")
    return [folder / name for name in names]


# Good files


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_pickled_state_dict_loads_as_it_is(tmp_path, tiny, suffix):
    path = tmp_path / f"model{suffix}"
    torch.save(tiny, path)
    checkpoint = load_checkpoint(path)
    assert checkpoint.architecture == TINY
    assert checkpoint.digest == compute_digest(path)
    for name, tensor in build_model(checkpoint).state_dict().items():
        assert torch.equal(tensor, tiny[name]), name


def test_state_dict_of_the_old_pickle_format_loads(tmp_path, tiny):
    path = tmp_path / "old.pth"
    torch.save(tiny, path, _use_new_zipfile_serialization=False)
    assert load_checkpoint(path).architecture == TINY


def test_half_precision_weights_become_a_float32_network(weights, tiny):
    stored = load_file(weights)
    assert {t.dtype for t in stored.values()} == {torch.float16, torch.int64}
    model = build_model(load_checkpoint(weights))
    assert not model.training
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == tiny[name].dtype
        expected = tiny[name].half().float() if tensor.is_floating_point() else tiny[name]
        assert torch.equal(tensor, expected)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_loaded_network_predicts_what_the_saved_one_does(tmp_path, tiny):
    torch.save(tiny, tmp_path / "a.pth")
    model = MediarFormer(TINY).eval()
    model.load_state_dict(tiny)
    inputs = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        found = build_model(load_checkpoint(tmp_path / "a.pth"))(inputs)
        torch.testing.assert_close(found, model(inputs), rtol=0, atol=0)


def test_parameters_are_counted_without_statistics(weights):
    expected = sum(parameter.numel() for parameter in MediarFormer(TINY).parameters())
    assert load_checkpoint(weights).n_parameters == expected


@pytest.mark.parametrize("name", list(ENCODERS))
def test_architecture_of_every_encoder_is_read_from_its_shapes(name):
    architecture = Architecture(*ENCODERS[name], (96, 64, 48, 32, 16), 24)
    with torch.device("meta"):
        entries = MediarFormer(architecture).state_dict()
    assert checkpoints.read_architecture(entries) == architecture
    assert checkpoints.read_architecture(entries).name == name


def test_unusual_sizes_are_read_from_their_shapes():
    architecture = Architecture(
        (8, 16, 20, 32), (1, 2, 3, 1), (16, 16, 8, 8, 8), 8, reductions=(4, 2, 1, 1), mlp_ratio=2
    )
    with torch.device("meta"):
        entries = MediarFormer(architecture).state_dict()
    assert checkpoints.read_architecture(entries) == architecture
    assert architecture.name == "custom"


def test_full_size_published_pair_loads(tmp_path):
    architecture = Architecture(*ENCODERS["mit_b5"])
    for stem in ("from_phase1", "from_phase2"):
        torch.save(MediarFormer(architecture).state_dict(), tmp_path / f"{stem}.pth")
    paths = find_weights([tmp_path])
    assert [path.stem for path in paths] == ["from_phase1", "from_phase2"]
    for path in paths:
        checkpoint = load_checkpoint(path)
        assert checkpoint.architecture == architecture
        assert checkpoint.n_parameters == 121_303_587
        assert build_model(checkpoint).architecture.name == "mit_b5"
        path.unlink()  # half a gigabyte each


# Bad files


def test_missing_file_is_refused_with_what_lies_beside_it(tmp_path, weights):
    with pytest.raises(CheckpointError, match=r"b\.pth: there is no such.*beside it: a\.safet"):
        find_weights([tmp_path / "b.pth"])
    with pytest.raises(CheckpointError, match=r"b\.pth: cannot be read \(No such file"):
        load_checkpoint(tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="beside it: none"):
        find_weights([tmp_path / "nowhere" / "b.pth"])


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_empty_file_is_refused(tmp_path, suffix):
    [path] = touch(tmp_path, f"a{suffix}")
    with pytest.raises(CheckpointError, match=r"a\.\w+: found an empty file.*fetch it again"):
        load_checkpoint(path)


@pytest.mark.parametrize("kept", [0.0005, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_file_is_refused_as_damaged(tmp_path, tiny, suffix, kept):
    path = tmp_path / f"a{suffix}"
    if suffix == ".pth":
        torch.save(tiny, path)
    else:
        save_weights(tiny, path)
    data = path.read_bytes()
    path.write_bytes(data[: max(1, int(kept * len(data)))])
    with pytest.raises(CheckpointError, match=r"a\.\w+: .*damaged.*fetch it again"):
        load_checkpoint(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("data", [b"not weights at all\n" * 50, bytes(5000), b"\x89PNG\r\n\x1a\n"])
def test_file_of_another_kind_is_refused(tmp_path, suffix, data):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"a\.\w+: "):
        load_checkpoint(path)


def test_flipped_bytes_are_found_by_the_manifest(weights):
    write_weights_manifest(weights.parent, {weights.name: ListedWeights(compute_digest(weights))})
    load_checkpoint(weights)
    data = bytearray(weights.read_bytes())
    data[-1000] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"found SHA-256 \w{16}….*damaged or was swapped"):
        load_checkpoint(weights)


def test_files_that_changed_places_are_found_by_the_manifest(tmp_path):
    listed = {}
    for seed, name in enumerate(("a.safetensors", "b.safetensors")):
        save_weights(tiny_state_dict(seed), tmp_path / name)
        listed[name] = ListedWeights(compute_digest(tmp_path / name))
    write_weights_manifest(tmp_path, listed)
    assert [path.name for path in find_weights([tmp_path])] == list(listed)
    (tmp_path / "a.safetensors").rename(tmp_path / "c.safetensors")
    (tmp_path / "b.safetensors").rename(tmp_path / "a.safetensors")
    (tmp_path / "c.safetensors").rename(tmp_path / "b.safetensors")
    for name in listed:
        with pytest.raises(CheckpointError, match="swapped"):
            load_checkpoint(tmp_path / name)


def resnet_like():
    return {
        "conv1.weight": torch.zeros(64, 3, 7, 7),
        "bn1.weight": torch.zeros(64),
        "layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3),
        "fc.weight": torch.zeros(10, 512),
    }


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_state_dict_of_another_network_is_refused_with_its_names(tmp_path, suffix):
    path = tmp_path / f"resnet{suffix}"
    torch.save(resnet_like(), path) if suffix == ".pth" else save_file(resnet_like(), path)
    listed = r"found 4 entries \([^…]*conv1\.weight[^…]*\) without .*MEDIAR-Former"
    with pytest.raises(CheckpointError, match=listed):
        load_checkpoint(path)


def test_empty_state_dict_is_refused(tmp_path):
    torch.save({}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="found 0 entries"):
        load_checkpoint(tmp_path / "a.pth")


# Saved with other things


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_training_checkpoint_gives_the_network_in_it(tmp_path, tiny, key, prefix):
    network = {prefix + name: tensor for name, tensor in tiny.items()}
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4}]}
    content = {"epoch": 3, key: network, "optimizer": optimizer, "best": 0.8, "losses": {}}
    torch.save(content, tmp_path / "a.pth")
    checkpoint = load_checkpoint(tmp_path / "a.pth")
    assert checkpoint.architecture == TINY
    for name, tensor in build_model(checkpoint).state_dict().items():
        assert torch.equal(tensor, tiny[name]), name


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_prefix_of_all_names_is_removed(tmp_path, tiny, suffix):
    network = {f"module.{name}": tensor for name, tensor in tiny.items()}
    path = tmp_path / f"a{suffix}"
    torch.save(network, path) if suffix == ".pth" else save_file(network, path)
    assert load_checkpoint(path).entries.keys() == tiny.keys()


def test_prefix_of_some_names_is_refused(tmp_path, tiny):
    network = {f"module.{name}": tensor for name, tensor in tiny.items()}
    torch.save(network | {"criterion.weight": torch.ones(2)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"module\.encoder.*MEDIAR-Former"):
        load_checkpoint(tmp_path / "a.pth")


def test_checkpoint_with_two_networks_is_refused_with_their_names(tmp_path, tiny):
    torch.save({"epoch": 3, "model": tiny, "ema": tiny}, tmp_path / "a.pth")
    pattern = r"keys: epoch, model, ema; .*under 'model', 'ema'\), expected one; save model"
    with pytest.raises(CheckpointError, match=pattern):
        load_checkpoint(tmp_path / "a.pth")


def test_checkpoint_of_another_network_is_refused_with_its_keys(tmp_path):
    torch.save({"state_dict": resnet_like(), "epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"keys: state_dict, epoch; .*: none\), expected"):
        load_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("content", [[1, 2], 7, "text", torch.zeros(3)])
def test_content_that_is_no_dictionary_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"found (list|int|str|Tensor), .*plain state dict"):
        load_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"<!DOCTYPE html>\n<html><head>",
            "a web page, expected weights; download the",
        ),
        (b"\n  <html lang='en'>", "a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "pointer.*git lfs pull"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_a_download_leaves_in_place_of_weights_is_named(tmp_path, content, message, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"a\{suffix}: found .*{message}"):
        load_checkpoint(path)


# Values that are not what they seem


def test_tensor_larger_than_its_stored_values_is_refused(tmp_path, tiny):
    name = "decoder.center.out_conv.weight"
    huge = torch.zeros(1).expand(200_000, 200_000)
    torch.save({**tiny, name: huge}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=rf"\(200000, 200000\) in {name} with 1 stored"):
        load_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_that_are_no_floats_are_refused(tmp_path, tiny, suffix, dtype):
    name, path = "decoder.center.out_conv.weight", tmp_path / f"a{suffix}"
    network = {**tiny, name: tiny[name].to(dtype)}
    torch.save(network, path) if suffix == ".pth" else save_file(network, path)
    with pytest.raises(CheckpointError, match=rf"1 of wrong type \({name} \w+ instead of float"):
        load_checkpoint(path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_of_any_float_type_load(tmp_path, tiny, suffix, dtype):
    network = {n: t.to(dtype) if t.is_floating_point() else t for n, t in tiny.items()}
    path = tmp_path / f"a{suffix}"
    torch.save(network, path) if suffix == ".pth" else save_file(network, path)
    model = build_model(load_checkpoint(path))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, network[name].to(tensor.dtype)), name


@pytest.mark.parametrize("name", ["encoder.block1.999999999.q.bias", "decoder.blocks.99999999.a"])
def test_block_with_a_huge_number_is_unexpected(tmp_path, tiny, name):
    torch.save({**tiny, name: torch.zeros(8)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="MEDIAR-Former"):
        load_checkpoint(tmp_path / "a.pth")


# Code in place of values


class RunsCode:
    """Leaves a trace when it is unpickled the unsafe way."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_pickled_code_is_refused_and_not_run(tmp_path, writer):
    trace = tmp_path / "trace"
    content = {"encoder.weight": RunsCode(trace)}
    if writer == "torch":
        torch.save(content, tmp_path / "a.pth")
    else:
        (tmp_path / "a.pth").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(CheckpointError, match=r"a\.pth: .*could run code .*\.mkdir\)"):
        load_checkpoint(tmp_path / "a.pth")
    assert not trace.exists()


def test_whole_pickled_network_is_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(MediarFormer(TINY), tmp_path / "a.pth")
    with pytest.raises(
        CheckpointError, match=r"MediarFormer\); .*save\(model\.state_dict\(\), FILE\)"
    ):
        load_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, tiny, value):
    broken = dict(tiny)
    broken["decoder.center.out_conv.bias"] = broken["decoder.center.out_conv.bias"].clone()
    broken["decoder.center.out_conv.bias"][3] = value
    torch.save(broken, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"NaN or infinity in 1 entries \(decoder\.center"):
        load_checkpoint(tmp_path / "a.pth")


def test_negative_variances_are_refused(tmp_path, tiny):
    name = next(name for name in tiny if name.endswith("running_var"))
    torch.save({**tiny, name: -1 - tiny[name]}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=rf"negative variances in 1 entries \({name}\)"):
        load_checkpoint(tmp_path / "a.pth")


def test_missing_unexpected_and_misshapen_entries_are_listed(tmp_path, tiny):
    wrong = dict(tiny)
    del wrong["cellprob_head.0.bias"]
    wrong["aux_head.weight"] = torch.zeros(2)
    wrong["gradflow_head.3.weight"] = torch.zeros(4, 4, 3, 3)
    torch.save(wrong, tmp_path / "a.pth")
    pattern = (
        r"1 keys missing \(cellprob_head\.0\.bias\); 1 unexpected \(aux_head\.weight\); "
        r"1 of wrong shape \(gradflow_head\.3\.weight \(4, 4, 3, 3\) instead of \(2, 4, 3, 3\)\)"
    )
    with pytest.raises(CheckpointError, match=pattern):
        load_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "name",
    [
        "encoder.block1.0.mlp.fc1.weight",
        "encoder.patch_embed2.proj.weight",
        "decoder.center.top_conv.weight",
        "decoder.blocks.0.conv1.0.weight",
        "encoder.block2.0.attn.sr.weight",
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("shape", [None, (), (0,), (0, 0), (7, 5), (2, 2, 2, 2)])
def test_damaged_entry_that_tells_a_size_is_refused(tmp_path, tiny, name, shape):
    wrong = dict(tiny)
    if shape is None:
        del wrong[name]
    else:
        wrong[name] = torch.zeros(shape)
    torch.save(wrong, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: "):
        load_checkpoint(tmp_path / "a.pth")


def test_entries_that_are_not_named_by_text_are_refused(tmp_path, tiny):
    torch.save({**tiny, 0: torch.zeros(3)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="MEDIAR-Former"):
        load_checkpoint(tmp_path / "a.pth")


def test_encoder_alone_is_refused(tmp_path, tiny):
    encoder = {name: tensor for name, tensor in tiny.items() if name.startswith("encoder.")}
    torch.save(encoder, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="MEDIAR-Former"):
        load_checkpoint(tmp_path / "a.pth")


def test_folder_in_place_of_a_file_is_refused(tmp_path):
    (tmp_path / "a.pth").mkdir()
    with pytest.raises(CheckpointError, match=r"a\.pth: cannot be read"):
        load_checkpoint(tmp_path / "a.pth")


# Saving


def test_tensor_that_does_not_fit_float16_stays_float32(tmp_path, tiny):
    name = next(name for name in tiny if name.endswith("running_var"))
    large = {**tiny, name: torch.full_like(tiny[name], 1e6)}
    save_weights(large, tmp_path / "a.safetensors")
    stored = load_file(tmp_path / "a.safetensors")
    assert stored[name].dtype == torch.float32
    assert (stored[name] == 1e6).all()
    model = build_model(load_checkpoint(tmp_path / "a.safetensors"))
    assert (model.state_dict()[name] == 1e6).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weight_that_is_not_finite_is_refused_and_nothing_is_written(tmp_path, tiny, value):
    name = next(iter(tiny))
    with pytest.raises(CheckpointError, match=f"{name} is not finite"):
        save_weights({**tiny, name: torch.full_like(tiny[name], value)}, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_saving_makes_the_folder_and_keeps_the_tensors(tmp_path, tiny):
    before = {name: tensor.clone() for name, tensor in tiny.items()}
    save_weights(tiny, tmp_path / "deep" / "a.safetensors")
    assert load_checkpoint(tmp_path / "deep" / "a.safetensors").architecture == TINY
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny.items())


def test_channels_last_weights_are_saved(tmp_path):
    model = MediarFormer(TINY).to(memory_format=torch.channels_last)
    save_weights(model.state_dict(), tmp_path / "a.safetensors")
    assert load_checkpoint(tmp_path / "a.safetensors").architecture == TINY


def test_folder_that_cannot_be_written_is_an_output_error(tmp_path, tiny):
    touch(tmp_path, "file")
    with pytest.raises(OutputError, match="cannot be written"):
        save_weights(tiny, tmp_path / "file" / "a.safetensors")
