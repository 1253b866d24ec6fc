"""Fixtures of the whole-path tests: a network that is always right, tiny weights, small folders."""

import logging
import signal
import subprocess
import sys
import time

import pytest
import torch
from fakes import FunctionBackend
from folder_helpers import ROOT, subprocess_environment
from slides import decode_scene

from mediar_infer import cli
from mediar_infer.folder import runner
from mediar_infer.segmenter import Segmenter


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
def perfect_network(monkeypatch):
    """Put a network that knows the generated slides in place of any weights."""

    def from_pending(loading):
        digests = {"perfect.safetensors": "0" * 64}
        return Segmenter([FunctionBackend(decode_scene)], loading.config, digests)

    monkeypatch.setattr(Segmenter, "from_pending", from_pending)


@pytest.fixture
def fresh_process(monkeypatch):
    """Let the time of the first image begin with the run: the test process is old."""
    monkeypatch.setattr(runner, "process_start_s", time.perf_counter)


@pytest.fixture
def predict(weights_dir):
    """Call ``predict`` in this process: ``predict(inputs, outputs, *options) -> exit code``."""

    def call(inputs, outputs, *options):
        arguments = ["predict", "-i", inputs, "-o", outputs, "--plan", "fast", "--threads", "1"]
        if "--weights" not in options:
            arguments += ["--weights", weights_dir]
        return cli.main([*map(str, arguments), *map(str, options)])

    return call


@pytest.fixture
def start_predict(weights_dir):
    """Start ``python -m mediar_infer predict`` as a process of its own."""
    running = []

    def start(inputs, outputs, *options):
        command = [
            sys.executable, "-m", "mediar_infer", "predict", "-i", inputs, "-o", outputs,
            "--weights", weights_dir, "--plan", "fast", "--threads", "1", *options,
        ]  # fmt: skip
        process = subprocess.Popen(
            list(map(str, command)), cwd=ROOT, env=subprocess_environment(),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def mount_tmpfs(tmp_path):
    """Mount small file systems: ``mount_tmpfs(name, n_bytes)``; skip where that is not allowed."""
    mounted = []

    def run(*command):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            pytest.skip(f"no mount: {error}")
        if done.returncode != 0:
            pytest.skip(f"may not mount a file system here: {done.stderr.strip()}")

    def mount(name, n_bytes):
        folder = tmp_path / name
        folder.mkdir()
        run("mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", str(folder))
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)
