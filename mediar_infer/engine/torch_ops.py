"""The engine's operations on torch tensors, for accelerators."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mediar_infer.arrays import AnyArray, Float32Array
from mediar_infer.devices import Device


class TorchOps:
    """Implements :class:`mediar_infer.engine.array_ops.ArrayOps` on tensors.

    Args:
        device: where they lie.
    """

    out_of_memory: tuple[type[Exception], ...] = (torch.OutOfMemoryError,)

    def __init__(self, device: Device) -> None:
        self._device = device.to_torch()

    def zeros(self, *shape: int) -> Tensor:
        """See :meth:`ArrayOps.zeros`."""
        return torch.zeros(shape, dtype=torch.float32, device=self._device)

    def from_host(self, array: Float32Array) -> Tensor:
        """See :meth:`ArrayOps.from_host`; torch refuses memory that must not be written to."""
        writeable = array if array.flags.writeable else array.copy()
        return torch.from_numpy(writeable).to(self._device)

    def to_host(self, array: Tensor) -> Float32Array:
        """See :meth:`ArrayOps.to_host`."""
        on_host: Float32Array = array.cpu().numpy()
        return on_host

    def to_inputs(self, crops: Sequence[AnyArray]) -> Tensor:
        """See :meth:`ArrayOps.to_inputs`; a byte a value travels to the device."""
        stacked = torch.stack([torch.from_numpy(crop) for crop in crops])
        return stacked.to(self._device, torch.float32) / 255

    def stack(self, arrays: Sequence[Tensor]) -> Tensor:
        """See :meth:`ArrayOps.stack`."""
        return torch.stack(list(arrays))

    def concatenate(self, arrays: Sequence[Tensor]) -> Tensor:
        """See :meth:`ArrayOps.concatenate`."""
        return torch.cat(list(arrays))

    def flip(self, array: Tensor, axis: int) -> Tensor:
        """See :meth:`ArrayOps.flip`."""
        return array.flip(axis)

    def copy(self, array: Tensor) -> Tensor:
        """See :meth:`ArrayOps.copy`."""
        return array.clone()

    def wait(self) -> None:
        """See :meth:`ArrayOps.wait`: calls return before their work is done."""
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
