"""Calibration: which windows it sees, what it chooses to round, and what it leaves behind."""

import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
from fakes import TINY, tiny_state_dict
from small_data import save_image, save_labels

from mediar_infer.config import EngineConfig, Plan, RuntimeConfig
from mediar_infer.errors import CheckpointError, UsageError
from mediar_infer.network.backends.openvino_export import export_graph
from mediar_infer.network.checkpoints import load_checkpoint, save_weights
from mediar_infer.network.int8_ranges import read_ranges
from mediar_infer.network.weight_files import (
    ListedWeights,
    compute_digest,
    read_weights_manifest,
    write_weights_manifest,
)
from mediar_infer.segmenter import Segmenter
from mediar_infer.training import quantisation
from mediar_infer.training.__main__ import main
from mediar_infer.training.data.table import TrainingImage, write_table
from mediar_infer.training.quantisation import Calibration, choose_windows, quantise_weights

pytestmark = pytest.mark.usefixtures("keep_logging")

ROI = 64


def make_record(folder, name, modality, value, shape=(80, 90), split="train"):
    image = save_image(folder / f"{name}.png", value, shape=shape)
    labels = folder / f"{name}_label.tiff"
    save_labels(labels, shape=shape)
    return TrainingImage(
        name, "target", split, modality, "", image, labels, *shape, "uint8", 2, "0" * 64
    )


@pytest.fixture
def records(tmp_path):
    many = [make_record(tmp_path / "images", f"a{i}", "phase", 100 + i) for i in range(4)]
    few = [make_record(tmp_path / "images", "b", "stain", 200)]
    held_out = [make_record(tmp_path / "images", "c", "other", 250, split="val")]
    tuning = replace(held_out[0], split="train", role="tuning", label_path=None, n_cells=0)
    return [*many, *few, *held_out, replace(tuning, image_id="d")]


def test_modalities_take_turns_and_images_that_are_held_out_are_left_out(records, monkeypatch):
    seen = []
    load = quantisation.load_sample
    monkeypatch.setattr(
        quantisation, "load_sample", lambda record: seen.append(record.image_id) or load(record)
    )
    windows = list(choose_windows(records, Calibration(windows=8), ROI))
    assert [window.shape for window in windows] == 8 * [(ROI, ROI, 3)]
    assert [name[0] for name in seen] == list("abababab")
    assert sorted(seen[::2]) == ["a0", "a1", "a2", "a3"]
    again = list(choose_windows(records, Calibration(windows=8), ROI))
    np.testing.assert_array_equal(windows, again)


def test_small_images_lie_in_the_middle_of_a_window(tmp_path):
    record = make_record(tmp_path, "small", "phase", 200, shape=(5, 8))
    [window] = choose_windows([record], Calibration(windows=1), ROI)
    [bright] = np.argwhere(window[..., 0] == 255)
    assert tuple(bright) == ((ROI - 5) // 2, (ROI - 8) // 2)


def test_calibration_without_images_or_windows_is_refused(records):
    with pytest.raises(UsageError, match="no image of split train"):
        list(choose_windows([replace(records[0], split="val")], Calibration(), ROI))
    with pytest.raises(UsageError, match="found 0 windows, expected 1 or more"):
        Calibration(windows=0)


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export warns of its own future changes
        return export_graph(TINY, ROI, tmp_path_factory.mktemp("graph"))


@pytest.fixture
def weights(graph, tmp_path, monkeypatch):
    """A tiny network whose windows, by default, are small."""
    monkeypatch.setattr(quantisation, "EngineConfig", lambda: EngineConfig(roi_size=ROI))
    folder = tmp_path / "weights"
    save_weights(tiny_state_dict(), folder / "tiny.safetensors")
    for path in (graph, graph.with_suffix(".bin")):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder / "tiny.safetensors"


def test_a_command_makes_ranges_that_predict_nearly_as_float32(weights, records, tmp_path, capsys):
    pytest.importorskip("nncf", reason="NNCF is not installed")
    listed = ListedWeights(compute_digest(weights), 31.0)
    write_weights_manifest(weights.parent, {weights.name: listed})
    write_table(records, tmp_path / "table.csv")
    command = ["quantize", str(weights), "--table", str(tmp_path / "table.csv"), "--windows", "4"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NNCF and what it imports
        assert main(command) == 0
    ranges = read_ranges(load_checkpoint(weights))
    assert capsys.readouterr().out == f"{ranges.path}\n"
    assert read_weights_manifest(weights.parent) == {
        weights.name: replace(listed, int8_digest=ranges.digest)
    }
    # Patch embeddings but the first, poolings of two stages (that of the first has kernels of 8),
    # four in each of three fusion blocks, one in each of two further blocks.
    assert ranges.n_layers == 3 + 2 + 3 * 4 + 2
    for place, bounds in ranges.bounds.items():
        assert bounds.size == 2 or place.endswith(":1")
        assert bool((bounds[0] < bounds[1]).all())

    windows = np.random.default_rng(0).random((2, 3, ROI, ROI), np.float32)
    logits = {}
    for precision in ("float32", "int8"):
        config = EngineConfig(
            plan=Plan("custom", 1, ("identity",)),
            runtime=RuntimeConfig(device="cpu", precision=precision, threads=1),
            roi_size=ROI,
        )
        logits[precision] = Segmenter.from_weights(weights, config).members[0].start(windows)()
    difference = np.abs(logits["int8"] - logits["float32"])
    assert 0 < difference.mean() <= 0.1 * np.abs(logits["float32"]).mean()


def test_weights_whose_layers_stay_in_float32_are_those_that_were_meant(graph):
    chosen = quantisation._choose_layers(graph)
    entries = [name for name in tiny_state_dict() if name.endswith("weight")]
    kept = [name for name in entries if quantisation._IN_FLOAT.match(name)]
    assert {re.sub(r"\d+", "N", name) for name in kept if "SE_" not in name} == {
        "encoder.patch_embedN.proj.weight",
        "decoder.center.top_conv.weight",
        "decoder.center.center_conv.weight",
        "decoder.center.bottom_conv.weight",
        "decoder.center.out_conv.weight",
        "gradflow_head.N.weight",
        "cellprob_head.N.weight",
    }
    assert len(chosen) == 3 + 2 + 3 * 4 + 2


def test_weights_without_a_graph_are_refused_with_the_command_that_makes_it(weights, records):
    for path in weights.parent.glob("graph_*"):
        path.unlink()
    with pytest.raises(UsageError, match=r"no exported graph.*mediar-infer weights graph"):
        quantise_weights([weights], records)


def test_a_damaged_graph_is_refused(weights, records):
    pytest.importorskip("nncf", reason="NNCF is not installed")
    for path in weights.parent.glob("graph_*.xml"):
        path.write_text("<net")
    with pytest.raises(CheckpointError, match=r"\.xml: cannot be read"):
        quantise_weights([weights], records, Calibration(windows=1))


def test_weights_that_were_calibrated_keep_nothing_half_written(weights, records, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(quantisation, "find_bounds", fail)
    before = sorted(weights.parent.iterdir())
    with pytest.raises(KeyboardInterrupt):
        quantise_weights([weights], records, Calibration(windows=1))
    assert sorted(weights.parent.iterdir()) == before
