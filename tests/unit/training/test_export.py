"""Exported weights: what the engine loads."""

import json

import numpy as np
import pytest
import torch
from fakes import tiny_state_dict
from safetensors.torch import load_file, save_file

from mediar_infer.config import PLANS, EngineConfig, RuntimeConfig
from mediar_infer.errors import CheckpointError, UsageError
from mediar_infer.network.checkpoints import load_checkpoint
from mediar_infer.network.weight_files import ListedWeights, compute_digest, read_weights_manifest
from mediar_infer.segmenter import Segmenter
from mediar_infer.training.export import export_weights


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(tiny_state_dict(), path)
    return path


def test_exported_weights_load_in_the_engine(source, tmp_path):
    output = tmp_path / "out" / "mine.safetensors"
    written = export_weights(source, output, has_graph=False)
    assert [path.name for path in written] == ["mine.safetensors", "manifest.json", "mine.md"]
    assert read_weights_manifest(output.parent) == {
        "mine.safetensors": ListedWeights(compute_digest(output))
    }
    dtypes = {value.dtype for value in load_file(output).values()}
    assert dtypes == {torch.float16, torch.int64}
    config = EngineConfig(plan=PLANS["single"], runtime=RuntimeConfig(device="cpu", threads=1))
    segmenter = Segmenter.from_weights(output.parent, config)
    image = np.zeros((40, 50), np.uint8)
    assert segmenter.segment(image).labels.shape == image.shape


def test_manifest_tells_the_size_of_the_cells_of_a_stage_and_of_a_blend(tmp_path):
    blend = tmp_path / "run" / "blend.safetensors"
    paths = [blend]
    for name, diameter in (("earlier", 99.0), ("first", 20.0), ("second", 31.0)):
        paths.append(tmp_path / "run" / name / "weights.safetensors")
        paths[-1].parent.mkdir(parents=True)
        stage = {
            "name": name, "start": "random", "batch_size": 1, "crop_size": 64,
            "learning_rate": 1e-3, "final_learning_rate": 0, "precision": "32", "select": "last",
        }  # fmt: skip
        summary = {
            "description": {"stage": stage, "seed": 0}, "n_steps": 1, "best_value": None,
            "cell_diameter": diameter,
        }  # fmt: skip
        (paths[-1].parent / "summary.json").write_text(json.dumps(summary))
    parts = {"name": "blend", "first": "first", "second": "second", "share": 0.5}
    (tmp_path / "run" / "recipe.json").write_text(json.dumps({"recipe": {"blends": [parts]}}))
    for path, diameter in zip(paths, (25.5, 99.0, 20.0, 31.0), strict=True):
        save_file(tiny_state_dict(), path)
        output = tmp_path / "out" / path.parent.name / "mine.safetensors"
        export_weights(path, output, has_graph=False)
        listed = read_weights_manifest(output.parent)["mine.safetensors"]
        assert listed.cell_diameter == diameter
        assert load_checkpoint(output).cell_diameter == diameter


def test_file_that_is_no_blend_of_the_run_has_the_mean_of_its_stages(tmp_path):
    path = tmp_path / "run" / "chosen.safetensors"
    for name, diameter in (("a", 20.0), ("b", 31.0)):
        (path.parent / name).mkdir(parents=True)
        content = json.dumps({"cell_diameter": diameter})
        (path.parent / name / "summary.json").write_text(content)
    (path.parent / "recipe.json").write_text(json.dumps({"recipe": {"blends": []}}))
    save_file(tiny_state_dict(), path)
    output = tmp_path / "mine.safetensors"
    export_weights(path, output, has_graph=False)
    assert read_weights_manifest(tmp_path)["mine.safetensors"].cell_diameter == 25.5


def test_manifest_gets_the_flow_threshold_that_is_given_or_that_the_source_has(source, tmp_path):
    first, second = tmp_path / "a" / "mine.safetensors", tmp_path / "b" / "mine.safetensors"
    export_weights(source, first, has_graph=False, flow_threshold=0.55)
    assert read_weights_manifest(first.parent)["mine.safetensors"].flow_threshold == 0.55
    export_weights(first, second, has_graph=False)
    assert load_checkpoint(second).flow_threshold == 0.55


@pytest.mark.parametrize(("given", "is_told"), [(None, True), (0.3, False), (0.55, False)])
def test_flow_threshold_that_is_lost_with_the_replaced_file_is_told(
    source, tmp_path, caplog, given, is_told
):
    output = tmp_path / "out" / "mine.safetensors"
    export_weights(source, output, has_graph=False, flow_threshold=0.55)
    export_weights(source, output, has_graph=False, replaces=True, flow_threshold=given)
    assert read_weights_manifest(output.parent)[output.name].flow_threshold == given
    assert ("stated flow threshold 0.55, the new ones state none" in caplog.text) == is_told


def test_flow_threshold_that_is_none_is_refused_before_anything_is_written(source, tmp_path):
    output = tmp_path / "out" / "mine.safetensors"
    with pytest.raises(UsageError, match=r"found flow threshold nan.*predict --flow-thr"):
        export_weights(source, output, has_graph=False, flow_threshold=float("nan"))
    assert not output.parent.exists()


def test_card_tells_architecture_and_digest(source, tmp_path):
    *_, card = export_weights(source, tmp_path / "mine.safetensors", has_graph=False)
    text = card.read_text()
    assert compute_digest(tmp_path / "mine.safetensors") in text
    assert "decoder (16, 16, 8, 8, 8), PAB 8" in text


@pytest.mark.parametrize(
    ("written", "expected", "is_told"),
    [
        (None, "**Data.** To be written", False),
        (b"**Training.** To be written; made from `old.pth`.\n\n"
         b"**Data.** 40 images\n\n**Quality.** 0.9 \xff\n",
         "**Data.** 40 images\n\n**Quality.** 0.9 \udcff\n", True),
        (b"# Ours\n\nA card of our own.\n", "## Before\n\n# Ours\n\nA card of our own.\n", True),
    ],
)  # fmt: skip
def test_replaced_card_keeps_what_people_wrote(
    source, tmp_path, caplog, written, expected, is_told
):
    *_, card = export_weights(source, tmp_path / "mine.safetensors", has_graph=False)
    if written is not None:
        card.write_bytes(written)
    for _ in range(2):
        export_weights(source, tmp_path / "mine.safetensors", has_graph=False, replaces=True)
        text = card.read_text(errors="surrogateescape")
        assert text.count(expected) == 1
        assert compute_digest(tmp_path / "mine.safetensors") in text
        assert "old" not in text
    assert ("kept what was written into it by hand" in caplog.text) == is_told


STAGE = (
    "Stage `tune` from `weights:a.safetensors`: 40 steps of 4 crops of 64\npixels, learning rate"
    " 0.001 to 0, 32, seed 3. Best validation (f1): 0.5000 at step 20."
)


@pytest.mark.parametrize(
    ("written", "is_kept"),
    [
        ("By us, on 40 plates.", True),
        (f"{STAGE} By us, on 40 plates.", True),
        (f"{STAGE}\n\nBy us, on 40 plates.", True),
        (STAGE, False),
    ],
)
def test_replaced_card_keeps_what_people_wrote_about_the_training(
    source, tmp_path, caplog, written, is_kept
):
    *_, card = export_weights(source, tmp_path / "mine.safetensors", has_graph=False)
    card.write_text(
        card.read_text().replace("To be written; made from `weights.safetensors`.", written)
    )
    for _ in range(2):
        export_weights(source, tmp_path / "mine.safetensors", has_graph=False, replaces=True)
        text = card.read_text()
        made = "By us, on 40 plates." if is_kept else "To be written; made from"
        assert text.count(f"**Training.** {made}") == 1
        assert "Stage" not in text
        assert text.count("**Data.** To be written") == 1
    assert ("kept what was written into it by hand" in caplog.text) == is_kept


def test_graph_is_exported_once(source, tmp_path, monkeypatch):
    made = []

    def export_graph(architecture, roi_size, folder):
        from mediar_infer.network.graphs import graph_name

        path = folder / graph_name(architecture, roi_size)
        path.write_text("graph")
        made.append(path)
        return path

    monkeypatch.setattr("mediar_infer.network.backends.openvino_export.export_graph", export_graph)
    output = tmp_path / "mine.safetensors"
    written = export_weights(source, output)
    assert written[-1] == made[0]
    export_weights(source, tmp_path / "other.safetensors")
    assert len(made) == 1


def test_existing_file_is_replaced_only_when_asked(source, tmp_path):
    output = tmp_path / "mine.safetensors"
    export_weights(source, output, has_graph=False)
    with pytest.raises(CheckpointError, match="exists already; add --replace"):
        export_weights(source, output, has_graph=False)
    save_file(tiny_state_dict(1), source)
    before = compute_digest(output)
    export_weights(source, output, replaces=True, has_graph=False)
    assert compute_digest(output) != before


def test_third_model_and_other_suffixes_are_refused(source, tmp_path):
    for name in ("a", "b"):
        export_weights(source, tmp_path / f"{name}.safetensors", has_graph=False)
    with pytest.raises(CheckpointError, match="would list 3 models"):
        export_weights(source, tmp_path / "c.safetensors", has_graph=False)
    with pytest.raises(UsageError, match=r"expected NAME\.safetensors"):
        export_weights(source, tmp_path / "c.pth", has_graph=False)
