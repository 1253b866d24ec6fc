"""Ranges of an int8 network: read whole and for these weights only, and applied to the graph."""

import json
import re
import shutil
import warnings

import numpy as np
import pytest
from fakes import TINY, tiny_state_dict
from folder_helpers import ROOT

from mediar_infer.commands import weights as weights_command
from mediar_infer.config import EngineConfig, Plan, RuntimeConfig
from mediar_infer.demo.scenes import make_scene
from mediar_infer.devices import CPU, Device, select_precision
from mediar_infer.errors import CheckpointError, UsageError
from mediar_infer.network.backends.openvino_export import export_graph
from mediar_infer.network.backends.openvino_graph import (
    has_bfloat16,
    read_graph,
    round_to_int8,
)
from mediar_infer.network.checkpoints import find_graph_of, load_checkpoint, save_weights
from mediar_infer.network.int8_ranges import (
    Int8Ranges,
    ranges_path,
    read_ranges,
    require_ranges,
    write_ranges,
)
from mediar_infer.network.weight_files import (
    ListedWeights,
    compute_digest,
    read_weights_manifest,
    write_weights_manifest,
)
from mediar_infer.segmenter import Segmenter

# What is not in int8 differs between CPUs, so ledgers and --resume must tell them apart.
INT8 = "int8+bfloat16" if has_bfloat16() else "int8"
ROI = 64
PLAN = Plan("custom", 1, ("identity",), 0.25)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny network with a graph for small windows, and ranges of two of its layers."""
    folder = tmp_path_factory.mktemp("made")
    save_weights(tiny_state_dict(), folder / "tiny.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export warns of its own future changes
        export_graph(TINY, ROI, folder)
    checkpoint = load_checkpoint(folder / "tiny.safetensors")
    write_ranges(checkpoint, bounds_of_all(checkpoint))
    return folder


def bounds_of_all(checkpoint):
    """Ranges of every convolution that has its weights as they are stored."""
    graph = read_graph(checkpoint, find_graph_of(checkpoint, ROI))
    bounds = {}
    for layer in graph.get_ops():
        if layer.get_type_name() != "Convolution":
            continue
        kernel = layer.input_value(1).get_node()
        if kernel.get_type_name() == "Constant":
            largest = np.abs(kernel.get_data()).max(axis=(1, 2, 3), keepdims=True)
            name = layer.get_friendly_name()
            bounds[f"{name}:1"] = np.stack([-largest, largest]).astype(np.float32)
            bounds[f"{name}:0"] = np.array([-16, 16], np.float32)
    assert len(bounds) > 20
    return bounds


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "weights")


@pytest.fixture
def checkpoint(folder):
    return load_checkpoint(folder / "tiny.safetensors")


def segmenter(folder, precision, **runtime):
    runtime = RuntimeConfig(device="cpu", precision=precision, threads=1, **runtime)
    config = EngineConfig(plan=PLAN, runtime=runtime, roi_size=ROI)
    return Segmenter.from_weights(folder, config)


def test_ranges_come_back_as_they_were_written(checkpoint):
    expected = bounds_of_all(checkpoint)
    ranges = read_ranges(checkpoint)
    assert ranges.path == checkpoint.path.with_suffix(".int8") == ranges_path(checkpoint.path)
    assert ranges.digest == compute_digest(ranges.path)
    assert ranges.bounds.keys() == expected.keys()
    for name, bounds in expected.items():
        np.testing.assert_array_equal(ranges.bounds[name], bounds)
    assert ranges.n_layers == len(expected) // 2


def test_int8_is_near_float32_and_not_the_same(folder):
    image = np.random.default_rng(0).integers(0, 255, (100, 90, 3), np.uint8)
    exact, rounded = segmenter(folder, "float32"), segmenter(folder, "int8")
    [member] = rounded.members
    assert (member.name, member.precision) == ("openvino", INT8)
    assert rounded.segment(image).labels.shape == (100, 90)
    windows = np.random.default_rng(0).random((3, 3, ROI, ROI), np.float32)
    expected, found = (each.members[0].start(windows)() for each in (exact, rounded))
    difference = np.abs(found - expected)
    assert 0 < difference.mean() <= 0.1 * np.abs(expected).mean()


@pytest.mark.parametrize("name", ["from_phase1", "from_phase2"])
def test_int8_of_the_shipped_pair_is_near_float32(name):
    # Real layers: with AMX, OpenVINO computes large kernels wrongly in int8, and no others.
    scene, _ = make_scene("stained", 512, 512, seed=0)
    window = (scene.transpose(2, 0, 1)[None] / 255).astype(np.float32)
    path = ROOT / "weights" / f"{name}.safetensors"
    logits = {}
    for precision in ("float32", "int8"):
        config = EngineConfig(plan=PLAN, runtime=RuntimeConfig(device="cpu", precision=precision))
        [member] = Segmenter.from_weights([path], config).members
        logits[precision] = member.start(window)()
    flow_y, flow_x, cellprob = np.abs(logits["int8"] - logits["float32"])[0].mean(axis=(1, 2))
    assert max(flow_y, flow_x) <= 0.04
    assert cellprob <= 0.3


def test_windows_of_a_batch_keep_their_order(folder):
    [member] = segmenter(folder, "int8").members
    windows = np.random.default_rng(1).random((5, 3, ROI, ROI), np.float32)
    one_by_one = np.concatenate([member.start(window[None])() for window in windows])
    np.testing.assert_array_equal(member.start(windows)(), one_by_one)


def test_ranges_have_a_digest_of_their_own_in_ledgers(folder):
    digests = segmenter(folder, "int8").digests
    assert digests == {
        name: compute_digest(folder / name) for name in ("tiny.safetensors", "tiny.int8")
    }
    assert list(segmenter(folder, "float32").digests) == ["tiny.safetensors"]


def test_weights_without_ranges_are_refused_with_the_command_that_makes_them(folder):
    (folder / "tiny.int8").unlink()
    expected = r"tiny\.safetensors: found no tiny\.int8 .*training quantize .*--table"
    with pytest.raises(CheckpointError, match=expected):
        segmenter(folder, "int8")
    with pytest.raises(CheckpointError, match=expected):
        require_ranges(folder / "tiny.safetensors")
    assert segmenter(folder, "auto").members[0].precision == "float32"


def test_ranges_of_other_weights_are_refused(folder):
    save_weights(tiny_state_dict(1), folder / "tiny.safetensors")
    with pytest.raises(CheckpointError, match=r"tiny\.int8: found ranges for weights of SHA-256"):
        segmenter(folder, "int8")


@pytest.mark.parametrize("cut", [0, 3, 100, -1])
def test_damaged_ranges_name_the_file_and_the_remedy(folder, cut):
    path = folder / "tiny.int8"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"tiny\.int8: cannot be read.*training quantize"):
        segmenter(folder, "int8")


@pytest.mark.parametrize(
    ("bounds", "found"),
    [
        ({}, "no ranges"),
        ({"a:0": np.array([1, 1], np.float32)}, "a:0 without a range"),
        ({"a:0": np.array([0, np.nan], np.float32)}, "a:0 without a range"),
        ({"a:0": np.array([0, 1, 2], np.float32)}, "a:0 without a range"),
        ({"a:0": np.array([0, 1])}, "a:0 without a range"),
        ({"a:0": np.float32(1).reshape(())}, "a:0 without a range"),
    ],
)
def test_ranges_that_are_none_are_refused(checkpoint, bounds, found):
    write_ranges(checkpoint, bounds)
    with pytest.raises(CheckpointError, match=rf"tiny\.int8: found {found}, expected finite"):
        read_ranges(checkpoint)


@pytest.mark.parametrize("place", ["nowhere:0", "nowhere", "convolution:7", "convolution:x"])
def test_ranges_of_another_graph_are_refused(checkpoint, place):
    graph = read_graph(checkpoint, find_graph_of(checkpoint, ROI))
    [name, *_] = (name for name in bounds_of_all(checkpoint) if name.startswith("convolution/"))
    place = place.replace("convolution", name.partition(":")[0])
    ranges = Int8Ranges(ranges_path(checkpoint.path), "", {place: np.zeros(2, np.float32)})
    with pytest.raises(CheckpointError, match=rf"found a range for '{re.escape(place)}'.*again"):
        round_to_int8(graph, ranges)


def test_ranges_that_do_not_broadcast_are_refused(checkpoint):
    bounds = {name: np.stack([np.zeros(77), np.ones(77)]) for name in bounds_of_all(checkpoint)}
    bounds = {name: values.astype(np.float32) for name, values in bounds.items()}
    graph = read_graph(checkpoint, find_graph_of(checkpoint, ROI))
    with pytest.raises(CheckpointError, match=r"found a range for .*which the graph does not have"):
        round_to_int8(graph, Int8Ranges(ranges_path(checkpoint.path), "", bounds))


def test_altered_ranges_are_refused_by_the_manifest(folder, checkpoint):
    digest = compute_digest(folder / "tiny.int8")
    listed = {"tiny.safetensors": ListedWeights(checkpoint.digest, 30.0, digest)}
    write_weights_manifest(folder, listed)
    assert read_weights_manifest(folder) == listed
    assert segmenter(folder, "int8").members[0].precision == INT8
    bounds = {name: 2 * values for name, values in bounds_of_all(checkpoint).items()}
    write_ranges(checkpoint, bounds)
    expected = r"tiny\.int8: found SHA-256 .*, expected .* of manifest\.json.*training quantize"
    with pytest.raises(CheckpointError, match=expected):
        segmenter(folder, "int8")
    assert segmenter(folder, "float32").members  # which does not use them


def test_a_manifest_without_ranges_stays_as_it_was(folder, checkpoint):
    write_weights_manifest(folder, {"tiny.safetensors": ListedWeights(checkpoint.digest)})
    assert json.loads((folder / "manifest.json").read_text()) == {
        "files": {"tiny.safetensors": {"sha256": checkpoint.digest}}
    }


def test_int8_without_a_graph_is_refused(folder):
    for path in folder.glob("graph_*"):
        path.unlink()
    with pytest.raises(UsageError, match=r"--precision int8 needs a CPU.*graph_.*weights graph"):
        segmenter(folder, "int8")


def test_int8_is_for_cpus_and_openvino():
    assert select_precision("int8", CPU) == "int8"
    with pytest.raises(UsageError, match="found device cuda:0, expected a CPU"):
        select_precision("int8", Device("cuda", 0))
    with pytest.raises(UsageError, match="found precision int8 for torch, expected OpenVINO"):
        RuntimeConfig(precision="int8", backend="torch")


def test_weights_are_listed_and_verified_with_their_ranges(folder, checkpoint, capsys):
    import argparse

    for action in ("list", "verify"):
        assert weights_command.run(argparse.Namespace(action=action, paths=[folder])) == 0
        shown = capsys.readouterr().out
        assert "  int8: tiny.int8, " in shown
        assert read_ranges(checkpoint).digest in shown
    assert "ranges for int8 fit" in shown
    (folder / "tiny.int8").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"tiny\.int8: cannot be read"):
        weights_command.run(argparse.Namespace(action="list", paths=[folder]))
