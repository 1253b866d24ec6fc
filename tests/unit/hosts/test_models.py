"""Networks stay loaded between images."""

import os
import shutil
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from fakes import FunctionBackend, tiny_state_dict
from safetensors.torch import save_file

from mediar_infer.config import PLANS, CellSize, EngineConfig, MaskConfig, Plan, RuntimeConfig
from mediar_infer.errors import CheckpointError
from mediar_infer.hosts.models import _load, load_segmenter
from mediar_infer.network.weight_files import (
    ListedWeights,
    compute_digest,
    write_weights_manifest,
)
from mediar_infer.segmenter import Segmenter

CPU = EngineConfig(plan=PLANS["fast"], runtime=RuntimeConfig(device="cpu", threads=1))


@pytest.fixture
def folder(weights_dir, tmp_path):
    _load.cache_clear()
    shutil.copytree(weights_dir, tmp_path / "weights")
    yield tmp_path / "weights"
    _load.cache_clear()


def test_networks_are_loaded_once_whatever_the_thresholds(folder):
    first = load_segmenter([folder], CPU)
    second = load_segmenter([folder], replace(CPU, masks=MaskConfig(flow_threshold=None)))
    assert second.members[0] is first.members[0]
    assert (first.config.masks.flow_threshold, second.config.masks.flow_threshold) == (0.4, None)
    assert second.digests == first.digests


def test_another_number_of_networks_is_loaded_again(folder):
    one = load_segmenter([folder], CPU)
    two = load_segmenter([folder], replace(CPU, plan=Plan(flips=("identity",))))
    assert (len(one.members), len(two.members)) == (1, 2)
    assert two.config.plan.flips == ("identity",)


def test_a_file_that_was_replaced_is_loaded_again(folder):
    first = load_segmenter([folder / "from_phase1.safetensors"], CPU)
    (folder / "from_phase2.safetensors").replace(folder / "from_phase1.safetensors")
    second = load_segmenter([folder / "from_phase1.safetensors"], CPU)
    assert second.digests != first.digests


@pytest.mark.parametrize(
    "name", ["from_phase1.int8", "manifest.json", "graph_1_512.xml", "graph_1_512.bin"]
)
def test_a_file_beside_the_weights_that_was_replaced_is_noticed(folder, monkeypatch, name):
    def load(weights, config):
        return Segmenter([FunctionBackend(np.copy)], config, {"loaded": str(next(counter))})

    counter = count()
    monkeypatch.setattr(Segmenter, "from_weights", load)
    weights = [folder / "from_phase1.safetensors"]
    path, seen = folder / name, []
    for content in (None, "a", "a", "bc", "de"):
        if content is not None and not (path.exists() and path.read_text() == content):
            path.write_text(content)
            os.utime(path, ns=(0, ord(content[0])))
        seen.append(load_segmenter(weights, CPU).digests["loaded"])
    assert seen == ["0", "1", "1", "2", "3"]


def test_missing_weights_are_named(folder):
    with pytest.raises(CheckpointError, match="there is no such weight file"):
        load_segmenter([folder / "other.pth"], CPU)


def test_what_the_manifest_tells_is_kept(folder):
    weights = sorted(folder.glob("*.safetensors"))
    listed = [ListedWeights(compute_digest(path), 31.5, None, 0.55) for path in weights]
    write_weights_manifest(folder, dict(zip((w.name for w in weights), listed, strict=True)))
    config = replace(CPU, cell_size=CellSize(12))
    for _ in range(2):  # loaded, and kept
        segmenter = load_segmenter([folder], config)
        assert (segmenter.cell_diameter, segmenter.config.masks.flow_threshold) == (31.5, 0.55)


def test_weights_that_are_links_have_the_name_and_the_manifest_of_the_links(tmp_path):
    # as huggingface_hub and lab-wide stores lay them out: names without suffix, no manifest there
    _load.cache_clear()
    stored, folder = tmp_path / "blobs" / "0a1b", tmp_path / "snapshot"
    stored.parent.mkdir()
    folder.mkdir()
    save_file(tiny_state_dict(), stored)
    (folder / "mine.safetensors").symlink_to(stored)
    listed = {"mine.safetensors": ListedWeights(compute_digest(stored), 31.5, None, 0.55)}
    write_weights_manifest(folder, listed)
    segmenter = load_segmenter([folder], replace(CPU, plan=PLANS["single"]))
    assert list(segmenter.digests) == ["mine.safetensors"]
    assert (segmenter.cell_diameter, segmenter.config.masks.flow_threshold) == (31.5, 0.55)
    _load.cache_clear()
