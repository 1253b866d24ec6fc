"""The engine's operations on torch tensors, for accelerators.

Nothing here waits for the device, except ``wait`` and the functions that ``start_to_host`` returns.
On CUDA, arrays travel from and to page-locked memory, as others make the host wait for all work
before them. So the host reads, crops and flips windows while the device computes those before.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mediar_infer.arrays import AnyArray, Float32Array
from mediar_infer.devices import Device

_MAX_BYTE = 255.0


class TorchOps:
    """Implements :class:`mediar_infer.engine.array_ops.ArrayOps` on tensors.

    Args:
        device: where they lie.
    """

    bands_in_flight = 8
    """A row of windows finishes at most this many bands of 64 rows: the next row of windows is on
    the device before the first of them is waited for."""
    out_of_memory: tuple[type[Exception], ...] = (torch.OutOfMemoryError,)

    def __init__(self, device: Device) -> None:
        self._device = device.to_torch()
        self._is_cuda = device.type == "cuda"

    def zeros(self, *shape: int) -> Tensor:
        """See :meth:`ArrayOps.zeros`."""
        return torch.zeros(shape, dtype=torch.float32, device=self._device)

    def from_host(self, array: Float32Array) -> Tensor:
        """See :meth:`ArrayOps.from_host`; torch refuses memory that must not be written to."""
        writeable = array if array.flags.writeable else array.copy()
        tensor = torch.from_numpy(writeable)
        return self._send(self._staged(tensor.shape, tensor.dtype).copy_(tensor))

    def start_to_host(self, array: Tensor) -> Callable[[], Float32Array]:
        """See :meth:`ArrayOps.start_to_host`."""
        if not self._is_cuda:
            return lambda: _to_numpy(array.cpu())
        on_host = self._staged(array.shape, array.dtype)
        on_host.copy_(array, non_blocking=True)
        # On the stream of this device, which need not be the thread's current one; blocking, so
        # that the core is free for the label stage meanwhile.
        arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        arrived.record(torch.cuda.current_stream(self._device))

        def finish() -> Float32Array:
            arrived.synchronize()
            return _to_numpy(on_host).copy()  # page-locked memory is scarce: it is used again

        return finish

    def to_inputs(self, crops: Sequence[AnyArray]) -> Tensor:
        """See :meth:`ArrayOps.to_inputs`; a byte a value travels to the device."""
        tensors = [torch.from_numpy(crop) for crop in crops]
        shape = (len(tensors), *tensors[0].shape)
        stacked = torch.stack(tensors, out=self._staged(shape, tensors[0].dtype))
        # In two steps: a copy that changes the type as well would change it on the host.
        # By a tensor, because CUDA multiplies by the rounded reciprocal of a number.
        return self._send(stacked).float() / torch.full((), _MAX_BYTE, device=self._device)

    def stack(self, arrays: Sequence[Tensor]) -> Tensor:
        """See :meth:`ArrayOps.stack`."""
        return torch.stack(list(arrays))

    def concatenate(self, arrays: Sequence[Tensor], axis: int = 0) -> Tensor:
        """See :meth:`ArrayOps.concatenate`."""
        return torch.cat(list(arrays), axis)

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

    def _staged(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Make memory of the host that the device reads and writes by itself.

        Its owner may drop it at any time: torch keeps it until the copies under way are done.
        """
        return torch.empty(shape, dtype=dtype, pin_memory=self._is_cuda)

    def _send(self, staged: Tensor) -> Tensor:
        return staged.to(self._device, non_blocking=self._is_cuda)


def _to_numpy(array: Tensor) -> Float32Array:
    on_host: Float32Array = array.numpy()
    return on_host
