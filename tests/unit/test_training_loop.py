"""Stages, checkpoints, resuming and export, on a network of a few thousand weights."""

import csv
import itertools
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mediar_infer.architecture import Architecture
from mediar_infer.errors import UsageError
from mediar_infer.flows import compute_unit_flow
from mediar_infer.model import MediarFormer
from mediar_infer.training import loop
from mediar_infer.training.__main__ import main
from mediar_infer.training.data import ImageRecord, Sample
from mediar_infer.training.initialise import initialise_weights
from mediar_infer.training.loop import (
    Batch,
    BatchSource,
    StageConfig,
    TrainingError,
    WeightAverage,
    build_optimizer,
    train_step,
)
from mediar_infer.training.recipes import RECIPES, Recipe, build_recipe, run_recipe

TINY = Architecture((8, 16, 20, 32), (1, 1, 1, 1), (16, 16, 8, 8, 8), 8)
STAGE = StageConfig(
    name="pretraining",
    roles=("public",),
    n_steps=4,
    learning_rate=1e-2,
    final_learning_rate=1e-4,
    n_warmup_steps=1,
    batch_size=2,
    crop_size=64,
    average_from_step=1,
)
RECIPE = Recipe("tiny", 3, (STAGE, replace(STAGE, name="finetuning", roles=("public", "target"))))


def make_sample(image_id):
    labels = np.zeros((70, 60), np.int32)
    labels[10:31, 12:29] = 1
    labels[40:61, 30:51] = 2
    image = np.repeat((labels > 0)[..., None] * np.uint8(200), 3, axis=2)
    record = ImageRecord(image_id, "train", "kind", "repo", Path("1.png"), Path("1.tiff"))
    return Sample(record, image, labels, compute_unit_flow(labels).astype(np.float16))


SAMPLES = [make_sample("dsb_1"), make_sample("wbc1_1")]


def make_model():
    torch.manual_seed(0)
    model = MediarFormer(TINY)
    initialise_weights(model)
    return model


def run(folder, **options):
    return run_recipe(RECIPE, SAMPLES, folder, architecture=TINY, checkpoint_every=2, **options)


def read_log(folder):
    with (folder / "log.csv").open(newline="") as file:
        return [row[:-1] for row in csv.reader(file)]  # without the seconds


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    run(folder)
    return folder


def test_log_has_one_line_per_step(finished):
    header, *rows = read_log(finished)
    assert header == ["stage", "step", "loss", "cellprob_loss", "flow_loss", "lr"]
    assert [row[:2] for row in rows] == [
        [stage, str(step)] for stage in ("pretraining", "finetuning") for step in (1, 2, 3, 4)
    ]


def test_loss_falls_when_one_batch_is_repeated():
    model = make_model().train()
    optimizer = build_optimizer(model, STAGE)
    batch = BatchSource(SAMPLES, STAGE, 0).draw(0)
    losses = [train_step(model, optimizer, batch, 1.0).total.item() for _ in range(12)]
    assert losses[-1] < 0.8 * losses[0]


def test_interrupted_and_resumed_run_ends_in_the_same_state(finished, tmp_path, monkeypatch):
    n_calls = 0

    def fail_in_last_step(*args):
        nonlocal n_calls
        n_calls += 1
        if n_calls == 8:
            raise KeyboardInterrupt
        return train_step(*args)

    monkeypatch.setattr(loop, "train_step", fail_in_last_step)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    # one line too many: it was written after the last checkpoint
    with (tmp_path / "log.csv").open("a") as file:
        file.write("finetuning,3,1,1,1,1,1\n")
    run(tmp_path, resume=True)

    expected, resumed = (
        torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (finished, tmp_path)
    )
    for part in ("model", "average"):
        for name, value in expected[part].items():
            assert torch.equal(value, resumed[part][name]), name
    for i, moments in expected["optimizer"]["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, resumed["optimizer"]["state"][i][name])
    assert read_log(tmp_path) == read_log(finished)


def test_resume_with_another_recipe_is_refused(finished):
    other = replace(RECIPE, seed=4)
    with pytest.raises(UsageError, match="resume with the same options"):
        run_recipe(other, SAMPLES, finished, architecture=TINY, resume=True)


def test_resume_without_checkpoint_is_refused(tmp_path):
    with pytest.raises(UsageError, match="start without --resume"):
        run(tmp_path, resume=True)


def test_finished_run_is_not_overwritten(finished):
    with pytest.raises(UsageError, match="holds a checkpoint"):
        run(finished)


def test_stage_without_images_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no image has one of the roles"):
        run_recipe(RECIPE, SAMPLES[1:], tmp_path, architecture=TINY)


def test_export_loads_strictly_in_float16_with_integers_kept(finished):
    weights = load_file(finished / "model.safetensors")
    MediarFormer(TINY).load_state_dict(weights, strict=True)
    dtypes = {value.dtype for value in weights.values()}
    assert dtypes == {torch.float16, torch.int64}
    average = torch.load(finished / "checkpoint.pt", weights_only=True)["average"]
    for name, value in average.items():
        assert torch.equal(weights[name], value.to(weights[name].dtype)), name


def test_no_part_files_are_left(finished):
    names = sorted(path.name for path in finished.iterdir())
    stages = ["finetuning.safetensors", "pretraining.safetensors"]
    assert names == sorted(["checkpoint.pt", "log.csv", "model.safetensors", *stages])


def test_result_is_the_blend_of_two_stages(tmp_path):
    recipe = replace(RECIPE, blend_from="pretraining", blend_share=0.75)
    path = run_recipe(recipe, SAMPLES, tmp_path, architecture=TINY)
    first, last, result = (
        load_file(tmp_path / f"{name}.safetensors")
        for name in ("pretraining", "finetuning", "model")
    )
    assert path == tmp_path / "model.safetensors"
    for name, value in result.items():
        if value.is_floating_point():
            expected = 0.25 * first[name].float() + 0.75 * last[name].float()
            torch.testing.assert_close(value.float(), expected, rtol=1e-3, atol=1e-6)
        else:
            assert torch.equal(value, last[name])


def test_not_finite_batch_is_named_and_changes_no_weight():
    model = make_model().train()
    optimizer = build_optimizer(model, STAGE)
    before = {name: value.clone() for name, value in model.named_parameters()}
    batch = Batch(
        inputs=torch.full((2, 3, 64, 64), math.nan),
        foreground=torch.zeros(2, 64, 64),
        unit_flow=torch.zeros(2, 2, 64, 64),
        image_ids=("dsb_1", "qpi_7"),
    )
    with pytest.raises(TrainingError, match=r"loss nan.*dsb_1, qpi_7"):
        train_step(model, optimizer, batch, 1.0)
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name])


def test_learning_rate_warms_up_then_falls_to_its_end():
    config = replace(STAGE, n_steps=110, n_warmup_steps=10)
    rates = [config.compute_learning_rate(step) for step in range(110)]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[9] == pytest.approx(1e-2)
    assert rates[59] == pytest.approx((1e-2 + 1e-4) / 2)
    assert rates[109] == pytest.approx(1e-4)
    assert all(a > b for a, b in itertools.pairwise(rates[9:]))


def test_stage_shorter_than_its_warm_up_still_runs():
    config = replace(STAGE, n_steps=3, n_warmup_steps=10)
    assert config.compute_learning_rate(2) == pytest.approx(1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"n_steps": 0}, "n_steps=0"), ({"crop_size": 100}, "crop_size=100")],
)
def test_impossible_stage_is_refused(change, message):
    with pytest.raises(UsageError, match=message):
        replace(STAGE, **change)


def test_average_moves_by_one_minus_decay_and_copies_counters():
    model = nn.BatchNorm2d(1)
    average = WeightAverage(model)
    with torch.no_grad():
        model.weight.fill_(2.0)
        model.running_mean.fill_(4.0)
        model.num_batches_tracked.fill_(9)
    average.update(model, 0.75)
    assert average.state["weight"].item() == pytest.approx(1.25)
    assert average.state["running_mean"].item() == pytest.approx(1.0)
    assert average.state["num_batches_tracked"].item() == 9


def test_biases_and_norms_have_no_weight_decay():
    model = make_model()
    decayed, plain = build_optimizer(model, STAGE).param_groups
    assert decayed["weight_decay"] == 0.01
    assert plain["weight_decay"] == 0.0
    assert {p.ndim for p in plain["params"]} == {1}
    n_parameters = len(decayed["params"]) + len(plain["params"])
    assert n_parameters == len(list(model.parameters()))


def test_batch_depends_on_seed_and_step_only():
    first, again = (BatchSource(SAMPLES, STAGE, 7).draw(2) for _ in range(2))
    prefetched = list(BatchSource(SAMPLES, STAGE, 7).prefetch(2))
    assert len(prefetched) == 2
    for other in (again, prefetched[0]):
        assert other.image_ids == first.image_ids
        assert torch.equal(other.inputs, first.inputs)
        assert torch.equal(other.unit_flow, first.unit_flow)


def test_batch_has_the_shapes_that_the_network_needs():
    batch = BatchSource(SAMPLES, STAGE, 0).draw(0)
    assert batch.inputs.shape == (2, 3, 64, 64)
    assert batch.inputs.is_contiguous(memory_format=torch.channels_last)
    assert batch.foreground.shape == (2, 64, 64)
    assert batch.unit_flow.shape == (2, 2, 64, 64)
    assert batch.inputs.dtype == batch.foreground.dtype == batch.unit_flow.dtype == torch.float32


def test_first_outputs_are_near_zero():
    with torch.no_grad():
        logits = make_model().eval()(torch.rand(1, 3, 64, 64))
    assert logits.abs().max() < 2


def test_two_recipes_differ_in_pretraining_images_and_seed_only():
    first, second = (build_recipe(name) for name in RECIPES)
    assert first.seed != second.seed
    assert first.stages[0].roles == ("public",)
    assert second.stages[0].roles == ("public", "target")
    assert first.stages[1] == second.stages[1]
    assert replace(first.stages[0], roles=second.stages[0].roles) == second.stages[0]


def test_command_says_what_is_missing(tmp_path, caplog):
    assert main(["from_phase1", "--data", str(tmp_path), "--runs", str(tmp_path)]) == 1
    assert "manifest.csv: no such file" in caplog.text


def test_command_trains_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr("mediar_infer.training.__main__.read_manifest", lambda *_: [])
    monkeypatch.setattr("mediar_infer.training.__main__.load_samples", lambda *_: SAMPLES)
    monkeypatch.setattr("mediar_infer.training.__main__.build_recipe", lambda *_, **__: RECIPE)
    monkeypatch.setattr(
        "mediar_infer.training.__main__.run_recipe", partial(run_recipe, architecture=TINY)
    )
    command = ["from_phase1", "--data", str(tmp_path), "--runs", str(tmp_path), "--threads", "1"]
    command += ["--generated", "2"]
    assert main(command) == 0
    assert (tmp_path / "tiny" / "model.safetensors").is_file()
    assert main(command) == 1
    assert main([*command, "--resume"]) == 0
