"""``predict`` on a CUDA device that is not there: the labels of the CPU."""

import json

import numpy as np
import pytest
import tifffile
import torch
from fakes import FunctionBackend
from slides import SlideScene, decode_scene

from mediar_infer.config import PLANS, EngineConfig
from mediar_infer.devices import CPU, Device
from mediar_infer.labels.reading import read_labels
from mediar_infer.network.backends.torch_backend import TorchBackend
from mediar_infer.network.checkpoints import build_model, load_checkpoint
from mediar_infer.segmenter import Segmenter


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i, size in enumerate([(700, 300), (200, 600)]):
        scene = SlideScene(*size, seed=i)
        tifffile.imwrite(folder / f"{i}.tif", scene.render_rows(0, size[0]), photometric="rgb")
    return folder


@pytest.mark.parametrize("blocks", ["auto", "stitched"])
@pytest.mark.usefixtures("perfect_network")
def test_labels_are_those_of_the_cpu(images, tmp_path, predict, fake_cuda, monkeypatch, blocks):
    assert predict(images, tmp_path / "cpu", "--blocks", blocks) == 0
    before = fake_cuda.n_late_copies
    monkeypatch.setattr(
        Segmenter,
        "from_pending",
        lambda loading: Segmenter([_Distant(decode_scene)], loading.config, {"p": "0" * 64}),
    )
    assert predict(images, tmp_path / "gpu", "--blocks", blocks) == 0
    assert before == 0 < fake_cuda.n_late_copies
    for i in range(2):
        of_cpu, of_gpu = (
            read_labels(tmp_path / kind / f"{i}_label.tiff") for kind in ("cpu", "gpu")
        )
        assert of_cpu.max() > 10
        np.testing.assert_array_equal(of_gpu, of_cpu)
    lines = (tmp_path / "gpu" / "ledger.jsonl").read_text().splitlines()
    assert all("wait" in json.loads(line)["stages_s"] for line in lines)


class _Distant(FunctionBackend):
    """Gives tensors, from a device of its own."""

    def __init__(self, function):
        super().__init__(function)
        self.device = Device("cuda", 0)


@pytest.mark.usefixtures("fake_cuda")
def test_half_precision_runs_through_the_command_line(images, tmp_path, predict, monkeypatch):
    (images / "0.tif").unlink()
    made = []
    start = TorchBackend.start
    monkeypatch.setattr(
        TorchBackend, "start", lambda self, inputs: made.append(self) or start(self, inputs)
    )
    assert predict(images, tmp_path / "labels", "--device", "cuda") == 0
    assert {(backend.precision, str(backend.device)) for backend in made} == {("float16", "cuda:0")}


def test_float32_maps_of_a_device_differ_by_rounding_only(images, weights_dir, fake_cuda):
    image = tifffile.imread(images / "1.tif")
    paths = sorted(weights_dir.glob("*.safetensors"))

    def maps_on(device):
        members = [
            TorchBackend(build_model(load_checkpoint(path)), device, "float32") for path in paths
        ]
        return Segmenter(members, EngineConfig(plan=PLANS["fast"])).segment(image).flow

    of_cpu = maps_on(CPU)
    assert fake_cuda.n_late_copies == 0
    difference = np.abs(maps_on(Device("cuda", 0)) - of_cpu).max()
    assert fake_cuda.n_late_copies > 0
    assert difference <= 1e-5 * max(1.0, float(np.abs(of_cpu).max()))
    assert torch.backends.cudnn.allow_tf32
