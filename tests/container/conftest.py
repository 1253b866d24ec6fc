"""Containers of a built image; all tests here are skipped unless ``MEDIAR_IMAGE`` names one.

``MEDIAR_ENGINE`` names the program that runs them, ``docker`` by default, and
``MEDIAR_IMAGE_OPTIONS`` the options that the image was built with.
"""

import os
import shlex
import stat
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import cv2
import pytest
from container_files import read_files
from slides import SlideScene

ROOT = Path(__file__).resolve().parents[2]
_TIMEOUT_S = 600


def pytest_collection_modifyitems(items):
    skip = pytest.mark.skip(reason="no image: MEDIAR_IMAGE names one")
    for item in items:
        if "MEDIAR_IMAGE" not in os.environ and Path(__file__).parent in item.path.parents:
            item.add_marker(skip)


def _write_slide(path, size, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), SlideScene(size, size, pitch=40, seed=seed).render_rows(0, size))


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """Two small images, readable by everyone."""
    folder = tmp_path_factory.mktemp("small")
    for seed, name in enumerate(("a.png", "b.tif")):
        _write_slide(folder / name, 200, seed)
    _open_to_all(folder)
    return folder


@pytest.fixture(scope="session")
def long_inputs(tmp_path_factory):
    """A small image, and one that takes long enough to be interrupted."""
    folder = tmp_path_factory.mktemp("long")
    _write_slide(folder / "a.png", 200, 0)
    _write_slide(folder / "b.png", 2500, 1)
    _open_to_all(folder)
    return folder


def _open_to_all(folder):
    for each in (folder, *folder.parents[:2]):
        each.chmod(stat.S_IMODE(each.stat().st_mode) | 0o055)


@pytest.fixture
def outputs(tmp_path):
    """Empty output folder that everyone may write to, in folders that all may enter."""
    folder = tmp_path / "out"
    folder.mkdir()
    _open_to_all(folder)
    folder.chmod(0o777)
    return folder


@pytest.fixture(scope="session")
def expected(inputs, tmp_path_factory):
    """Label files that a plain process writes, by name; on the CPU, as containers do."""
    folder = tmp_path_factory.mktemp("plain")
    command = [sys.executable, "predict.py", "-i", inputs, "-o", folder, "--device", "cpu"]
    options = shlex.split(os.environ.get("MEDIAR_IMAGE_OPTIONS", ""))
    subprocess.run(
        [*command, "--ledger", "none", *options], cwd=ROOT, check=True, capture_output=True
    )
    return read_files(folder)


class Containers:
    """Starts containers of the image on a pair of folders."""

    def __init__(self):
        self.engine = os.environ.get("MEDIAR_ENGINE", "docker")
        self.image = os.environ["MEDIAR_IMAGE"]

    def command(self, inputs, outputs, *arguments, options=(), name=None):
        """Command line of one run."""
        return [
            self.engine, "run", "--rm", "--network", "none",
            *(("--name", name) if name else ()),
            "-v", f"{inputs}:/workspace/inputs:ro", "-v", f"{outputs}:/workspace/outputs",
            *options, self.image, *arguments,
        ]  # fmt: skip

    def run(self, inputs, outputs, *arguments, options=()):
        """Run a container to its end."""
        command = self.command(inputs, outputs, *arguments, options=options)
        # Elsewhere, because podman leaves an empty file "oom" where it is called.
        return subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
            cwd=tempfile.gettempdir(),
        )  # fmt: skip

    def start(self, inputs, outputs, *arguments, options=()):
        """Start a container; returns its name and the process that waits for it."""
        name = f"mediar-test-{uuid.uuid4().hex[:12]}"
        command = self.command(inputs, outputs, *arguments, options=options, name=name)
        return name, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def control(self, *arguments):
        """Call the engine itself."""
        return subprocess.run([self.engine, *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def containers():
    return Containers()
