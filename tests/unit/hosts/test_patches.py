"""The functions that Sopa and LazySlide call; the programs themselves are in tests/consumers."""

import pickle

import numpy as np
import pytest
import torch
from fakes import FunctionBackend
from folder_helpers import slide
from slides import decode_scene

import mediar_infer
from mediar_infer.config import PLANS, EngineConfig, RuntimeConfig
from mediar_infer.errors import ImageReadError, ShapeError, UsageError
from mediar_infer.hosts import patches
from mediar_infer.hosts.patches import PatchSegmenter
from mediar_infer.hosts.slide_model import SlideModel
from mediar_infer.labels.metrics import evaluate_labels
from mediar_infer.segmenter import Segmenter

FAST = EngineConfig(plan=PLANS["fast"], runtime=RuntimeConfig(device="cpu", threads=1))


@pytest.fixture
def loaded(monkeypatch):
    """Put a network that knows the generated slides in place of any weights; list what is asked."""
    asked = []

    def load(weights, config):
        asked.append((weights, config))
        return Segmenter([FunctionBackend(decode_scene)], config)

    monkeypatch.setattr(patches, "load_segmenter", load)
    return asked


def f1(true, found):
    return evaluate_labels(true, found, (0.5,))[0].f1


def test_a_patch_becomes_labels(loaded):
    image, true = slide()
    before = image.copy()
    labels = PatchSegmenter(config=FAST)(np.moveaxis(image, -1, 0))
    assert (labels.shape, labels.dtype) == ((120, 150), np.int32)
    assert f1(true, labels) == 1
    assert (image == before).all()


def test_settings_are_passed_on(loaded):
    PatchSegmenter("some", FAST)(np.zeros((1, 40, 50), np.uint8))
    ((weights, config),) = loaded
    assert ([path.name for path in weights], config) == (["some"], FAST)


def test_channels_are_chosen(loaded):
    image, true = slide()
    patch = np.moveaxis(image[..., ::-1], -1, 0)
    assert f1(true, PatchSegmenter(config=FAST, channels=(2, 1, 0))(patch)) == 1
    with pytest.raises(ImageReadError, match="no channel '3'"):
        PatchSegmenter(config=FAST, channels=(3,))(patch)


@pytest.mark.parametrize("shape", [(6, 3, 50), (5, 1, 9), (7, 4, 5)])
def test_a_flat_patch_of_many_channels_is_an_image(loaded, shape):
    labels = PatchSegmenter(config=FAST)(np.zeros(shape, np.uint8))
    assert labels.shape == shape[1:]


def test_a_patch_that_is_no_image_is_refused(loaded):
    with pytest.raises(ShapeError, match="expected"):
        PatchSegmenter(config=FAST)(np.zeros((2, 3, 40, 50)))
    with pytest.raises(UsageError, match="at most 3"):
        PatchSegmenter(config=FAST, channels=(0, 1, 0, 1))(np.zeros((2, 40, 50)))


@pytest.mark.parametrize("shape", [(40, 50), (40, 40), (50,)])
def test_a_patch_without_an_axis_of_channels_is_refused_and_not_turned(loaded, shape):
    with pytest.raises(ShapeError, match=r"expected \(C, Y, X\)"):
        PatchSegmenter(config=FAST)(np.zeros(shape, np.uint8))


def test_masked_pixels_of_a_patch_are_refused(loaded):
    patch = np.ma.masked_equal(np.zeros((1, 40, 50), np.uint8), 0)
    with pytest.raises(ShapeError, match="2,000 masked values"):
        PatchSegmenter(config=FAST)(patch)


def test_tensors_and_lazy_arrays_are_patches(loaded):
    image, _ = slide()
    patch = np.moveaxis(image, -1, 0)
    method = PatchSegmenter(config=FAST)
    expected = method(patch)
    lazy = pytest.importorskip("dask.array").from_array(patch, chunks=(1, 50, 50))
    for each in (torch.from_numpy(patch.copy()).to(torch.bfloat16), lazy):
        np.testing.assert_array_equal(method(each), expected)


def test_settings_go_to_workers_and_networks_stay():
    method = PatchSegmenter("some", FAST, channels=(0,))
    copied = pickle.loads(pickle.dumps(method))
    assert vars(copied) == vars(method)


def test_a_batch_of_tiles_becomes_instance_maps(loaded, monkeypatch):
    pytest.importorskip("lazyslide_models")
    image, true = slide()
    model = SlideModel(config=FAST)
    tile = model.get_transform()(image)
    assert (tile.shape, tile.dtype) == ((3, 120, 150), torch.uint8)
    output = model.to("cpu").segment(torch.stack([tile, torch.zeros_like(tile)]))
    assert output.instance_map.shape == (2, 120, 150)
    assert f1(true, output.instance_map[0].numpy()) == 1
    assert not output.instance_map[1].any()


def test_the_host_chooses_the_device(loaded):
    model = SlideModel(config=FAST).to(torch.device("cuda:1"))
    assert model._patches.config.runtime.device == "cuda:1"
    assert model._patches.config.plan == FAST.plan


def test_both_are_public():
    assert mediar_infer.PatchSegmenter is PatchSegmenter
    assert mediar_infer.SlideModel is SlideModel
