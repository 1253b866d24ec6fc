"""Fixtures of the whole-path tests: a network that is always right, tiny weights, small folders."""

import subprocess
import sys
import time

import pytest
from command_fixtures import (  # noqa: F401
    mount_tmpfs,
    perfect_network,
    predict,
)
from folder_helpers import ROOT, subprocess_environment

from mediar_infer.folder import runner


@pytest.fixture
def fresh_process(monkeypatch):
    """Let the time of the first image begin with the run: the test process is old."""
    monkeypatch.setattr(runner, "process_start_s", time.perf_counter)


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
