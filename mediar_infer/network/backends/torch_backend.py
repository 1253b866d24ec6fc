"""The network in torch: the reference on every device, and the way it runs on CUDA and MPS."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from mediar_infer.devices import Device

_BATCH = {"cuda": 16, "mps": 4, "cpu": 1}
_HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class TorchBackend:
    """A module in evaluation mode on one device, under autocast where a half type is chosen.

    Args:
        model: the network with its weights; moved to the device.
        device: where it runs.
        precision: ``float32``, ``float16`` or ``bfloat16``.
        batch: windows per call; 0 takes what suits the device.
    """

    def __init__(self, model: nn.Module, device: Device, precision: str, batch: int = 0) -> None:
        self.name, self.precision = "torch", precision
        self.device = device
        self.batch = batch or _BATCH.get(device.type, 1)
        self._half = _HALF.get(precision)
        # Convolutions run fastest when the channels of a pixel lie side by side.
        self._model = model.eval().to(str(device)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def start(self, inputs: Any) -> Callable[[], Any]:  # noqa: ANN401 (array of the device)
        """Predict logits; see :class:`mediar_infer.network.backends.Backend`."""
        windows = torch.as_tensor(inputs).contiguous(memory_format=torch.channels_last)
        autocast = torch.autocast(self.device.type, self._half) if self._half else nullcontext()
        with torch.no_grad(), autocast:
            logits = self._model(windows).float()
        result = logits.numpy() if self.device.type == "cpu" else logits
        return lambda: result
