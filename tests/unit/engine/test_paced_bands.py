"""The streaming engine under a budget: which plan, and what is dropped on the way."""

import numpy as np
import pytest
import torch
from fakes import Clock, FunctionBackend, TimedBackend

from mediar_infer.arrays import CELLPROB, FLOW_X, FLOW_Y
from mediar_infer.config import ALL_FLIPS, EngineConfig, Plan
from mediar_infer.engine.bands import predict_bands
from mediar_infer.engine.costs import END_S, Costs
from mediar_infer.engine.paced_bands import predict_paced_bands
from mediar_infer.engine.pacing import Deadline, Pacer
from mediar_infer.engine.plans import ladder_below
from mediar_infer.engine.preprocess import Scaling
from mediar_infer.errors import PredictionError
from mediar_infer.image_trace import Trace
from mediar_infer.images.sources import ArraySource
from mediar_infer.tolerance import tolerance_s

BYTES = Scaling(low=0, high=255, lut=np.arange(256, dtype=np.uint8))
SIZES = [(1, 1), (1, 70), (70, 1), (31, 33), (32, 32), (45, 44), (101, 64), (31, 500), (500, 31)]
CONFIG = EngineConfig(roi_size=32)
TWO_FLIPS = Plan("two-flips", 2, ("identity", "horizontal"))
ENSEMBLE = Plan("ensemble", 2, ("identity",))
ONE_PASS = Plan("one-pass", 1, ("identity",))
TOLERANCE = 1e-5
ROOMY = 1e-6
"""Seconds per window with which everything fits."""


def identity(inputs):
    return inputs.clone()


def uneven(inputs):
    """A network that sees the same pixel differently at each place in a window."""
    rows = torch.linspace(-1, 1, inputs.shape[2])[:, None]
    columns = torch.linspace(-1, 1, inputs.shape[3])
    mean = inputs.mean(dim=(1, 2, 3))[:, None, None]
    logits = torch.empty_like(inputs)
    logits[:, FLOW_Y] = rows * (inputs[:, 0] + mean)
    logits[:, FLOW_X] = (columns + 0.3) * (inputs[:, 1] + rows.square() + mean)
    logits[:, CELLPROB] = inputs[:, 2] * (2 - columns.abs()) * (1.5 - rows)
    return logits


def image_of(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def as_maps(image):
    return image.transpose(2, 0, 1).astype(np.float32) / 255


def join(bands):
    return np.concatenate(list(bands), axis=1)


class Run:
    """One image through the paced engine; the stages behind it pass on the clock too."""

    def __init__(
        self,
        image,
        members,
        clock,
        *,
        top=None,
        costs=None,
        age_s=0.0,
        outside_s=0.0,
        scale=0.85,
        labels_s=0.0,
    ):
        height, width = image.shape[:2]
        self.members, self.clock = members, clock
        self.costs = costs or Costs(len(members), members[0].batch)
        self.trace = Trace(clock=clock)
        self.trace.started_s -= age_s
        self.pacer = Pacer(
            ladder_below(top or Plan(), len(members)),
            self.costs,
            Deadline("cells.png", height, width, scale, outside_s),
            self.trace,
        )
        source = ArraySource(image, "cells.png")
        bands = predict_paced_bands(source, BYTES, members, CONFIG, self.trace, self.pacer)
        self.bands = list(bands)
        self.maps = join(self.bands)
        with self.trace.stage("labels"):
            clock.pass_s(labels_s)
        self.pacer.finish()
        self.report = self.pacer.report()
        self.wall_s = clock.now - self.trace.started_s + END_S
        self.n_windows = sum(member.n_windows for member in members)


def timed_run(image, window_s, *, slow_after=None, slowdown=3, first_s=0.0, **options):
    clock = Clock()
    members = [
        TimedBackend(
            uneven, clock, window_s, slow_after=slow_after, slowdown=slowdown, first_s=first_s
        )
        for _ in range(2)
    ]
    return Run(image, members, clock, **options)


class ScriptedPacer:
    """Changes to a plan as soon as a number of windows has been predicted."""

    def __init__(self, plan, script):
        self.plan, self.script, self.rows = plan, dict(script), {}
        self.costs, self.n_windows = Costs(2, 4), 0

    def now(self):
        return 0.0

    def note_windows(self, member, n_windows, seconds):
        self.n_windows += n_windows
        self.costs.rates[member].add(n_windows, seconds)

    def review(self, work):
        for after in [after for after in self.script if after <= self.n_windows]:
            self.plan = self.script.pop(after)
            self.rows[after] = work.row


def scripted(image, plan, script, function=uneven):
    members = [FunctionBackend(function), FunctionBackend(lambda x: 2 * function(x) - 1)]
    pacer = ScriptedPacer(plan, script)
    source = ArraySource(image)
    bands = predict_paced_bands(source, BYTES, members, CONFIG, Trace(), pacer)
    return join(bands), pacer


def unpaced(image, plan, function=uneven):
    members = [FunctionBackend(function), FunctionBackend(lambda x: 2 * function(x) - 1)]
    config = EngineConfig(plan=plan, roi_size=32)
    members = members[: plan.max_members]
    return join(predict_bands(ArraySource(image), BYTES, members, config, Trace()))


# Maps


@pytest.mark.parametrize("top", ladder_below(Plan(), 2), ids=lambda plan: plan.name)
def test_plan_that_is_kept_gives_the_maps_of_the_plain_engine(top):
    image = image_of(101, 64)
    found, _ = scripted(image, top, {})
    np.testing.assert_allclose(found, unpaced(image, top), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_image_of_any_size_has_the_maps_of_the_plain_engine(height, width):
    image = image_of(height, width)
    found, _ = scripted(image, Plan(), {})
    np.testing.assert_allclose(found, unpaced(image, Plan()), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("n_windows", [0, 1, 7, 60, 150, 299, 400])
def test_rows_after_a_drop_are_those_of_a_run_without_the_dropped_passes(n_windows):
    image = image_of(149, 77)
    paper = Plan()
    for lower in (TWO_FLIPS, ENSEMBLE, ONE_PASS):
        found, pacer = scripted(image, paper, {n_windows: lower})
        row = pacer.rows.get(n_windows, 149)
        np.testing.assert_allclose(
            found[:, :row], unpaced(image, paper)[:, :row], rtol=0, atol=TOLERANCE
        )
        np.testing.assert_allclose(
            found[:, row:], unpaced(image, lower)[:, row:], rtol=0, atol=TOLERANCE
        )


def test_second_drop_leaves_the_rows_between_with_what_they_had():
    image = image_of(149, 77)
    paper = Plan()
    found, pacer = scripted(image, paper, {90: ENSEMBLE, 170: ONE_PASS})
    first, second = pacer.rows[90], pacer.rows[170]
    assert 0 < first < second < 149
    expected = unpaced(image, paper)
    expected[:, first:] = unpaced(image, ENSEMBLE)[:, first:]
    expected[:, second:] = unpaced(image, ONE_PASS)[:, second:]
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("height", "width", "overlap", "n_windows"),
    [
        *((*size, 0.1, 5) for size in SIZES),
        *((101, 64, overlap, 13) for overlap in (0.25, 0.0)),
        *((101, 64, 0.1, n_windows) for n_windows in (0, 1, 13, 40)),
    ],
)
def test_merge_of_identity_returns_the_input_when_windows_move_apart(
    height, width, overlap, n_windows
):
    image = image_of(height, width)
    top = Plan(max_members=1, flips=("identity",))
    lower = Plan("lower", 1, ("identity",), overlap)
    found, _ = scripted(image, top, {n_windows: lower}, identity)
    np.testing.assert_allclose(found, as_maps(image), rtol=0, atol=TOLERANCE)


def test_windows_of_every_flip_and_model_can_move_apart():
    image = image_of(149, 101)
    members = [FunctionBackend(lambda x: torch.ones_like(x))] * 2
    pacer = ScriptedPacer(Plan(), {100: Plan("lower", 2, ALL_FLIPS, 0.1)})
    bands = predict_paced_bands(ArraySource(image), BYTES, members, CONFIG, Trace(), pacer)
    # Ones from every pass: flips turn the sign of one flow each.
    expected = np.float32([1 / 3, 1 / 3, 1])[:, None, None]
    np.testing.assert_allclose(join(bands), np.broadcast_to(expected, (3, 149, 101)), atol=1e-5)


def test_windows_further_apart_are_fewer():
    image, counts = image_of(149, 101), []
    for after in (0, 30, 60, 10**9):
        pacer = ScriptedPacer(
            Plan("single", 1, ("identity",)), {after: Plan("tiles", 1, ("identity",), 0.0)}
        )
        backend = FunctionBackend(identity)
        bands = predict_paced_bands(ArraySource(image), BYTES, [backend], CONFIG, Trace(), pacer)
        assert join(bands).shape == (3, 149, 101)
        counts.append(backend.n_windows)
    assert counts == sorted(counts)
    assert counts[0] == 5 * 4
    assert counts[-1] == 11 * 7


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_bands_cover_the_image_without_gaps(height, width):
    run = timed_run(image_of(height, width), ROOMY)
    row = 0
    for band in run.bands:
        assert band.shape[0::2] == (3, width)
        row += band.shape[1]
    assert row == height


def test_output_that_is_not_finite_is_an_error_naming_the_image():
    clock = Clock()
    broken = TimedBackend(lambda x: x * np.nan, clock, ROOMY)
    with pytest.raises(PredictionError, match=r"cells\.png: found NaN or infinity"):
        Run(image_of(40, 50), [broken], clock)


class SmallMemoryBackend(FunctionBackend):
    """Has room for two windows only."""

    def start(self, inputs):
        if len(inputs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return super().start(inputs)


@pytest.mark.usefixtures("as_accelerator")
def test_full_device_memory_halves_the_batch_and_gives_the_same_maps():
    image = image_of(101, 77)
    run = Run(image, [SmallMemoryBackend(uneven, batch=16)], Clock())
    expected = unpaced(image, Plan(max_members=1))
    np.testing.assert_allclose(run.maps, expected, rtol=0, atol=TOLERANCE)
    assert run.trace.warnings[0].startswith("device memory is full; batch is now")


# Choice


@pytest.mark.parametrize(
    ("window_s", "name"),
    [(0.0001, "paper"), (0.0033, "paper"), (0.007, "overlap-40"), (0.0105, "overlap-25"),
     (0.016, "overlap-10"), (0.024, "two-flips"), (0.045, "ensemble"), (0.09, "one-pass"),
     (0.098, "tiles")],
)  # fmt: skip
def test_richest_plan_that_fits_is_chosen_and_finishes_as_predicted(window_s, name):
    run = timed_run(image_of(300, 200), window_s)
    assert run.report["plan"]["name"] == name
    assert run.report["fits"]
    assert run.report["changes"] == []
    assert run.wall_s <= 0.86 * tolerance_s(300, 200)
    assert run.report["predicted_s"] == pytest.approx(run.wall_s, abs=0.1)
    assert run.report["n_windows"] == run.n_windows
    assert run.trace.warnings == ()


def test_plan_that_fits_gives_its_own_maps():
    image = image_of(101, 77)
    # Where nothing is known yet, the first windows are laid as for the richest plan.
    known = timed_run(image, 0.08).costs
    run = timed_run(image, 0.08, costs=known)
    members = [FunctionBackend(uneven), FunctionBackend(uneven)]
    assert run.report["plan"]["name"] == "overlap-25"
    config = EngineConfig(plan=Plan(overlap=0.25), roi_size=32)
    expected = join(predict_bands(ArraySource(image), BYTES, members, config, Trace()))
    np.testing.assert_allclose(run.maps, expected, rtol=0, atol=TOLERANCE)


def test_larger_images_have_more_time():
    deadline = Deadline("large.png", 2000, 2000, 0.5)
    assert (deadline.tolerance_s, deadline.aim_s, deadline.limit_s) == (40.0, 20.0, 30.0)


def test_time_before_the_image_is_counted():
    young, old = (timed_run(image_of(101, 77), 0.02, age_s=age_s) for age_s in (0.0, 6.0))
    assert young.report["plan"]["name"] == "paper"
    assert old.report["plan"]["name"] == "overlap-25"
    assert old.wall_s <= 8.6


def test_time_outside_the_process_is_counted_as_well():
    run = timed_run(image_of(101, 77), 0.02, outside_s=6.0)
    assert run.report["plan"]["name"] == "overlap-25"
    assert run.report["outside_s"] == 6.0
    assert run.wall_s <= 8.6 - 6.0
    assert run.report["predicted_s"] == pytest.approx(run.wall_s + 6.0, abs=0.5)
    assert "outside_s" not in timed_run(image_of(101, 77), 0.02).report


def test_scale_is_the_fraction_of_the_tolerance_to_aim_at():
    run = timed_run(image_of(101, 77), 0.02, scale=0.3)
    assert run.report["aim_s"] == pytest.approx(3.0)
    assert run.report["plan"]["name"] == "overlap-40"


def test_first_window_is_part_of_the_plan_and_timed_alone():
    sizes = []
    clock = Clock()
    backend = TimedBackend(lambda x: sizes.append(len(x)) or x.clone(), clock, 0.02)
    run = Run(image_of(101, 77), [backend], clock, top=Plan(max_members=1))
    assert sizes[0] == 1
    assert max(sizes) == 4
    assert run.n_windows == 3 * 7 * 5


def test_slow_first_call_does_not_cost_quality():
    run = timed_run(image_of(101, 77), 0.02, first_s=0.1)
    assert run.report["plan"]["name"] == "paper"
    assert run.wall_s <= 8.6


def test_warm_up_of_an_accelerator_does_not_cost_quality():
    # The first window takes 100 times as long as the others.
    costs = Costs(2, 4, warms_up=True)
    run = timed_run(image_of(101, 77), 0.02, first_s=2.0, costs=costs)
    assert run.report["plan"]["name"] == "paper"
    assert run.report["changes"] == []
    assert run.wall_s <= 10


def test_slow_first_call_decides_when_there_is_no_time_for_another_one():
    run = timed_run(image_of(101, 77), 0.3, first_s=2.0)
    assert run.report["plan"]["name"] == "one-pass"
    assert run.n_windows == 4 * 3


def test_nothing_fits_is_a_warning_and_the_cheapest_plan():
    run = timed_run(image_of(300, 200), 3.0)
    assert run.report["plan"]["name"] == "tiles"
    assert not run.report["fits"]
    assert run.n_windows == 10 * 7
    (warning,) = run.trace.warnings
    assert "s predicted for plan tiles, the cheapest that is left" in warning


def test_of_plans_that_cost_the_same_the_richest_is_named():
    run = timed_run(image_of(101, 77), 3.0)
    assert (run.report["plan"]["name"], run.n_windows) == ("one-pass", 4 * 3)


def test_later_images_use_what_is_known():
    image, clock = image_of(101, 77), Clock()
    members = [TimedBackend(uneven, clock, 0.02) for _ in range(2)]
    first = Run(image, members, clock, labels_s=0.1)
    sizes = []
    members = [
        TimedBackend(lambda x: sizes.append(len(x)) or uneven(x), clock, 0.02) for _ in range(2)
    ]
    second = Run(image, members, clock, costs=first.costs)
    assert second.report["predicted_s"] == pytest.approx(second.wall_s, abs=0.1)
    assert sizes[0] == 4


def test_slow_labels_of_earlier_images_are_expected_again():
    image, clock = image_of(400, 300), Clock()
    members = [TimedBackend(uneven, clock, 0.001) for _ in range(2)]
    first = Run(image, members, clock, labels_s=14.0)
    assert first.report["plan"]["name"] == "paper"
    second = Run(image, members, clock, costs=first.costs, labels_s=7.0)
    assert second.report["plan"]["name"] == "two-flips"
    assert second.wall_s <= 10


# Slower half-way


@pytest.mark.parametrize("window_s", [0.0005, 0.0021, 0.0036, 0.006, 0.012, 0.022])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_three_times_slower_half_way_still_holds(window_s, share):
    image = image_of(300, 200)
    plain = timed_run(image, window_s, age_s=1.0)
    assert plain.report["changes"] == []
    slow_after = int(share * plain.members[0].n_windows)
    run = timed_run(image, window_s, slow_after=slow_after, age_s=1.0, labels_s=0.18)
    assert run.report["plan"] == plain.report["plan"]
    assert run.wall_s <= tolerance_s(300, 200)


def test_dropped_passes_are_reported_with_their_row():
    image = image_of(300, 200)
    run = timed_run(image, 0.003, slow_after=500, slowdown=30)
    assert run.report["plan"]["name"] == "paper"
    change = run.report["changes"][0]
    assert set(change) == {"row", "plan", "dropped", "predicted_s", "reason"}
    assert 0 < change["row"] < 300
    assert "model 1 vertical" in change["dropped"]
    assert "paper would take" in change["reason"]
    assert run.trace.warnings[0].startswith(f"from row {change['row']} on plan")
    above = slice(0, change["row"])
    expected = join(
        predict_bands(ArraySource(image), BYTES, [FunctionBackend(uneven)] * 2, CONFIG, Trace())
    )
    np.testing.assert_allclose(run.maps[:, above], expected[:, above], rtol=0, atol=TOLERANCE)


def test_slowness_that_does_no_harm_drops_nothing():
    run = timed_run(image_of(300, 200), 0.0005, slow_after=900)
    assert run.report["changes"] == []


def test_too_slow_for_anything_half_way_is_a_warning():
    run = timed_run(image_of(300, 200), 0.02, slow_after=100, slowdown=50)
    assert run.report["fits"]
    assert run.report["changes"][-1]["plan"]["overlap"] < 0.25
    assert any("the image may exceed its tolerance" in warning for warning in run.trace.warnings)


def test_nothing_is_dropped_that_has_been_paid_for():
    # Slow from the last row of windows on: the passes are nearly complete, dropping saves little.
    image = image_of(300, 200)
    plain = timed_run(image, 0.003)
    run = timed_run(image, 0.003, slow_after=plain.members[0].n_windows - 3, slowdown=30)
    assert run.report["changes"] == []
