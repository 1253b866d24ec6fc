"""Fixtures that run commands in this process; shared by the whole-path and the field tests."""

import subprocess

import pytest
from fakes import FunctionBackend
from slides import decode_scene

from mediar_infer import cli
from mediar_infer.segmenter import Segmenter


@pytest.fixture
def perfect_network(monkeypatch):
    """Put a network that knows the generated slides in place of any weights."""

    def from_pending(loading):
        digests = {"perfect.safetensors": "0" * 64}
        return Segmenter([FunctionBackend(decode_scene)], loading.config, digests)

    monkeypatch.setattr(Segmenter, "from_pending", from_pending)


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
