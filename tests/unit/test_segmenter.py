"""The Python API on fake networks: every image gets an answer or a clear error."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import FunctionBackend, tiny_state_dict
from slides import SlideScene, decode_scene

import mediar_infer
from mediar_infer.config import PLANS, EngineConfig, MaskConfig, Plan, RuntimeConfig
from mediar_infer.engine.merging import merge_channels
from mediar_infer.errors import (
    CheckpointError,
    ImageReadError,
    PredictionError,
    ShapeError,
    UsageError,
)
from mediar_infer.image_trace import Trace
from mediar_infer.images.sources import ArraySource
from mediar_infer.network.backends.torch_backend import TorchBackend
from mediar_infer.network.checkpoints import save_weights
from mediar_infer.segmenter import Segmenter

SMALL = EngineConfig(roi_size=64)
UNCHECKED = EngineConfig(roi_size=64, masks=MaskConfig(flow_threshold=None))
"""Made-up flow would not pass the flow check."""
ONE_THREAD = RuntimeConfig(threads=1)


@pytest.fixture(autouse=True)
def _restore_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def plus_noise(inputs):
    """Some flow and some foreground everywhere."""
    flow = torch.sin(30 * inputs[:, :2] + torch.arange(inputs.shape[3]) / 7) * 5
    return torch.cat([flow, 4 * inputs[:, 2:] - 1], dim=1)


@pytest.fixture
def noisy():
    return Segmenter([FunctionBackend(plus_noise), FunctionBackend(plus_noise)], UNCHECKED)


@pytest.fixture(scope="module")
def slide():
    scene = SlideScene(170, 230)
    return scene.render_rows(0, 170), scene.label_rows(0, 170)


@pytest.fixture
def perfect():
    return Segmenter([FunctionBackend(decode_scene)], SMALL)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    for seed, name in enumerate(("from_phase1", "from_phase2")):
        save_weights(tiny_state_dict(seed), folder / f"{name}.safetensors")
    return folder


def assert_complete(result, height, width):
    assert result.labels.shape == (height, width)
    assert result.labels.dtype == np.int32
    assert result.flow.shape == (2, height, width)
    assert result.cellprob.shape == (height, width)
    assert result.flow.dtype == result.cellprob.dtype == np.float32
    assert np.isfinite(result.flow).all()
    assert result.cellprob.min() >= 0
    assert result.cellprob.max() <= 1
    assert result.n_cells == result.labels.max()


def test_every_cell_of_a_slide_is_found(slide, perfect):
    image, true = slide
    result = perfect.segment(image)
    assert_complete(result, *true.shape)
    assert result.n_cells == true.max()
    assert np.mean((result.labels > 0) == (true > 0)) > 0.995
    assert set(result.timings) == {"read", "preprocess", "network", "labels"}
    assert result.warnings == ()


def test_cell_probability_is_the_sigmoid_of_the_mean_logit(slide):
    image, _ = slide
    members = [
        FunctionBackend(lambda inputs, logit=logit: torch.full_like(inputs, logit))
        for logit in (-1.0, 3.0)
    ]
    result = Segmenter(members, SMALL).segment(image)
    np.testing.assert_allclose(result.cellprob, 1 / (1 + np.exp(-1)), rtol=1e-5)


@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_probability_of_extreme_logits_does_not_overflow(logit):
    backend = FunctionBackend(lambda inputs: torch.full_like(inputs, logit))
    result = Segmenter([backend], SMALL).segment(np.ones((4, 5), np.uint8))
    assert_complete(result, 4, 5)
    assert result.cellprob.round().max() == (logit > 0)


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 7), (7, 1), (1, 300), (300, 1), (63, 65), (64, 64), (31, 500), (5, 5, 4)]
)
@pytest.mark.parametrize("blocks", ["auto", "stitched"])
def test_every_shape_gets_an_answer(rng, noisy, shape, blocks):
    noisy.config = replace(SMALL, masks=MaskConfig(blocks=blocks))
    image = rng.integers(0, 256, shape, dtype=np.uint8)
    assert_complete(noisy.segment(image), *shape[:2])


def test_long_and_narrow_image_at_the_released_window_size(rng):
    segmenter = Segmenter([FunctionBackend(plus_noise)], EngineConfig(plan=Plan(max_members=1)))
    assert_complete(segmenter.segment(rng.integers(0, 9, (31, 2000), dtype=np.uint8)), 31, 2000)


@pytest.mark.parametrize(
    "dtype",
    [bool, np.uint8, np.int8, np.uint16, np.int16, np.int32, np.uint32, np.int64, np.uint64,
     np.float16, np.float32, np.float64],
)  # fmt: skip
def test_every_dtype_gets_an_answer(rng, noisy, dtype):
    image = (rng.random((20, 30, 3)) * 100).astype(dtype)
    assert_complete(noisy.segment(image), 20, 30)


@pytest.mark.parametrize("value", [0, 1, 200])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_black_and_constant_images_get_an_answer(noisy, value, dtype):
    result = noisy.segment(np.full((20, 30), value, dtype=dtype))
    assert_complete(result, 20, 30)
    (warning,) = result.warnings
    assert warning.startswith("all pixels")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_some_values_that_are_not_finite_are_reported(rng, noisy, bad):
    image = rng.random((20, 30)).astype(np.float32)
    image[5, 5] = bad
    result = noisy.segment(image)
    assert_complete(result, 20, 30)
    assert len(result.warnings) == 1
    assert "NaN or infinite" in result.warnings[0]


def test_image_of_nan_only_is_an_error(noisy):
    with pytest.raises(ImageReadError, match="no finite pixel"):
        noisy.segment(np.full((20, 30), np.nan, np.float32))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((0, 5), np.uint8),
        np.zeros((5, 0), np.uint8),
        np.zeros(5, np.uint8),
        np.zeros((2, 3, 4, 5), np.uint8),
        np.zeros((3, 40, 50), np.uint8),
        np.zeros((5, 5), np.complex64),
        np.array([["a"]]),
    ],
    ids=lambda image: f"{image.shape} {image.dtype}",
)
def test_array_that_is_no_image_is_an_error(noisy, image):
    with pytest.raises(ShapeError, match="expected"):
        noisy.segment(image)


@pytest.mark.parametrize("n_channels", [1, 2, 3, 4, 7])
def test_any_number_of_channels_is_read(rng, noisy, n_channels):
    image = rng.integers(0, 256, (12, 14, n_channels), dtype=np.uint8)
    result = noisy.segment(image)
    assert_complete(result, 12, 14)
    assert len(result.warnings) == (n_channels not in (1, 3))


def test_image_is_not_modified(slide, perfect):
    image = slide[0].copy()
    image.flags.writeable = False
    perfect.segment(image)
    np.testing.assert_array_equal(image, slide[0])


def test_an_opened_image_is_segmented_as_its_array_is(slide, perfect):
    image, _ = slide
    of_array, of_source = perfect.segment(image), perfect.segment_source(ArraySource(image))
    np.testing.assert_array_equal(of_source.labels, of_array.labels)
    np.testing.assert_array_equal(of_source.flow, of_array.flow)


def test_channels_are_merged_whoever_opened_the_image(rng):
    bright = rng.integers(1000, 5000, (60, 70))
    channels = np.stack([bright, rng.integers(1, 60, bright.shape)], axis=2).astype(np.uint16)
    seen = []

    def watch(inputs):
        seen.append(inputs.clone())
        return plus_noise(inputs)

    segmenter = Segmenter([FunctionBackend(watch)], EngineConfig(plan=PLANS["fast"], roi_size=64))
    source = ArraySource(channels, channels=("0+1",))
    with merge_channels(source) as merged:
        segmenter.segment_source(merged)
    of_merged, seen[:] = torch.cat(seen), []
    trace = Trace()
    with segmenter.begin(source, trace) as work:
        list(work.labels())
    assert torch.equal(torch.cat(seen), of_merged)
    seen.clear()
    segmenter.segment(channels, channels=("0+1",))
    assert torch.equal(torch.cat(seen), of_merged)


def test_view_that_is_not_contiguous_gives_the_same(slide, perfect):
    image, _ = slide
    wide = np.repeat(image, 2, axis=1)[:, ::2]
    assert not wide.flags.c_contiguous
    np.testing.assert_array_equal(perfect.segment(wide).labels, perfect.segment(image).labels)


def test_segmenting_twice_gives_the_same(slide, perfect):
    first, second = perfect.segment(slide[0]), perfect.segment(slide[0])
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.flow, second.flow)


def test_network_output_of_nan_is_an_error():
    backend = FunctionBackend(lambda inputs: inputs / 0 * 0)
    with pytest.raises(PredictionError, match="NaN or infinity"):
        Segmenter([backend], SMALL).segment(np.ones((20, 30), np.uint8))


def test_bands_of_labels_are_those_of_the_whole(slide, perfect):
    image, _ = slide
    perfect.config = replace(SMALL, masks=MaskConfig(blocks="stitched", block_size=64))
    with perfect.begin(ArraySource(image), Trace()) as work:
        bands = list(work.labels())
    assert sum(len(band) for band in bands) == 170
    np.testing.assert_array_equal(np.concatenate(bands), perfect.segment(image).labels)


def test_plan_limits_the_number_of_models():
    members = [FunctionBackend(plus_noise), FunctionBackend(plus_noise)]
    segmenter = Segmenter(members, EngineConfig(plan=Plan(max_members=1), roi_size=64))
    segmenter.segment(np.ones((9, 9), np.uint8))
    assert members[0].n_windows > 0
    assert members[1].n_windows == 0


def test_budget_with_time_to_spare_gives_the_whole_plan(rng):
    image = rng.integers(0, 256, (100, 90), dtype=np.uint8)
    members = [FunctionBackend(plus_noise), FunctionBackend(plus_noise)]
    plain = Segmenter(members, UNCHECKED).segment(image)
    result = Segmenter(members, replace(UNCHECKED, fit_budget=0.85)).segment(image)
    np.testing.assert_allclose(result.flow, plain.flow, rtol=0, atol=1e-4)
    assert result.warnings == ()
    assert plain.budget is None
    assert result.budget is not None
    assert result.budget["plan"]["name"] == "paper"
    assert result.budget["n_windows"] == 3 * 2 * 9


# Weights


def test_pair_is_loaded_from_its_folder(pair):
    config = EngineConfig(runtime=ONE_THREAD, roi_size=64)
    segmenter = Segmenter.from_weights(pair, config)
    assert list(segmenter.digests) == ["from_phase1.safetensors", "from_phase2.safetensors"]
    assert len(segmenter.members) == 2
    assert all(isinstance(member, TorchBackend) for member in segmenter.members)
    assert torch.get_num_threads() == 1
    assert_complete(segmenter.segment(np.arange(2000, dtype=np.uint16).reshape(40, 50)), 40, 50)


def test_package_offers_the_segmenter_and_its_settings(pair):
    config = mediar_infer.EngineConfig(runtime=mediar_infer.RuntimeConfig(threads=1), roi_size=64)
    segmenter = mediar_infer.Segmenter.from_weights([pair / "from_phase1.safetensors"], config)
    assert isinstance(segmenter.segment(np.ones((3, 3))), mediar_infer.Segmentation)
    with pytest.raises(AttributeError, match="no attribute 'Segmentor'"):
        _ = mediar_infer.Segmentor


def test_one_file_loads_with_a_warning_that_there_is_no_ensemble(pair, caplog):
    path = pair / "from_phase2.safetensors"
    config = EngineConfig(runtime=ONE_THREAD, roi_size=64)
    with caplog.at_level(logging.WARNING):
        segmenter = Segmenter.from_weights(str(path), config)
    assert "one model only" in caplog.text
    assert list(segmenter.digests) == [path.name]


def test_plan_of_one_model_loads_one_file_without_a_warning(pair, caplog):
    config = EngineConfig(plan=Plan(max_members=1), runtime=ONE_THREAD)
    with caplog.at_level(logging.WARNING):
        segmenter = Segmenter.from_weights(pair, config)
    assert list(segmenter.digests) == ["from_phase1.safetensors"]
    assert caplog.text == ""


def test_same_weights_twice_are_refused(pair, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes((pair / "from_phase1.safetensors").read_bytes())
    config = EngineConfig(runtime=ONE_THREAD)
    with pytest.raises(CheckpointError, match="found the same weights twice"):
        Segmenter.from_weights([pair / "from_phase1.safetensors", copy], config)


def test_two_files_of_one_name_keep_both_digests(pair, tmp_path):
    other = tmp_path / "from_phase1.safetensors"
    other.write_bytes((pair / "from_phase2.safetensors").read_bytes())
    config = EngineConfig(runtime=ONE_THREAD)
    segmenter = Segmenter.from_weights([pair / "from_phase1.safetensors", other], config)
    assert len(set(segmenter.digests.values())) == len(segmenter.digests) == 2


def test_missing_weights_are_an_error_before_anything_else(tmp_path):
    with pytest.raises(CheckpointError, match="no such weight file"):
        Segmenter.from_weights(tmp_path / "nothing.pth")


def test_openvino_without_an_exported_graph_is_an_error(pair):
    config = EngineConfig(runtime=RuntimeConfig(backend="openvino", threads=1))
    with pytest.raises(UsageError, match="weights graph"):
        Segmenter.from_weights(pair, config)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_on_the_cpu_stays_near_float32(pair, precision):
    image = np.random.default_rng(0).integers(0, 256, (70, 90), dtype=np.uint8)
    maps = []
    for each in ("float32", precision):
        runtime = RuntimeConfig(device="cpu", precision=each, backend="torch", threads=1)
        result = Segmenter.from_weights(pair, EngineConfig(runtime=runtime, roi_size=64)).segment(
            image
        )
        assert_complete(result, 70, 90)
        maps.append(np.concatenate([result.flow, result.cellprob[None]]))
    assert np.abs(maps[0] - maps[1]).max() < 0.05 * max(1, np.abs(maps[0]).max())


@pytest.mark.parametrize("blocks", ["auto", "stitched"])
def test_confidence_is_that_of_the_maps_and_given_only_if_asked_for(slide, perfect, blocks):
    image, _ = slide
    perfect.config = replace(SMALL, masks=MaskConfig(blocks=blocks))
    result = perfect.segment(image, confidence=True)
    expected = [
        result.cellprob[result.labels == each].mean() for each in range(1, result.n_cells + 1)
    ]
    np.testing.assert_allclose(result.confidence.mean_cellprob, expected, rtol=1e-5)
    assert result.confidence.flow_error.shape == (result.n_cells,)
    assert result.confidence.flow_error.max() <= MaskConfig().max_flow_error
    assert perfect.segment(image).confidence is None
