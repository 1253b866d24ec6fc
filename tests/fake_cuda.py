"""A CUDA device that is not there: everything asks for it, and its tensors lie on the CPU.

Copies from the device arrive late: until their event has been waited for, the host reads NaN. So a
missing wait fails a test, as it might fail on a device.
"""

from types import SimpleNamespace

import torch

from mediar_infer.devices import Device


class FakeEvent:
    """An event of a stream; the copies that were started before it arrive when it is waited for."""

    def __init__(self, *, blocking=False):
        assert blocking, "the host would spin"
        self._before = None

    def record(self, stream):
        self._before, stream.copies[:] = stream.copies[:], []

    def synchronize(self):
        for target, values in self._before:
            COPY(target, values)


class FakeStream:
    def __init__(self):
        self.copies = []


COPY, EMPTY, AUTOCAST = torch.Tensor.copy_, torch.empty, torch.autocast
with torch.device("meta"):
    # At the first such call torch keeps a list of what makes tensors; replaced functions must not
    # get into it, as they would stay there when they are put back.
    EMPTY(0)


def pretend_cuda(monkeypatch):
    """Let torch find one CUDA device; returns what happened on it."""
    stream, seen = FakeStream(), SimpleNamespace(n_page_locked=0, n_late_copies=0)

    def empty(*shape, pin_memory=False, **options):
        seen.n_page_locked += pin_memory
        return EMPTY(*shape, **options)

    def copy(target, source, non_blocking=False):
        if not non_blocking:
            return COPY(target, source)
        seen.n_late_copies += 1
        stream.copies.append((target, source.clone()))
        return target.fill_(torch.nan)

    properties = SimpleNamespace(name="Fake H100", total_memory=80 << 30)
    for name, value in {
        "cuda.is_available": lambda: True,
        "cuda.device_count": lambda: 1,
        "cuda.is_bf16_supported": lambda: True,
        "cuda.get_device_properties": lambda _: properties,
        "cuda.Event": FakeEvent,
        "cuda.current_stream": lambda _: stream,
        "empty": empty,
        "Tensor.copy_": copy,
        # Autocast of the device that the tensors really are on.
        "autocast": lambda _, *args, **options: AUTOCAST("cpu", *args, **options),
    }.items():
        monkeypatch.setattr(f"torch.{name}", value)
    monkeypatch.setattr(Device, "to_torch", lambda _: torch.device("cpu"))
    return seen
