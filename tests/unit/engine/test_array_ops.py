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
    of_numpy, of_torch = (ops.start_to_host(compute(ops))() for ops in (HOST, TORCH))
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
    np.testing.assert_array_equal(ops.start_to_host(ops.from_host(frozen))(), MAPS)
    ops.wait()


def test_a_cpu_computes_in_numpy_and_anything_else_in_torch():
    assert isinstance(select_array_ops(CPU), HostOps)
    assert isinstance(select_array_ops(Device("mps")), TorchOps)


def test_full_memory_of_a_device_is_noticed_and_that_of_the_host_is_not_hidden():
    assert TORCH.out_of_memory == (torch.OutOfMemoryError,)
    assert HOST.out_of_memory == ()


@pytest.mark.parametrize("ops", [HOST, TORCH], ids=["numpy", "torch"])
def test_a_join_of_one_array_is_a_new_array(ops):
    sums = ops.zeros(3, 4, 5)
    taken = ops.concatenate([sums[:, 1:3]], axis=1)
    sums[...] = 7
    np.testing.assert_array_equal(ops.start_to_host(taken)(), np.zeros((3, 2, 5)))


def test_arrays_leave_the_device_beside_its_work_and_are_waited_for(fake_cuda):
    ops = TorchOps(Device("cuda", 0))
    finish = ops.start_to_host(ops.from_host(MAPS))
    assert fake_cuda.n_late_copies == 1
    np.testing.assert_array_equal(finish(), MAPS)


def test_copies_that_overlap_arrive_as_they_were(fake_cuda):
    ops = TorchOps(Device("cuda", 0))
    finishes = [ops.start_to_host(ops.from_host(MAPS + i)) for i in range(3)]
    for i in (0, 1, 2):
        np.testing.assert_array_equal(finishes[i](), MAPS + i)
    assert fake_cuda.n_late_copies == 3


def test_what_travels_to_the_device_lies_in_page_locked_memory(fake_cuda):
    ops = TorchOps(Device("cuda", 0))
    ops.from_host(MAPS)
    inputs = ops.to_inputs([np.full((3, 4, 4), 51, np.uint8)] * 2)
    assert fake_cuda.n_page_locked == 2
    np.testing.assert_array_equal(inputs.numpy(), np.full((2, 3, 4, 4), 0.2, np.float32))
