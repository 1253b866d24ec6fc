"""Windows of narrow images that share one: what is computed stays, and takes fewer calls."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import Clock, FunctionBackend, TimedBackend

from mediar_infer.arrays import CELLPROB, FLOW_X
from mediar_infer.config import ALL_FLIPS, PLANS, EngineConfig, Plan, RuntimeConfig
from mediar_infer.engine.bands import predict_bands
from mediar_infer.engine.costs import Costs
from mediar_infer.engine.paced_bands import predict_paced_bands
from mediar_infer.engine.pacing import Deadline, Pacer
from mediar_infer.engine.packing import (
    GAP,
    can_pack,
    count_places,
    fill_sheet,
    list_places,
    window_margins,
)
from mediar_infer.engine.plans import ladder_below, name_dropped
from mediar_infer.engine.preprocess import Scaling
from mediar_infer.image_trace import Trace
from mediar_infer.images.sources import ArraySource

BYTES = Scaling(low=0, high=255, lut=np.arange(256, dtype=np.uint8))
ROI = 128
PACKED = EngineConfig(plan=Plan(packed=True), roi_size=ROI)
SIZES = [(1, 1), (1, 300), (300, 1), (24, 500), (500, 24), (23, 129), (50, 300), (56, 56), (17, 40)]


def local(inputs):
    """A network that sees 5 × 5 pixels, and tells left from right."""
    logits = torch.nn.functional.avg_pool2d(inputs, 5, 1, 2)
    logits[:, FLOW_X] += inputs[:, 1].roll(1, dims=2)
    return logits


def far_sighted(inputs):
    """A network that sees all of a window."""
    return inputs + inputs.mean(dim=(1, 2, 3), keepdim=True)


def image_of(height, width):
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def predict(image, config, function=local, rows=None, batch=4):
    members = [FunctionBackend(function, batch), FunctionBackend(lambda x: 2 * function(x), batch)]
    bands = predict_bands(ArraySource(image), BYTES, members, config, Trace(), rows)
    return np.concatenate(list(bands), axis=1), members[0].n_windows


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("overlap", [0.0, 0.6])
def test_a_network_that_sees_little_gives_the_maps_of_separate_windows(height, width, overlap):
    image = image_of(height, width)
    packed = replace(PACKED, plan=Plan(packed=True, overlap=overlap))
    expected, n_windows = predict(image, replace(packed, plan=Plan(overlap=overlap)))
    maps, n_sheets = predict(image, packed)
    np.testing.assert_allclose(maps, expected, rtol=0, atol=1e-5)
    n_places = count_places(height, width, packed.plan, ROI)
    assert n_places > 1
    assert n_windows / n_places <= n_sheets < n_windows


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_an_accelerator_gives_the_same_maps(height, width, as_accelerator):
    image = image_of(height, width)
    expected, _ = predict(image, replace(PACKED, plan=Plan()))
    np.testing.assert_allclose(predict(image, PACKED)[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(128, 128), (101, 300), (300, 121), (200, 400)])
def test_an_image_of_which_only_one_window_fits_is_predicted_as_ever(height, width):
    image = image_of(height, width)
    expected, n_windows = predict(image, replace(PACKED, plan=Plan()), far_sighted)
    maps, n_sheets = predict(image, PACKED, far_sighted)
    np.testing.assert_array_equal(maps, expected)
    assert n_sheets == n_windows


@pytest.mark.parametrize("rows", [(0, 100), (90, 411), (411, 700), (699, 700)])
def test_some_rows_are_those_of_the_whole_image_to_the_last_bit(rows):
    image = image_of(700, 30)
    whole, _ = predict(image, PACKED, far_sighted)
    part, _ = predict(image, PACKED, far_sighted, rows)
    np.testing.assert_array_equal(part, whole[:, slice(*rows)])


@pytest.mark.parametrize("shape", [(700, 30), (30, 700)])
def test_maps_do_not_depend_on_the_batch(shape):
    image, configs = (
        image_of(*shape),
        [replace(PACKED, runtime=RuntimeConfig(batch=n)) for n in (1, 3)],
    )
    one, three = (predict(image, config, far_sighted)[0] for config in configs)
    np.testing.assert_allclose(one, three, rtol=0, atol=1e-5)


def test_black_parts_of_an_image_are_predicted_once():
    image = np.zeros((24, 2000, 3), np.uint8)
    _, n_sheets = predict(image, PACKED)
    assert n_sheets == 1


def test_device_memory_that_is_full_makes_batches_of_fewer_sheets(as_accelerator):
    image = image_of(24, 900)
    expected, _ = predict(image, PACKED)

    def small_device(inputs):
        if len(inputs) > 1:
            raise torch.OutOfMemoryError
        return local(inputs)

    np.testing.assert_allclose(predict(image, PACKED, small_device)[0], expected, atol=1e-6)


@pytest.mark.parametrize("part_shape", [(24, 512), (25, 60), (512, 100), (248, 248), (2, 2)])
def test_places_keep_their_distance_and_stay_inside(part_shape):
    taken = np.zeros((512, 512), np.uint8)
    height, width = part_shape
    places = list_places(part_shape, 512)
    assert len(places) > 1
    for top, left in places:
        assert 0 <= top <= 512 - height
        assert 0 <= left <= 512 - width
        around = taken[
            max(0, top - GAP) : top + height + GAP, max(0, left - GAP) : left + width + GAP
        ]
        assert not around.any()
        taken[top : top + height, left : left + width] = 1


@pytest.mark.parametrize(
    ("height", "width", "n_places"),
    [
        (24, 60_000, 16),
        (60_000, 24, 16),
        (100, 100, 16),
        (248, 512, 2),
        (249, 600, 1),
        (512, 512, 1),
    ],
)
def test_as_many_windows_share_one_as_fit(height, width, n_places):
    packed, roi_size = Plan(packed=True), 512
    assert count_places(height, width, packed, roi_size) == n_places
    assert can_pack(height, width, roi_size) == (n_places > 1)
    has_margins = window_margins(height, width, packed, roi_size) != (0, 0)
    assert has_margins == (n_places > 1)
    assert count_places(height, width, Plan(), roi_size) == 1
    assert window_margins(height, width, Plan(), roi_size) == (0, 0)


def test_parts_of_a_sheet_are_surrounded_by_black():
    places = list_places((3, 8), 128)
    parts = [np.full((3, 3, 8), i + 1, np.uint8) for i in range(len(places) - 1)]
    sheet = fill_sheet(parts, places, 128)
    assert sheet.sum() == sum(int(part.sum()) for part in parts)
    top, left = places[1]
    assert (sheet[CELLPROB, top : top + 3, left : left + 8] == 2).all()


def test_all_flips_of_a_small_image_share_a_window():
    _, n_sheets = predict(image_of(40, 40), PACKED)
    assert (len(ALL_FLIPS), n_sheets) == (3, 1)


# ---- under a time budget -------------------------------------------------------------------------


def run_paced(image, window_s, plan=None):
    """Maps, what the ledger says, and network calls of an image whose windows take a time."""
    clock, height, width = Clock(), *image.shape[:2]
    members = [
        TimedBackend(local, clock, window_s),
        TimedBackend(lambda x: 2 * local(x), clock, window_s),
    ]
    trace = Trace(clock=clock)
    pacer = Pacer(
        ladder_below(plan or Plan(), 2, can_pack=True),
        Costs(2, members[0].batch),
        Deadline("cells.png", height, width, 0.85),
        trace,
    )
    config = EngineConfig(roi_size=ROI)
    bands = predict_paced_bands(ArraySource(image), BYTES, members, config, trace, pacer)
    maps = np.concatenate(list(bands), axis=1)
    return maps, pacer.report(), sum(member.n_windows for member in members)


@pytest.mark.parametrize(("height", "width"), [(24, 1000), (1000, 24), (50, 300)])
@pytest.mark.parametrize("top", [Plan(), Plan(packed=True)], ids=["separate", "packed"])
def test_with_time_enough_a_budget_changes_nothing(height, width, top):
    image = image_of(height, width)
    config = replace(PACKED, plan=top)
    expected, n_windows = predict(image, config)
    maps, report, n_predicted = run_paced(image, 1e-6, top)
    np.testing.assert_allclose(maps, expected, rtol=0, atol=1e-5)
    assert report["plan"]["name"] == "paper"
    # Passes are not packed with each other, so that they can be dropped.
    assert 2 * n_windows <= n_predicted <= 2 * n_windows + 12


@pytest.mark.parametrize(("height", "width"), [(24, 1000), (1000, 24)])
def test_an_image_that_would_be_late_is_packed_before_anything_is_dropped(height, width):
    image = image_of(height, width)
    expected, n_windows = predict(image, replace(PACKED, plan=Plan()))
    maps, report, n_predicted = run_paced(image, 10 / (2 * n_windows))
    assert (report["plan"]["name"], report["plan"]["packed"], report["fits"]) == (
        "packed", True, True,
    )  # fmt: skip
    assert report["plan"]["overlap"] == Plan().overlap
    assert report["changes"] == []
    np.testing.assert_allclose(maps, expected, rtol=0, atol=1e-5)
    assert n_predicted < n_windows
    assert report["predictions_s"]["packed"] < 0.5 * report["predictions_s"]["paper"]


def test_an_image_that_is_late_packed_as_well_goes_further_down():
    image = image_of(1000, 24)
    _, n_windows = predict(image, replace(PACKED, plan=Plan()))
    maps, report, n_predicted = run_paced(image, 40 / (2 * n_windows))
    assert report["plan"]["overlap"] < Plan().overlap
    assert report["plan"]["packed"]
    assert n_predicted < n_windows / 2
    assert np.isfinite(maps).all()


def test_images_of_which_one_window_fits_are_not_packed():
    assert not any(plan.packed for plan in ladder_below(Plan(), 2))
    names = [plan.name for plan in ladder_below(Plan(), 2, can_pack=True)]
    assert names[:3] == ["paper", "packed", "overlap-40"]
    assert "packed" not in [plan.name for plan in ladder_below(Plan(packed=True), 2)]
    names = [plan.name for plan in ladder_below(PLANS["fast"], 2, can_pack=True)]
    assert names == ["fast", "packed", "one-pass", "tiles"]
    first, second = ladder_below(Plan(), 2, can_pack=True)[:2]
    assert name_dropped(first, second) == ["separate windows"]
