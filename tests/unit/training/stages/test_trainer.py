"""Single steps: the NaN guard, accumulation, the loss scaler, an added loss, averages."""

import copy
import math
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from small_runs import make_recipe
from torch import nn

from mediar_infer.errors import TrainingError, UsageError
from mediar_infer.training.augmentation.loader import Batch
from mediar_infer.training.stages.fabric import build_fabric
from mediar_infer.training.stages.progress import Score, plan_stage
from mediar_infer.training.stages.run_folder import StageFolder, read_log
from mediar_infer.training.stages.stopping import StopLater
from mediar_infer.training.stages.trainer import Trainer

STAGE = replace(make_recipe().stages[0], steps=3)


def make_batch(step=0):
    generator = torch.Generator().manual_seed(step)
    foreground = (torch.rand(4, 64, 64, generator=generator) > 0.5).float()
    return Batch(
        inputs=torch.rand(4, 3, 64, 64, generator=generator),
        foreground=foreground,
        unit_flow=torch.randn(4, 2, 64, 64, generator=generator) * foreground[:, None],
        image_ids=("a", "b", "c", "d"),
        has_labels=torch.ones(4, dtype=torch.bool),
    )


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Mish(), nn.Conv2d(8, 3, 1))


def make_trainer(folder, model, config=STAGE, **options):
    fabric = build_fabric("cpu", 1, config.precision)
    fabric.launch()
    plan = plan_stage(config, 4, seed=1)
    names = lambda step: ["a", "b", f"image{step}"]  # noqa: E731
    return Trainer(
        fabric=fabric,
        model=model,
        plan=plan,
        folder=StageFolder(folder),
        description={"seed": 1},
        name_images=names,
        **options,
    )


def run(folder, config=STAGE, model=None, batches=make_batch, **options):
    model = model or make_model()
    trainer = make_trainer(folder, model, config, **options)
    trainer.run(lambda first: (batches(step) for step in range(first, trainer.plan.n_steps)))
    return model.state_dict()


def broken(**values):
    return lambda step: replace(make_batch(step), **(values if step == 1 else {}))


def test_loss_falls_when_one_batch_is_repeated(tmp_path):
    batch = make_batch()
    bright = (batch.inputs[:, 0] > 0.5).float()
    batch = replace(batch, foreground=bright, unit_flow=torch.zeros(4, 2, 64, 64))
    fast = replace(STAGE, steps=30, learning_rate=0.1, final_learning_rate=0.1)
    run(tmp_path, fast, batches=lambda _: batch)
    lines = (tmp_path / "log.csv").read_text().splitlines()
    losses = [float(line.split(",")[2]) for line in lines[1:]]
    assert len(losses) == 30
    assert losses[-1] < 0.8 * losses[0]


def test_interrupt_waits_for_the_step_and_saves_it(tmp_path):
    def interrupt(step):
        if step == 1:
            signal.raise_signal(signal.SIGINT)
            assert not (tmp_path / "stopped" / "checkpoint.pt").exists()
        return make_batch(step)

    config = replace(STAGE, steps=4, checkpoint_every=100)
    expected = run(tmp_path / "whole", config)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", config, batches=interrupt)
    assert signal.getsignal(signal.SIGINT) is handler
    content = StageFolder(tmp_path / "stopped").load_checkpoint({"seed": 1})
    assert content["progress"]["step"] == 2
    model = make_model()
    trainer = make_trainer(tmp_path / "stopped", model, config)
    trainer.restore()
    trainer.run(lambda first: (make_batch(step) for step in range(first, 4)))
    torch.testing.assert_close(model.state_dict(), expected, rtol=0, atol=0)


def test_patience_counts_from_the_first_score_above_zero(tmp_path):
    config = replace(STAGE, steps=9, validate_every=1, select="f1", patience=2)
    values = iter([0.0, 0.0, 0.0, 0.3, 0.2, 0.1, 0.5])
    run(tmp_path, config, validate=lambda _: Score("f1", next(values), 1))
    lines = (tmp_path / "validation.csv").read_text().splitlines()
    assert [float(line.split(",")[2]) for line in lines[1:]] == [0.0, 0.0, 0.0, 0.3, 0.2, 0.1]


def test_second_interrupt_is_obeyed_at_once():
    reached = []

    def interrupt_twice():
        with StopLater():
            signal.raise_signal(signal.SIGINT)
            reached.append("after the first")
            signal.raise_signal(signal.SIGINT)
            reached.append("after the second")

    with pytest.raises(KeyboardInterrupt):
        interrupt_twice()
    assert reached == ["after the first"]


def test_ignored_signal_stays_ignored():
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopLater() as stop:
            signal.raise_signal(signal.SIGINT)
            stop.obey(lambda: pytest.fail("found something to obey"))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, handler)


def test_interrupt_after_the_last_step_is_not_lost():
    def interrupt():
        with StopLater() as stop:
            stop.obey()
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupt()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_not_finite_batch_is_named_and_keeps_the_last_checkpoint(tmp_path, precision):
    config = replace(STAGE, precision=precision, checkpoint_every=1)
    model = make_model()
    not_finite = broken(inputs=torch.full((4, 3, 64, 64), math.nan))
    with pytest.raises(TrainingError, match=r"step 2: loss nan.*images a, b, image1; expected"):
        run(tmp_path, config, model, not_finite)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    content = StageFolder(tmp_path).load_checkpoint({"seed": 1})
    assert content["progress"]["step"] == 1


def test_float16_skips_steps_whose_gradient_overflows_and_says_when_it_is_too_often(tmp_path):
    class Overflow:
        def __call__(self, model, batch):
            # finite, but its gradient is not in float16, whatever the scale
            return model(batch.inputs).mean() * 1e34

    config = replace(STAGE, precision="float16", steps=60)
    with pytest.raises(TrainingError, match="use bfloat16 or float32"):
        run(tmp_path, config, extra_loss=Overflow())


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_ends_near_float32(tmp_path, precision):
    full = run(tmp_path / "full")
    half = run(tmp_path / "half", replace(STAGE, precision=precision))
    for name, value in full.items():
        assert value.dtype == half[name].dtype == torch.float32
        torch.testing.assert_close(half[name], value, rtol=0.1, atol=0.02)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_batch_in_parts_gives_the_step_of_the_whole(tmp_path, precision):
    config = replace(STAGE, precision=precision, max_gradient_norm=0.5)
    whole = run(tmp_path / "whole", config)
    parts = run(tmp_path / "parts", replace(config, accumulate=4))
    tolerance = 1e-6 if precision == "float32" else 3e-3
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=tolerance)


def test_flow_weight_of_a_stage_reaches_the_loss(tmp_path):
    run(tmp_path, replace(STAGE, steps=1, flow_weight=0.25))
    (row,) = read_log(tmp_path / "log.csv")
    loss, cellprob, flow = (float(row[key]) for key in ("loss", "cellprob_loss", "flow_loss"))
    assert loss == pytest.approx(cellprob + 0.25 * flow, rel=1e-4)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_parts_weigh_as_many_crops_as_have_labels(tmp_path, accumulate):
    def make_some(step):
        return replace(make_batch(step), has_labels=torch.tensor([True, True, False, True]))

    whole = run(tmp_path / "whole", batches=make_some)
    parts = run(tmp_path / "parts", replace(STAGE, accumulate=accumulate), batches=make_some)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=1e-6)
    logs = [read_log(tmp_path / name / "log.csv") for name in ("whole", "parts")]
    for one, other in zip(*logs, strict=True):
        for column in ("loss", "cellprob_loss", "flow_loss"):
            assert float(one[column]) == pytest.approx(float(other[column]), rel=1e-5)


def test_batch_that_cannot_be_cut_into_parts_is_refused(tmp_path):
    with pytest.raises(UsageError, match="3 parts for the 4 crops"):
        run(tmp_path, replace(STAGE, batch_size=6, accumulate=3))


def test_clipping_bounds_the_step_of_plain_descent(tmp_path):
    run(tmp_path, replace(STAGE, steps=1, max_gradient_norm=1e-4))
    # the log holds the norm before clipping
    assert float((tmp_path / "log.csv").read_text().splitlines()[1].split(",")[6]) > 1e-4


def test_added_loss_changes_the_weights_and_the_log(tmp_path):
    class Added:
        def __call__(self, model, batch):
            return model(batch.inputs).square().mean() * 10

    plain, added = run(tmp_path / "plain"), run(tmp_path / "added", extra_loss=Added())
    assert any(not torch.equal(plain[name], added[name]) for name in plain)
    none = run(tmp_path / "none", extra_loss=lambda _model, _batch: None)
    assert all(torch.equal(plain[name], none[name]) for name in plain)


def test_result_is_the_average_where_there_is_one(tmp_path):
    config = replace(STAGE, ema_decay=0.5, ema_from_step=1)
    states = []
    model = make_model()

    def batches(step):
        states.append(copy.deepcopy(model.state_dict()))
        return make_batch(step)

    last = run(tmp_path, config, model, batches)
    states.append(last)
    result = load_file(tmp_path / "weights.safetensors")
    for name, value in result.items():
        first, second, third = (state[name] for state in states[1:])
        torch.testing.assert_close(value, 0.25 * first + 0.25 * second + 0.5 * third)


def test_epochs_become_steps():
    config = replace(STAGE, steps=0, epochs=3, checkpoint_every=0.5, validate_every=1)
    plan = plan_stage(config, 10, seed=0)
    assert (plan.n_steps, plan.steps_per_epoch) == (9, 3)
    assert (plan.checkpoint_every, plan.validate_every) == (2, 3)


def test_processes_without_gpus_are_refused():
    with pytest.raises(UsageError, match="found 0 processes"):
        build_fabric("cpu", 0, "float32")
