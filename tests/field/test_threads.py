"""More threads than cores are not taken silently."""

import pytest
import torch

from mediar_infer.config import EngineConfig, RuntimeConfig
from mediar_infer.devices import available_cores
from mediar_infer.segmenter import Segmenter


@pytest.fixture(autouse=True)
def _restore_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("more", "is_warned"), [(1, True), (0, False)])
def test_more_threads_than_cores_is_a_warning(weights_dir, caplog, more, is_warned):
    runtime = RuntimeConfig(device="cpu", backend="torch", threads=available_cores() + more)
    with caplog.at_level("WARNING"):
        Segmenter.from_weights(weights_dir, EngineConfig(runtime=runtime))
    assert ("found --threads" in caplog.text) == is_warned
