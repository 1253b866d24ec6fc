"""The engine's operations: numpy and torch give the same arrays to the last bit."""

import numpy as np
import pytest
import torch

from mediar_infer.devices import CPU, Device
from mediar_infer.engine.array_ops import HostOps, select_array_ops
from mediar_infer.engine.torch_ops import TorchOps

RANDOM = np.random.default_rng(5)
MAPS = RANDOM.normal(size=(3, 6, 7)).astype(np.float32)
HOST, TORCH = HostOps(), TorchOps(CPU)


@pytest.mark.parametrize(
    "compute",
    [
        lambda ops: ops.zeros(2, 3),
        lambda ops: ops.from_host(MAPS),
        lambda ops: ops.stack([ops.from_host(MAPS)] * 2),
        lambda ops: ops.concatenate([ops.from_host(MAPS), ops.zeros(1, 6, 7)]),
        lambda ops: ops.flip(ops.from_host(MAPS), -1),
        lambda ops: ops.copy(ops.from_host(MAPS)) * ops.from_host(MAPS[:1]),
    ],
    ids=["zeros", "from_host", "stack", "concatenate", "flip", "copy"],
)
def test_both_compute_the_same(compute):
    of_numpy, of_torch = (ops.to_host(compute(ops)) for ops in (HOST, TORCH))
    assert of_numpy.dtype == of_torch.dtype == np.float32
    np.testing.assert_array_equal(of_numpy, of_torch)


def test_every_byte_becomes_the_same_input():
    crops = [np.arange(256, dtype=np.uint8).reshape(1, 16, 16).repeat(3, 0)] * 2
    inputs = HOST.to_inputs(crops)
    assert inputs.shape == (2, 3, 16, 16)
    np.testing.assert_array_equal(inputs, TORCH.to_inputs(crops).numpy())
    np.testing.assert_array_equal(inputs, torch.from_numpy(np.stack(crops)).float() / 255)


@pytest.mark.parametrize("ops", [HOST, TORCH], ids=["numpy", "torch"])
def test_a_copy_is_independent_and_read_only_arrays_are_taken(ops):
    frozen = MAPS.copy()
    frozen.flags.writeable = False
    copy = ops.copy(ops.from_host(frozen))
    copy += 1
    np.testing.assert_array_equal(ops.to_host(ops.from_host(frozen)), MAPS)
    ops.wait()


def test_a_cpu_computes_in_numpy_and_anything_else_in_torch():
    assert isinstance(select_array_ops(CPU), HostOps)
    assert isinstance(select_array_ops(Device("mps")), TorchOps)


def test_full_memory_of_a_device_is_noticed_and_that_of_the_host_is_not_hidden():
    assert TORCH.out_of_memory == (torch.OutOfMemoryError,)
    assert HOST.out_of_memory == ()
