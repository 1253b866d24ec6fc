"""A device that the engine takes for an accelerator."""

import pytest

from mediar_infer.engine.torch_ops import TorchOps


@pytest.fixture
def as_accelerator(monkeypatch):
    """Let the engine compute in torch, as on an accelerator, though tensors lie on the CPU."""
    monkeypatch.setattr("mediar_infer.engine.ensemble.select_array_ops", TorchOps)
