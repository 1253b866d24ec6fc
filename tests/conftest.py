"""Shared fixtures: seeded randomness, the optional shared data, and the ``--runslow`` switch."""

import logging
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_cuda import pretend_cuda
from fakes import tiny_state_dict

from mediar_infer.labels.kernels.compiled import CompiledKernels, load_library
from mediar_infer.labels.kernels.tensors import TorchKernels
from mediar_infer.network.checkpoints import save_weights

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser):
    parser.addoption("--runslow", action="store_true", help="also run tests marked slow")


def pytest_configure():
    # A shell ignores Ctrl-C for what it starts in the background, and processes inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config, items):
    if config.getoption("--runslow"):
        return
    skip = pytest.mark.skip(reason="slow: run with --runslow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _restore_process_state():
    """Commands set handlers of signals and logs; the next test must not inherit them."""
    handler, package = signal.getsignal(signal.SIGTERM), logging.getLogger("mediar_infer")
    state = (package.handlers[:], package.level, package.propagate)
    n_threads = torch.get_num_threads()
    yield
    signal.signal(signal.SIGTERM, handler)
    package.handlers[:], package.propagate = state[0], state[2]
    package.setLevel(state[1])
    torch.set_num_threads(n_threads)


@pytest.fixture
def rng():
    return np.random.default_rng(19940817)


@pytest.fixture
def fake_cuda(monkeypatch):
    """A CUDA device whose tensors lie on the CPU."""
    return pretend_cuda(monkeypatch)


@pytest.fixture(scope="session")
def golden_dir():
    """Small copies of the golden data, part of the repository."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def shared_dir():
    """Folder of optional large data beside the checkout; tests that need it skip without it."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("the shared data folder is not beside this checkout")
    return path


@pytest.fixture(scope="session")
def cells_dir(shared_dir):
    """Labelled microscopy images: images/, labels/, manifest.csv."""
    return shared_dir / "data" / "cells"


@pytest.fixture(scope="session")
def parity_dir(shared_dir):
    """Golden inputs and outputs of the released system."""
    return shared_dir / "parity"


@pytest.fixture(params=["compiled", "torch"])
def kernels(request):
    """Each implementation of the label stage's loops."""
    if request.param == "torch":
        return TorchKernels(torch.device("cpu"))
    library = load_library()
    if library is None:
        pytest.skip("the package was installed without a C compiler")
    return CompiledKernels(library, 2)


@pytest.fixture(scope="session")
def weights_dir(tmp_path_factory):
    """Two tiny random networks under the published names."""
    folder = tmp_path_factory.mktemp("weights")
    for seed, name in enumerate(("from_phase1", "from_phase2")):
        save_weights(tiny_state_dict(seed), folder / f"{name}.safetensors")
    return folder
