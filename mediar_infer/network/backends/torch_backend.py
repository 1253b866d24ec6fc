"""The network in torch: the reference on every device, and the way it runs on CUDA and MPS."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from threading import Lock
from typing import Any

import torch
from torch import nn

from mediar_infer.devices import Device
from mediar_infer.network.backends.torch_network import fold_norms, halve_weights

_BATCH = {"cuda": 16, "mps": 4, "cpu": 1}
_HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_SETTINGS = Lock()
"""Torch's settings are those of the process: one thread would take back another's."""


class TorchBackend:
    """A module in evaluation mode on one device, under autocast where a half type is chosen.

    Args:
        model: the network with its weights, put into evaluation mode; float32 on a CPU uses it as
            it is, anything else a copy.
        device: where it runs.
        precision: ``float32``, ``float16`` or ``bfloat16``.
        batch: windows per call; 0 takes what suits the device.
    """

    def __init__(self, model: nn.Module, device: Device, precision: str, batch: int = 0) -> None:
        self.name, self.precision = "torch", precision
        self.device = device
        self.batch = batch or _BATCH.get(device.type, 1)
        self._half = _HALF.get(precision)
        network = model.eval()
        if device.type != "cpu" or self._half:
            network = deepcopy(network)
        if device.type != "cpu":
            fold_norms(network)
        if self._half:
            halve_weights(network, self._half)
        # Convolutions run fastest when the channels of a pixel lie side by side.
        self._model = network.to(device.to_torch()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def start(self, inputs: Any) -> Callable[[], Any]:  # noqa: ANN401 (array of the device)
        """Predict logits; see :class:`mediar_infer.network.backends.Backend`."""
        windows = torch.as_tensor(inputs).contiguous(memory_format=torch.channels_last)
        autocast = torch.autocast(self.device.type, self._half) if self._half else nullcontext()
        exact = _exact_products() if self.device.type == "cuda" else nullcontext()
        with torch.no_grad(), autocast, exact:
            logits = self._model(windows).float()
        result = logits.numpy() if self.device.type == "cpu" else logits
        return lambda: result


@contextmanager
def _exact_products() -> Iterator[None]:
    """Let float32 be float32: by default, CUDA rounds what it convolves to TF32, 10 bits.

    Algorithms are chosen by rules, not by trials (``cudnn.benchmark``): the number of windows in a
    batch varies, each would start trials of its own, and the next run might choose differently.
    """
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    with _SETTINGS:
        before = convolutions.allow_tf32, products.allow_tf32, convolutions.benchmark
        convolutions.allow_tf32 = products.allow_tf32 = convolutions.benchmark = False
        try:
            yield
        finally:
            convolutions.allow_tf32, products.allow_tf32, convolutions.benchmark = before
