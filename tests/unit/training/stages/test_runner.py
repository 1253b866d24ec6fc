"""Whole runs of a few steps: kill and resume, several processes, validation, refusals."""

import errno
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from fakes import TINY, tiny_state_dict
from safetensors.torch import load_file
from small_runs import make_recipe, make_record, make_records

from mediar_infer import output_files
from mediar_infer.errors import CheckpointError, ImageReadError, OutputError, UsageError
from mediar_infer.labels.reading import read_labels
from mediar_infer.network.checkpoints import save_weights
from mediar_infer.training.stages import stage_job
from mediar_infer.training.stages.execution import Execution
from mediar_infer.training.stages.progress import Score
from mediar_infer.training.stages.runner import run_recipe

CPU = Execution("cpu", threads=1)
RESUME = replace(CPU, resume=True)
AMPLIFIED = {"sampling": "amplified", "amplify_to": 2}
ONE = {"steps": 3, "checkpoint_every": 1}
HERE = Path(__file__).resolve()


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return make_records(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("finished") / "run"
    run_recipe(make_recipe(), records, path, execution=CPU)
    return path


def read_log(folder):
    """All columns but the times."""
    return [line.split(",")[:-2] for line in (folder / "log.csv").read_text().splitlines()]


def assert_same_run(one, other, names=("pretrain_phase1", "finetune_phase1")):
    for name in names:
        first, second = (load_file(run / name / "weights.safetensors") for run in (one, other))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
        assert read_log(one / name) == read_log(other / name)


def test_run_leaves_weights_logs_and_summary_only(finished):
    for name in ("pretrain_phase1", "finetune_phase1"):
        assert sorted(path.name for path in (finished / name).iterdir()) == [
            "log.csv", "summary.json", "tensorboard", "weights.safetensors",
        ]  # fmt: skip
        assert [row[0] for row in read_log(finished / name)] == ["step", *"12345"]
        summary = json.loads((finished / name / "summary.json").read_text())
        assert summary["images_per_s"] > 0
        assert summary["peak_memory_bytes"]["host"] > 0
        assert summary["cell_diameter"] > 0
        assert summary["description"]["seed"] == (3 if name == "pretrain_phase1" else 1003)


KILLED = f"""
import os, signal, sys
sys.path[:0] = [{str(HERE.parents[1])!r}, {str(HERE.parents[3])!r}]
from pathlib import Path
from small_runs import make_recipe, make_records
from mediar_infer.training.stages import trainer
from mediar_infer.training.stages.execution import Execution
from mediar_infer.training.stages.runner import run_recipe

place, number = sys.argv[3], int(sys.argv[4])
done = getattr(trainer.Trainer, place)
n_calls = 0

def die(self, *args):
    global n_calls
    n_calls += 1
    if n_calls == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return done(self, *args)

setattr(trainer.Trainer, place, die)
records = make_records(Path(sys.argv[1]))
run_recipe(make_recipe(), records, Path(sys.argv[2]), execution=Execution("cpu", threads=1))
"""


@pytest.mark.parametrize(
    ("place", "number"),
    [
        ("_do_step", 4),
        ("_save", 5),
        pytest.param("_do_step", 10, marks=pytest.mark.slow),
        pytest.param("_finish", 2, marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_run_equals_an_uninterrupted_one(
    finished, records, tmp_path, place, number
):
    run = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path / "images", run, place, str(number)],
        cwd=HERE.parents[4], check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    run_recipe(make_recipe(), records, run, execution=RESUME)
    assert_same_run(finished, run)


def test_two_processes_give_the_result_of_one(records, tmp_path):
    # without stochastic depth, which draws per process
    stage = {"steps": 3, "learning_rate": 1e-3, "validate_every": 3, "select": "f1"}
    recipe = make_recipe({"model": {"drop_path": 0.0}}, stage=stage)
    for name, n_processes in (("one", 1), ("two", 2)):
        execution = replace(CPU, processes=n_processes)
        run_recipe(recipe, records, tmp_path / name, execution=execution)
    one, two = (
        load_file(tmp_path / name / "pretrain_phase1" / "weights.safetensors")
        for name in ("one", "two")
    )
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-3, msg=name)
    logs = [read_log(tmp_path / name / "pretrain_phase1") for name in ("one", "two")]
    for first, second in zip(logs[0][1:], logs[1][1:], strict=True):
        assert float(first[2]) == pytest.approx(float(second[2]), rel=1e-4)
    summary = json.loads((tmp_path / "two/pretrain_phase1/summary.json").read_text())
    assert summary["n_processes"] == 2


def test_finished_or_begun_run_is_not_overwritten(finished, records):
    with pytest.raises(UsageError, match=r"found a finished or started stage.*--resume"):
        run_recipe(make_recipe(), records, finished, execution=CPU)


def test_resuming_a_finished_run_keeps_it(finished, records):
    before = (finished / "pretrain_phase1" / "log.csv").stat().st_mtime_ns
    run_recipe(make_recipe(), records, finished, execution=RESUME)
    assert (finished / "pretrain_phase1" / "log.csv").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"seed": 4}, "seed was 3, now 4"),
        ({"model": {"pab_channels": 4}}, "model.pab_channels was 8, now 4"),
    ],
)
def test_resuming_with_another_recipe_names_the_difference(finished, records, changes, match):
    with pytest.raises(UsageError, match=match):
        run_recipe(make_recipe(changes), records, finished, execution=RESUME)


def test_resuming_with_other_images_is_refused(finished, records):
    with pytest.raises(UsageError, match="images was"):
        run_recipe(make_recipe(), records[1:], finished, execution=RESUME)


@pytest.mark.parametrize(
    ("corrected", "match"), [("public0", "images was"), ("held_public", "scored was")]
)
def test_resuming_with_corrected_labels_is_refused(tmp_path, corrected, match):
    records, recipe = make_records(tmp_path / "images"), make_recipe(stage=ONE | {"select": "f1"})
    run_recipe(recipe, records, tmp_path / "run", execution=CPU)
    record = next(each for each in records if each.image_id == corrected)
    labels = read_labels(record.label_path)
    tifffile.imwrite(record.label_path, np.roll(labels, 3, 0))
    with pytest.raises(UsageError, match=rf"other settings: {match}.*images and labels"):
        run_recipe(recipe, records, tmp_path / "run", execution=RESUME)


def test_missing_labels_are_named_before_anything_is_trained(tmp_path):
    records = make_records(tmp_path / "images")
    records[0].label_path.unlink()
    with pytest.raises(ImageReadError, match=r"public0_label\.tiff: found a file that cannot be"):
        run_recipe(make_recipe(), records, tmp_path / "run", execution=CPU)


def test_later_stage_needs_the_one_it_starts_from(records, tmp_path):
    with pytest.raises(UsageError, match="found no finished stage 'pretrain_phase1'"):
        run_recipe(make_recipe(), records, tmp_path, stage_names=["finetune_phase1"], execution=CPU)


def test_stages_can_be_run_one_by_one(finished, records, tmp_path):
    for name in ("pretrain_phase1", "finetune_phase1"):
        run_recipe(make_recipe(), records, tmp_path, stage_names=[name], execution=CPU)
    assert_same_run(finished, tmp_path)


def test_images_of_excluded_sources_are_neither_drawn_nor_scored(finished, records, tmp_path):
    left_out = [
        make_record(tmp_path / "images", f"left_out_{role}_{split}", role, split, source="other")
        for role in ("public", "target")
        for split in ("train", "val")
    ]
    excludes = {"exclude_sources": ["other"], "validate_every": 5}
    stages = {"pretrain_phase1": excludes, "finetune_phase1": excludes}
    run_recipe(
        make_recipe({"stages": stages}), [*left_out, *records], tmp_path / "run", execution=CPU
    )
    assert_same_run(finished, tmp_path / "run")
    for name in stages:
        (row,) = (tmp_path / "run" / name / "validation.csv").read_text().splitlines()[1:]
        assert row.split(",")[-1] == "1"


def test_sources_without_images_are_named(records, tmp_path, caplog):
    stage = ONE | {
        "exclude_sources": ["misspelt", "other"],
        "true_colour_sources": ["stained"],
        "sampling": "balanced",
        "source_factors": ["rare=2", "mine=3"],
    }
    known = [replace(records[0], source="mine"), replace(records[1], source="other")]
    recipe = make_recipe(stage=stage)
    job = stage_job.prepare_stage(recipe, recipe.stages[0], known, tmp_path, execution=CPU)
    assert [record.source for record in job.records] == ["mine"]
    warned = [record.getMessage() for record in caplog.records]
    assert [text.partition(" in the table")[0] for text in warned] == [
        f"stage pretrain_phase1, {key}: found no image of source {name!r}"
        for key, name in (
            ("exclude_sources", "misspelt"),
            ("true_colour_sources", "stained"),
            ("source_factors", "rare"),
        )
    ]
    assert all(text.endswith("the sources are mine, other") for text in warned)


def test_best_scored_weights_are_the_result_and_patience_ends_the_stage(
    records, tmp_path, monkeypatch
):
    values = iter([0.2, 0.5, 0.4, 0.3, 0.9])
    seen = []

    def validate(self, model):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return Score("f1", next(values), 1)

    monkeypatch.setattr("mediar_infer.training.stages.launch._Validation.__call__", validate)
    stage = {"steps": 9, "validate_every": 1, "select": "f1", "patience": 2}
    run_recipe(make_recipe(stage=stage), records, tmp_path, execution=CPU)
    folder = tmp_path / "pretrain_phase1"
    result = load_file(folder / "weights.safetensors")
    assert all(torch.equal(result[name], value) for name, value in seen[1].items())
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["n_steps"], summary["best_step"], summary["best_value"]) == (4, 2, 0.5)
    assert (folder / "validation.csv").read_text().splitlines()[1:] == [
        "1,f1,0.2,1", "2,f1,0.5,1", "3,f1,0.4,1", "4,f1,0.3,1",
    ]  # fmt: skip


def test_cells_are_counted_on_tuning_images(records, tmp_path):
    run_recipe(make_recipe(stage=ONE | {"select": "count"}), records, tmp_path, execution=CPU)
    rows = (tmp_path / "pretrain_phase1" / "validation.csv").read_text().splitlines()
    assert len(rows) == 2
    assert rows[1].startswith("3,count,")
    with pytest.raises(UsageError, match="found no tuning image"):
        run_recipe(
            make_recipe(stage=ONE | {"select": "count"}), records[:-1], tmp_path / "b",
            execution=CPU,
        )  # fmt: skip


def test_selection_without_held_out_images_is_refused(records, tmp_path):
    train = [record for record in records if record.split == "train"]
    with pytest.raises(UsageError, match="found no held-out image"):
        run_recipe(make_recipe(stage=ONE | {"select": "f1"}), train, tmp_path, execution=CPU)


def test_start_weights_are_taken_from_a_file(records, tmp_path):
    path = tmp_path / "start.safetensors"
    save_weights(tiny_state_dict(5), path)
    stage = {"start": f"weights:{path}", "steps": 1, "learning_rate": 1e-12}
    stage |= {"final_learning_rate": 0.0, "freeze_norm_statistics": True}
    run_recipe(make_recipe(stage=stage), records, tmp_path / "run", execution=CPU)
    result = load_file(tmp_path / "run" / "pretrain_phase1" / "weights.safetensors")
    for name, value in tiny_state_dict(5).items():
        torch.testing.assert_close(result[name], value, rtol=1e-3, atol=1e-3)
        if "running" in name:
            assert torch.equal(result[name], value.half().float())


def test_start_weights_of_another_architecture_are_refused(records, tmp_path):
    path = tmp_path / "start.safetensors"
    save_weights(tiny_state_dict(), path)
    recipe = make_recipe({"model": {"pab_channels": 4}}, stage={"start": f"weights:{path}"})
    with pytest.raises(CheckpointError, match=r"another architecture \(pab_channels 8, not 4"):
        run_recipe(recipe, records, tmp_path / "run", execution=CPU)
    recipe = make_recipe(stage={"start": "weights:none.safetensors"})
    with pytest.raises(CheckpointError, match="found no such weight file"):
        run_recipe(recipe, records, tmp_path / "run", execution=CPU)


def test_stage_starts_from_an_encoder_file(records, tmp_path):
    path = tmp_path / "encoder.pth"
    state = tiny_state_dict(6)
    torch.save({k: v for k, v in state.items() if k.startswith("encoder.")}, path)
    stage = {"start": "encoder", "steps": 1, "learning_rate": 1e-12, "final_learning_rate": 0.0}
    recipe = make_recipe({"model": {"encoder_weights": str(path)}}, stage=stage)
    run_recipe(recipe, records, tmp_path / "run", execution=CPU)
    result = load_file(tmp_path / "run" / "pretrain_phase1" / "weights.safetensors")
    name = "encoder.patch_embed1.proj.weight"
    torch.testing.assert_close(result[name], state[name], rtol=0, atol=1e-6)


def test_amplified_and_relabelled_stages_ask_for_clusters_and_labels(
    records, tmp_path, monkeypatch
):
    asked = []

    def discover(weights, images, folder, *, n_clusters, seed, device):
        assert (n_clusters, seed, device) == (40, 3, "cpu")
        asked.append((weights.parent.name, len(images), folder.name))
        return {record.image_id: 0 for record in images}

    def relabel(weights, images, recipe, folder, device):
        assert device == "cpu"
        asked.append((weights.parent.name, len(images), folder.name))
        return {images[0].image_id: images[1].label_path}

    changes = {
        "discovery": {"from_stage": "pretrain_phase1"},
        "relabelling": {"from_stage": "pretrain_phase1"},
        "stages": {
            "pretrain_phase1": ONE,
            "finetune_phase1": ONE | {"sampling": "amplified", "relabelled": True},
        },
    }
    recipe = make_recipe(changes)
    monkeypatch.setattr(stage_job, "discover", discover)
    monkeypatch.setattr(stage_job, "relabel_for_stage", relabel)
    with pytest.raises(UsageError, match="made by 'discover'"):
        run_recipe(
            recipe, records, tmp_path / "a", execution=CPU, clusters_path=tmp_path / "none.csv"
        )
    run_recipe(recipe, records, tmp_path / "b", execution=CPU)
    assert asked == [("pretrain_phase1", 3, "discovery"), ("pretrain_phase1", 3, "relabelled")]


@pytest.mark.parametrize("change", [{}, {"n_clusters": 1}])
def test_clusters_are_those_that_the_recipe_asks_for(records, tmp_path, change):
    def amplified(**discovery):
        return make_recipe(
            {
                "discovery": {"from_stage": "pretrain_phase1", "n_clusters": 2, **discovery},
                "stages": {"pretrain_phase1": ONE, "finetune_phase1": ONE | AMPLIFIED},
            }
        )

    run_recipe(amplified(), records, tmp_path, execution=CPU)
    path = tmp_path / "discovery" / "clusters.csv"
    written = path.stat().st_mtime_ns
    shutil.rmtree(tmp_path / "finetune_phase1")
    run_recipe(amplified(**change), records, tmp_path, execution=RESUME)
    assert (path.stat().st_mtime_ns != written) == bool(change)
    described = json.loads((tmp_path / "discovery" / "discovery.json").read_text())
    assert described["asked_clusters"] == change.get("n_clusters", 2)


def test_blend_is_written_when_both_stages_are_finished(records, tmp_path):
    changes = {
        "stages": {"pretrain_phase1": ONE, "finetune_phase1": ONE},
        "blends": {
            "both": {"first": "pretrain_phase1", "second": "finetune_phase1", "share": 0.75}
        },
    }
    made = run_recipe(make_recipe(changes), records, tmp_path, execution=CPU)
    assert list(made) == ["pretrain_phase1", "finetune_phase1", "both"]
    first, second, both = (load_file(path) for path in made.values())
    name = "decoder.blocks.0.conv1.0.weight"
    torch.testing.assert_close(both[name], 0.25 * first[name] + 0.75 * second[name])


def test_full_disk_stops_the_run_with_its_last_checkpoint(finished, records, tmp_path, monkeypatch):
    n_synced = 0

    def fsync(_number):
        nonlocal n_synced
        n_synced += 1
        if n_synced == 3:  # recipe.json, checkpoint of step 2, checkpoint of step 4
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(output_files.os, "fsync", fsync)
        with pytest.raises(OutputError, match=r"checkpoint\.pt: cannot be written \(No space"):
            run_recipe(make_recipe(), records, tmp_path, execution=CPU)
    names = {path.name for path in (tmp_path / "pretrain_phase1").iterdir()}
    assert names == {"checkpoint.pt", "log.csv", "tensorboard"}
    run_recipe(make_recipe(), records, tmp_path, execution=RESUME)
    assert_same_run(finished, tmp_path)


def test_architecture_of_the_recipe_is_the_tests_network():
    assert make_recipe().model.architecture == TINY
