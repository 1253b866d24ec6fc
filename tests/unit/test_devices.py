"""Devices are chosen or refused before anything is loaded onto them."""

from pathlib import Path

import pytest
import torch

from mediar_infer import devices
from mediar_infer.devices import (
    CPU,
    Device,
    describe_device,
    select_device,
    select_precision,
    usable_cores,
)
from mediar_infer.errors import UsageError

CUDA = Device("cuda", 0)


@pytest.fixture
def machine(monkeypatch):
    """Pretend that a machine has some devices."""

    def pretend(n_cuda=0, *, mps=False, bfloat16=True):
        # Otherwise the CPU is certain, and torch is not asked.
        monkeypatch.setattr(devices, "_ACCELERATORS", (Path("/"),))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: n_cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n_cuda)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bfloat16)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(
    ("n_cuda", "mps", "expected"), [(2, True, "cuda:0"), (0, True, "mps"), (0, False, "cpu")]
)
def test_automatic_choice_is_cuda_then_mps_then_cpu(machine, n_cuda, mps, expected):
    machine(n_cuda, mps=mps)
    assert str(select_device("auto")) == expected
    assert str(select_device("auto").to_torch()) == expected


@pytest.fixture
def old_driver(machine, monkeypatch, tmp_path):
    """A machine whose GPU has a driver that is too old for this build of torch."""

    def init():
        raise RuntimeError(
            "The NVIDIA driver on your system is too old (found version 12020). Please update your"
            " GPU driver by downloading one.\nAlternatively, install another build."
        )

    machine(n_cuda=0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(devices, "_NVIDIA", tmp_path)


@pytest.mark.usefixtures("old_driver")
@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:1"])
def test_gpu_with_too_old_a_driver_is_an_error_and_no_reason_for_the_cpu(name):
    with pytest.raises(UsageError) as caught:
        select_device(name)
    assert str(caught.value) == (
        "found an NVIDIA GPU that cannot be used (The NVIDIA driver on your system is too old"
        " (found version 12020)), expected a driver for CUDA 13.0 or newer; update the driver of"
        " the host; or use --device cpu"
    )


@pytest.mark.usefixtures("old_driver")
def test_cpu_may_be_chosen_beside_a_gpu_that_cannot_be_used(monkeypatch):
    assert select_device("cpu") == CPU
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # hidden on purpose
    assert select_device("auto") == CPU


@pytest.mark.usefixtures("old_driver")
def test_build_without_cuda_takes_the_cpu_beside_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    assert select_device("auto") == CPU


def test_named_device_is_taken(machine):
    machine(n_cuda=2, mps=True)
    assert select_device("cpu") == CPU
    assert select_device("cuda") == CUDA
    assert select_device("cuda:1") == Device("cuda", 1)
    assert select_device("mps") == Device("mps")


@pytest.mark.parametrize(("name", "n_cuda"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)])
def test_missing_cuda_device_is_refused_with_the_number_found(machine, name, n_cuda):
    machine(n_cuda)
    with pytest.raises(UsageError, match=f"found {n_cuda} CUDA devices.*--gpus all.*--device cpu"):
        select_device(name)


def test_missing_mps_is_refused(machine):
    machine()
    with pytest.raises(UsageError, match="found no MPS device"):
        select_device("mps")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-1", "meta", "xpu", "CPU", "cuda:0:1"])
def test_other_names_are_refused(machine, name):
    machine(n_cuda=1)
    with pytest.raises(UsageError, match="expected auto, cpu, cuda, cuda:N or mps"):
        select_device(name)


def test_automatic_precision_is_half_on_cuda_only():
    assert select_precision("auto", CUDA) == "float16"
    assert select_precision("auto", CPU) == "float32"
    assert select_precision("auto", Device("mps")) == "float32"


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_named_precision_is_taken(machine, name):
    machine(n_cuda=1)
    assert select_precision(name, CUDA) == name
    assert select_precision(name, CPU) == name


def test_bfloat16_is_refused_where_the_device_has_none(machine):
    machine(n_cuda=1, bfloat16=False)
    with pytest.raises(
        UsageError, match="Tesla T4, which has no bfloat16; use --precision float16"
    ):
        select_precision("bfloat16", CUDA)
    assert select_precision("bfloat16", CPU) == "bfloat16"


@pytest.fixture
def cores(monkeypatch, tmp_path):
    """Pretend a number of cores, a container's quota and a wish."""

    def pretend(n_affine, quota=None, asked=None):
        monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: set(range(n_affine)), False)
        if quota is not None:
            (tmp_path / "cpu.max").write_text(quota)
        monkeypatch.setattr(devices, "_CPU_QUOTA", tmp_path / "cpu.max")
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if asked is not None:
            monkeypatch.setenv("OMP_NUM_THREADS", asked)

    return pretend


@pytest.mark.parametrize(
    ("n_affine", "quota", "asked", "expected"),
    [
        (3, None, None, 3),
        (8, "max 100000\n", None, 8),
        (8, "200000 100000\n", None, 2),
        (8, "250000 100000\n", None, 3),
        (8, "10000 100000\n", None, 1),
        (2, "800000 100000\n", None, 2),
        (8, "nonsense", None, 8),
        (8, None, "5", 5),
        (8, "200000 100000\n", "5", 2),
        (8, None, "16", 8),
        (8, None, "0", 8),
        (8, None, "4,2", 8),
        (8, None, "", 8),
    ],
)
def test_cores_are_the_least_of_affinity_quota_and_wish(cores, n_affine, quota, asked, expected):
    cores(n_affine, quota, asked)
    assert usable_cores() == expected
    assert describe_device(CPU) == f"cpu ({expected} cores)"


def test_cores_of_the_machine_are_taken_where_there_is_no_affinity(cores, monkeypatch):
    cores(3)
    monkeypatch.delattr(devices.os, "sched_getaffinity")
    monkeypatch.setattr(devices.os, "cpu_count", lambda: None)
    assert usable_cores() == 1


@pytest.fixture
def without_torch(monkeypatch):
    """A machine on which torch is not installed."""
    monkeypatch.setattr(devices, "has_torch", lambda: False)


@pytest.mark.usefixtures("without_torch")
def test_without_torch_a_machine_without_gpu_takes_the_cpu(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "_NVIDIA", tmp_path / "absent")
    monkeypatch.setattr(devices, "_ACCELERATORS", (Path("/"),))
    assert select_device("auto") == CPU
    assert select_device("cpu") == CPU


@pytest.mark.usefixtures("without_torch")
@pytest.mark.parametrize(
    ("name", "what"),
    [("auto", "an NVIDIA GPU"), ("cuda", "--device cuda"), ("mps", "--device mps")],
)
def test_an_accelerator_without_torch_is_an_error_that_names_the_extra(
    monkeypatch, tmp_path, name, what
):
    monkeypatch.setattr(devices, "_NVIDIA", tmp_path)
    with pytest.raises(UsageError) as caught:
        select_device(name)
    assert str(caught.value) == (
        f"{what}: found no torch, expected it installed; run: pip install 'mediar-infer[gpu]', or"
        " use --device cpu"
    )
