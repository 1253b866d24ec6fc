"""The streaming engine with fake networks: what is merged, read, retried and refused."""

import gc
import weakref

import numpy as np
import pytest
import torch
from fakes import FunctionBackend

from mediar_infer.arrays import CELLPROB, FLOW_X, FLOW_Y
from mediar_infer.config import ALL_FLIPS, EngineConfig, Plan, RuntimeConfig
from mediar_infer.devices import Device
from mediar_infer.engine import bands as bands_module
from mediar_infer.engine import ensemble as engine
from mediar_infer.engine.bands import count_windows, list_window_rows, predict_bands
from mediar_infer.engine.preprocess import Scaling
from mediar_infer.engine.torch_ops import TorchOps
from mediar_infer.errors import PredictionError
from mediar_infer.image_trace import Trace
from mediar_infer.images.sources import ArraySource

BYTES = Scaling(low=0, high=255, lut=np.arange(256, dtype=np.uint8))
SIZES = [(1, 1), (1, 70), (70, 1), (31, 33), (32, 32), (33, 31), (45, 44), (101, 64), (31, 500)]
TOLERANCE = 1e-5


def identity(inputs):
    return inputs.clone()


def plus_one(inputs):
    return inputs + 1


def equivariant(inputs):
    """A mirrored window gives mirrored maps with the mirrored flow reversed."""
    rows = torch.linspace(-1, 1, inputs.shape[2])[:, None]
    columns = torch.linspace(-1, 1, inputs.shape[3])
    mean = inputs.mean(dim=(1, 2, 3))[:, None, None]
    logits = torch.empty_like(inputs)
    logits[:, FLOW_Y] = rows * (inputs[:, 0] + mean)
    logits[:, FLOW_X] = columns * (inputs[:, 1] + rows.square() + mean)
    logits[:, CELLPROB] = inputs[:, 2] * (2 - columns.abs()) * (2 - rows.abs())
    return logits


def config_of(flips=("identity",), overlap=0.6, batch=0):
    plan = Plan(flips=flips, overlap=overlap)
    return EngineConfig(plan=plan, runtime=RuntimeConfig(batch=batch), roi_size=32)


def bands_of(image, members, config, source=None):
    source = source or ArraySource(image, "cells.png")
    return list(predict_bands(source, BYTES, members, config, Trace()))


def maps_of(image, members, config):
    return np.concatenate(bands_of(image, members, config), axis=1)


def as_maps(image):
    return image.transpose(2, 0, 1).astype(np.float32) / 255


@pytest.fixture
def image(rng):
    return rng.integers(0, 256, (101, 77, 3), dtype=np.uint8)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_merge_of_identity_returns_the_input(rng, height, width, overlap):
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    found = maps_of(image, [FunctionBackend(identity)], config_of(overlap=overlap))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, as_maps(image), rtol=0, atol=TOLERANCE)


def test_merge_over_models_is_their_mean(image):
    members = [FunctionBackend(identity), FunctionBackend(lambda inputs: 3 * inputs + 1)]
    found = maps_of(image, members, config_of())
    np.testing.assert_allclose(found, 2 * as_maps(image) + 0.5, rtol=0, atol=TOLERANCE)


def test_merge_over_flips_is_the_mean_of_unflipped_maps(image):
    # The same output in every pass: flips turn the sign of one flow each.
    found = maps_of(image, [FunctionBackend(plus_one)], config_of(ALL_FLIPS))
    expected = (as_maps(image) + 1) * np.float32([1 / 3, 1 / 3, 1])[:, None, None]
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("flip", "axis", "channel"), [("horizontal", 2, 1), ("vertical", 1, 0)])
@pytest.mark.parametrize(("height", "width"), [(1, 70), (33, 45), (32, 32), (77, 60), (60, 77)])
def test_maps_of_a_flipped_image_are_flipped_maps(rng, height, width, flip, axis, channel):
    # A pass and its mirrored pass change places, so this holds at the clamped windows too.
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    config = config_of(("identity", flip))
    members = [FunctionBackend(equivariant)]
    expected = np.flip(maps_of(image, members, config), axis).copy()
    expected[channel] *= -1
    found = maps_of(np.flip(image, axis - 1), members, config)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_bands_cover_the_image_without_gaps(rng, height, width):
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    row = 0
    for band in bands_of(image, [FunctionBackend(identity)], config_of(ALL_FLIPS)):
        assert band.shape[0::2] == (3, width)
        assert 0 < band.shape[1] <= 32
        row += band.shape[1]
    assert row == height


class WatchedSource(ArraySource):
    """Remembers which rows were read, and how far."""

    def __init__(self, image):
        super().__init__(image, "watched.png")
        self.n_reads = np.zeros(self.height, dtype=int)
        self.read_to = 0

    def read_rows(self, top, bottom):
        self.n_reads[top:bottom] += 1
        self.read_to = max(self.read_to, bottom)
        return super().read_rows(top, bottom)


def test_every_row_is_read_once_and_no_earlier_than_needed(image):
    source = WatchedSource(image)
    members, row = [FunctionBackend(identity)], 0
    for band in predict_bands(source, BYTES, members, config_of(ALL_FLIPS), Trace()):
        assert source.read_to <= row + 2 * 32
        row += band.shape[1]
    assert (source.n_reads == 1).all()


@pytest.mark.parametrize("rows", [(0, 101), (13, 60)])
def test_bands_are_low_and_leave_no_row_out(monkeypatch, image, rows):
    monkeypatch.setattr(bands_module, "BAND_ROWS", 5)
    bands = list(
        predict_bands(
            ArraySource(image), BYTES, [FunctionBackend(identity)], config_of(), Trace(), rows
        )
    )
    assert max(band.shape[1] for band in bands) == 5
    found = np.concatenate(bands, axis=1)
    np.testing.assert_allclose(found, as_maps(image)[:, slice(*rows)], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("batch", [1, 3, 7, 1000])
def test_result_does_not_depend_on_the_batch(image, batch):
    reference = maps_of(image, [FunctionBackend(equivariant, batch=4)], config_of(ALL_FLIPS))
    found = maps_of(image, [FunctionBackend(equivariant)], config_of(ALL_FLIPS, batch=batch))
    np.testing.assert_allclose(found, reference, rtol=0, atol=1e-6)


def test_batch_of_the_settings_goes_before_that_of_the_backend(image):
    sizes = []
    backend = FunctionBackend(lambda inputs: sizes.append(len(inputs)) or inputs.clone(), batch=4)
    maps_of(image, [backend], config_of(batch=2))
    assert max(sizes) == 2
    sizes.clear()
    maps_of(image, [backend], config_of())
    assert max(sizes) == 4


def test_network_sees_float32_windows_in_zero_to_one(image):
    seen = []
    backend = FunctionBackend(lambda inputs: seen.append(inputs.clone()) or inputs.clone())
    maps_of(np.full((20, 40, 3), 255, np.uint8), [backend], config_of())
    inputs = torch.cat(seen)
    assert inputs.dtype == torch.float32
    assert inputs.shape[1:] == (3, 32, 32)
    # The image lies in the middle of the padded window: (32 - 20) / 2 zero rows on each side.
    assert (inputs[:, :, 6:26] == 1).all()
    assert (inputs[:, :, :6] == 0).all()
    assert (inputs[:, :, 26:] == 0).all()


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_counted_windows_are_those_that_are_predicted(rng, height, width):
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    members = [FunctionBackend(identity), FunctionBackend(identity)]
    config = config_of(ALL_FLIPS)
    maps_of(image, members, config)
    n_windows = sum(member.n_windows for member in members)
    assert n_windows == count_windows(height, width, config, len(members))


def test_stages_are_timed(image):
    trace = Trace()
    members = [FunctionBackend(identity)]
    list(predict_bands(ArraySource(image), BYTES, members, config_of(), trace))
    assert list(trace.stages_s) == ["read", "preprocess", "network"]


def test_image_is_not_modified(image):
    before = image.copy()
    maps_of(image, [FunctionBackend(identity)], config_of(ALL_FLIPS))
    np.testing.assert_array_equal(image, before)


@pytest.fixture
def slide():
    """Cells in one corner, two colours of empty slide around them, some of it of a third."""
    slide = np.full((260, 300, 3), 240, dtype=np.uint8)
    slide[:, 200:] = (10, 20, 30)
    slide[:40, :50] = np.random.default_rng(3).integers(0, 256, (40, 50, 3))
    slide[250:] = 0
    return slide


def test_windows_of_one_colour_are_predicted_once_with_the_same_maps(slide, monkeypatch):
    config, members = config_of(ALL_FLIPS), [FunctionBackend(equivariant) for _ in range(2)]
    found = maps_of(slide, members, config)
    monkeypatch.setattr(engine, "_only_colour", lambda _: None)
    others = [FunctionBackend(equivariant) for _ in range(2)]
    np.testing.assert_array_equal(found, maps_of(slide, others, config))
    assert [member.n_windows for member in others] == [count_windows(260, 300, config, 1)] * 2
    assert members[0].n_windows == members[1].n_windows < others[0].n_windows / 2


def test_an_image_of_one_colour_takes_one_window():
    backend = FunctionBackend(equivariant)
    bands_of(np.full((200, 150, 3), 7, np.uint8), [backend], config_of(ALL_FLIPS))
    assert backend.n_windows == 1


def test_many_colours_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(engine, "_MAX_BLANK", 2)
    stripes = np.repeat(np.arange(8, dtype=np.uint8), 64)[:, None, None]
    stripes = np.broadcast_to(stripes, (512, 64, 3)).copy()
    backend = FunctionBackend(equivariant)
    found = maps_of(stripes, [backend], config_of(ALL_FLIPS))
    monkeypatch.setattr(engine, "_only_colour", lambda _: None)
    expected = maps_of(stripes, [FunctionBackend(equivariant)], config_of(ALL_FLIPS))
    np.testing.assert_array_equal(found, expected)


class SmallMemoryBackend(FunctionBackend):
    """Has room for some windows only."""

    def __init__(self, function, room, batch):
        super().__init__(function, batch)
        self.room = room

    def start(self, inputs):
        if len(inputs) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return super().start(inputs)


@pytest.mark.parametrize("flips", [("identity",), ALL_FLIPS])
def test_an_accelerator_computes_the_same_bits(image, flips, request):
    members = [FunctionBackend(equivariant), FunctionBackend(identity)]
    of_host = maps_of(image, members, config_of(flips))
    request.getfixturevalue("as_accelerator")
    np.testing.assert_array_equal(maps_of(image, members, config_of(flips)), of_host)


@pytest.mark.usefixtures("as_accelerator")
@pytest.mark.parametrize("room", [1, 2, 5])
def test_full_device_memory_halves_the_batch_and_gives_the_same_maps(image, room):
    reference = maps_of(image, [FunctionBackend(equivariant)], config_of(ALL_FLIPS))
    backend = SmallMemoryBackend(equivariant, room=room, batch=16)
    source = ArraySource(image, "cells.png")
    trace = Trace()
    bands = list(predict_bands(source, BYTES, [backend], config_of(ALL_FLIPS), trace))
    found = np.concatenate(bands, axis=1)
    np.testing.assert_allclose(found, reference, rtol=0, atol=1e-6)
    assert backend.n_windows == count_windows(101, 77, config_of(ALL_FLIPS), 1)
    assert trace.warnings[0].startswith("device memory is full; batch is now")


@pytest.mark.usefixtures("as_accelerator")
def test_second_model_out_of_memory_does_not_count_the_first_twice(image):
    members = [FunctionBackend(identity, batch=8), SmallMemoryBackend(identity, room=3, batch=8)]
    found = maps_of(image, members, config_of())
    np.testing.assert_allclose(found, as_maps(image), rtol=0, atol=TOLERANCE)


@pytest.mark.usefixtures("as_accelerator")
def test_no_room_for_one_window_is_an_error(image):
    backend = SmallMemoryBackend(identity, room=0, batch=4)
    with pytest.raises(torch.OutOfMemoryError):
        maps_of(image, [backend], config_of())


def test_no_other_error_is_retried(image):
    def fail(inputs):
        raise RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")

    backend = FunctionBackend(fail)
    with pytest.raises(RuntimeError, match="cuDNN"):
        maps_of(image, [backend], config_of())
    assert backend.n_calls == 1


@pytest.mark.parametrize("values", [[np.nan], [np.inf], [-np.inf], [np.inf, -np.inf]])
def test_output_that_is_not_finite_is_an_error_naming_the_image(image, values):
    def broken(inputs):
        logits = inputs.clone()
        for i, value in enumerate(values):
            logits[:, CELLPROB, 12, 12 + i] = value
        return logits

    with pytest.raises(PredictionError, match=r"cells\.png: found NaN or infinity.*precision"):
        maps_of(image, [FunctionBackend(broken)], config_of())


def test_rows_before_a_broken_window_are_delivered(image):
    def broken_below(inputs):
        return torch.where(inputs[:, 2:3] == 1, torch.nan, inputs)

    image = np.minimum(image, 254)
    image[90] = 255
    bands = predict_bands(
        ArraySource(image, "cells.png"), BYTES, [FunctionBackend(broken_below)], config_of(),
        Trace(),
    )  # fmt: skip
    assert next(bands).shape[1] > 0
    with pytest.raises(PredictionError, match=r"from row \d+ on"):
        list(bands)


@pytest.mark.parametrize("flips", [("identity",), ALL_FLIPS])
@pytest.mark.parametrize("rows", [(0, 101), (0, 1), (100, 101), (13, 14), (12, 60), (37, 101)])
def test_maps_of_some_rows_are_those_of_the_whole_image_to_the_last_bit(image, flips, rows):
    config, members = config_of(flips), [FunctionBackend(equivariant), FunctionBackend(plus_one)]
    whole = maps_of(image, members, config)
    bands = list(predict_bands(ArraySource(image), BYTES, members, config, Trace(), rows=rows))
    found = np.concatenate(bands, axis=1)
    assert np.array_equal(found, whole[:, slice(*rows)])


def test_rows_between_two_starts_of_windows_share_the_fewest_windows(image):
    config, backend = config_of(overlap=0.5), FunctionBackend(identity)
    assert list_window_rows(*image.shape[:2], config) == [0, 16, 32, 48, 64, 69]
    list(predict_bands(ArraySource(image), BYTES, [backend], config, Trace(), rows=(32, 64)))
    # Windows at 16, 32 and 48; four in each row of windows.
    assert backend.n_windows == 3 * 4


class ReleasedBackend(FunctionBackend):
    """Full at the first call; says what is left of it at the next."""

    def __init__(self, function):
        super().__init__(function, batch=8)
        self.first, self.left = None, []

    def start(self, inputs):
        if self.first is None:
            activations = inputs.clone()
            self.first = [weakref.ref(inputs), weakref.ref(activations)]
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        self.left += [each() for each in self.first]
        return super().start(inputs)


@pytest.mark.usefixtures("as_accelerator")
def test_nothing_of_a_batch_that_did_not_fit_is_held_while_half_of_it_is_tried(image):
    backend = ReleasedBackend(identity)
    maps_of(image, [backend], config_of())
    assert set(backend.left) == {None}


@pytest.mark.parametrize("flips", [("identity",), ALL_FLIPS])
@pytest.mark.parametrize("overlap", [0.0, 0.6, 0.9])
def test_bands_that_arrive_late_from_a_device_are_the_same(image, flips, overlap, request):
    config, member = config_of(flips, overlap), FunctionBackend(equivariant)
    of_host = maps_of(image, [member], config)
    seen = request.getfixturevalue("fake_cuda")
    member.device = Device("cuda", 0)
    np.testing.assert_array_equal(maps_of(image, [member], config), of_host)
    assert seen.n_late_copies > 3


def test_windows_below_are_predicted_before_a_band_of_a_device_is_waited_for(fake_cuda):
    image = np.random.default_rng(0).integers(0, 256, (400, 40, 3), dtype=np.uint8)
    member = FunctionBackend(identity)
    member.device = Device("cuda", 0)
    bands = predict_bands(ArraySource(image), BYTES, [member], config_of(), Trace())
    next(bands)
    assert 0 < member.n_windows < count_windows(400, 40, config_of(), 1)
    assert fake_cuda.n_late_copies == TorchOps.bands_in_flight + 1
    bands.close()


def test_rows_in_the_middle_arrive_from_a_device_too(image, fake_cuda):
    member = FunctionBackend(equivariant)
    inputs = ArraySource(image, "cells.png"), BYTES, [member], config_of(ALL_FLIPS), Trace()
    whole = np.concatenate(list(predict_bands(*inputs)), axis=1)
    member.device = Device("cuda", 0)
    part = np.concatenate(list(predict_bands(*inputs, rows=(40, 90))), axis=1)
    np.testing.assert_array_equal(part, whole[:, 40:90])
    assert fake_cuda.n_late_copies


def test_weights_of_windows_are_freed_with_their_image_without_the_cycle_collector(
    image, monkeypatch
):
    made, make = [], bands_module.normalised_importance

    def watched(*place):
        weights = make(*place)
        made.append(weakref.ref(weights))
        return weights

    monkeypatch.setattr(bands_module, "normalised_importance", watched)
    gc.disable()
    try:
        maps_of(image, [FunctionBackend(identity)], config_of())
        assert made
        assert all(weights() is None for weights in made)
    finally:
        gc.enable()
