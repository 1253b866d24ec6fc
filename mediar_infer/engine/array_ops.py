"""What the engine does with arrays on the device: numpy on the CPU, torch on accelerators."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from mediar_infer.arrays import AnyArray, Float32Array
from mediar_infer.devices import Device

DeviceArray: TypeAlias = Any
"""A float32 array on the device: ``numpy.ndarray`` on the CPU, ``torch.Tensor`` elsewhere. Both
slice, add and multiply alike; everything in which they differ is an operation of ``ArrayOps``."""


class ArrayOps(Protocol):
    """The operations in which numpy and torch differ, for arrays on one device."""

    @property
    def bands_in_flight(self) -> int:
        """Bands that may be on their way to the host while windows below them are predicted."""
        ...

    @property
    def out_of_memory(self) -> tuple[type[Exception], ...]:
        """What is raised when memory of the device is full; nothing on the CPU."""
        ...

    def zeros(self, *shape: int) -> DeviceArray:
        """Make an array of zeros."""
        ...

    def from_host(self, array: Float32Array) -> DeviceArray:
        """Bring an array to the device; it may share its memory."""
        ...

    def start_to_host(self, array: DeviceArray) -> Callable[[], Float32Array]:
        """Start to bring an array, which nothing modifies from here on, to the host.

        Returns:
            A function that waits for the array on the host and returns it, to be called once.
        """
        ...

    def to_inputs(self, crops: Sequence[AnyArray]) -> DeviceArray:
        """Stack crops ``(3, h, w)`` uint8 into ``(N, 3, h, w)`` in [0, 1] on the device."""
        ...

    def stack(self, arrays: Sequence[DeviceArray]) -> DeviceArray:
        """Stack arrays of one shape along a new first axis."""
        ...

    def concatenate(self, arrays: Sequence[DeviceArray], axis: int = 0) -> DeviceArray:
        """Join arrays along an axis: a new array, even of a single one."""
        ...

    def flip(self, array: DeviceArray, axis: int) -> DeviceArray:
        """Reverse an axis: a new array."""
        ...

    def copy(self, array: DeviceArray) -> DeviceArray:
        """Copy an array."""
        ...

    def wait(self) -> None:
        """Wait until the device has done what it was asked to do."""
        ...


class HostOps:
    """Implements :class:`ArrayOps` on numpy arrays."""

    bands_in_flight = 0
    out_of_memory: tuple[type[Exception], ...] = ()

    def zeros(self, *shape: int) -> Float32Array:
        """See :meth:`ArrayOps.zeros`."""
        return np.zeros(shape, np.float32)

    def from_host(self, array: Float32Array) -> Float32Array:
        """See :meth:`ArrayOps.from_host`."""
        return array

    def start_to_host(self, array: Float32Array) -> Callable[[], Float32Array]:
        """See :meth:`ArrayOps.start_to_host`."""
        return lambda: array

    def to_inputs(self, crops: Sequence[AnyArray]) -> Float32Array:
        """See :meth:`ArrayOps.to_inputs`."""
        inputs = np.stack(crops).astype(np.float32)
        inputs /= np.float32(255)
        return inputs

    def stack(self, arrays: Sequence[Float32Array]) -> Float32Array:
        """See :meth:`ArrayOps.stack`."""
        return np.stack(arrays)

    def concatenate(self, arrays: Sequence[Float32Array], axis: int = 0) -> Float32Array:
        """See :meth:`ArrayOps.concatenate`."""
        return np.concatenate(arrays, axis)

    def flip(self, array: Float32Array, axis: int) -> Float32Array:
        """See :meth:`ArrayOps.flip`."""
        return np.ascontiguousarray(np.flip(array, axis))

    def copy(self, array: Float32Array) -> Float32Array:
        """See :meth:`ArrayOps.copy`."""
        return array.copy()

    def wait(self) -> None:
        """See :meth:`ArrayOps.wait`."""


def select_array_ops(device: Device) -> ArrayOps:
    """Choose numpy for the CPU and torch for everything else."""
    if device.type == "cpu":
        return HostOps()
    from mediar_infer.engine.torch_ops import TorchOps

    return TorchOps(device)
