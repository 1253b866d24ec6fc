"""The wheel, built from the source archive: what it holds, and that it works outside the tree."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from folder_helpers import ROOT, noise, subprocess_environment, write_image

from mediar_infer import __version__
from mediar_infer.labels.reading import read_labels
from mediar_infer.network.weight_files import compute_digest

SOURCES = (
    "mediar_infer", "weights", "pyproject.toml", "setup.py", "MANIFEST.in", "LICENSE", "README.md",
    "CHANGELOG.md", "CITATION.cff", "predict.py", "predict.sh", "requirements.txt",
)  # fmt: skip
MAX_BYTES = 40_000_000
_BUILD = "import sys, setuptools.build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """Call a hook of the build backend: ``build(folder, hook) -> path of the archive``."""
    backend, archives = tmp_path_factory.mktemp("backend"), tmp_path_factory.mktemp("archives")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    fetched = subprocess.run(
        [*pip, "--target", backend, "setuptools>=77"], capture_output=True, text=True, check=False
    )
    if fetched.returncode != 0:
        pytest.skip(f"no build backend can be had here: {fetched.stderr.strip()[-200:]}")

    def call(folder, hook):
        done = subprocess.run(
            [sys.executable, "-c", _BUILD, hook, archives], cwd=folder,
            env=os.environ | {"PYTHONPATH": str(backend)}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return archives / done.stdout.splitlines()[-1]

    return call


@pytest.fixture(scope="session")
def sdist(build, tmp_path_factory):
    """The source archive of a copy of the tree, in which an earlier build left something."""
    tree = tmp_path_factory.mktemp("tree")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "*.so")
            shutil.copytree(ROOT / name, tree / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, tree / name)
    (tree / "weights" / "mine").mkdir()
    (tree / "weights" / "mine" / "private.safetensors").write_bytes(b"private")
    return build(tree, "build_sdist")


@pytest.fixture(scope="session")
def wheel(build, sdist, tmp_path_factory):
    """The wheel, built from the source archive alone."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (tree,) = folder.iterdir()
    for name in (f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}", "lib"):
        left = tree / "build" / name / "mediar_infer" / "gone.py"
        left.parent.mkdir(parents=True)
        left.touch()
    return build(tree, "build_wheel")


def test_wheel_holds_types_tables_page_weights_and_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    inside = {name.partition("/")[2] for name in names if name.startswith("mediar_infer/")}
    sources = (path for path in (ROOT / "mediar_infer").rglob("*") if path.is_file())
    own = {str(path.relative_to(ROOT / "mediar_infer")) for path in sources}
    data = {
        name for name in own if re.search(r"\.(py|typed|toml|yaml|html|css|js|svg|xml|bin)$", name)
    }
    assert {"py.typed", "report/page.js", "training/recipes/paper.toml"} < data
    without_package = {name for name in data if name.startswith("container/")}
    assert data - inside <= without_package
    assert {f"weights/{path.name}" for path in (ROOT / "weights").iterdir() if path.is_file()} < (
        inside
    )
    assert f"mediar_infer-{__version__}.dist-info/licenses/LICENSE" in names
    assert not [name for name in names if re.search(r"private|gone\.py|^tests/|^weights/", name)]
    assert wheel.stat().st_size <= MAX_BYTES


def test_metadata_is_complete(wheel):
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"mediar_infer-{__version__}.dist-info/METADATA").decode()
    for field in (
        "License-Expression: MIT", "Author: The mediar_infer authors", "Project-URL: ",
        "Classifier: Typing :: Typed", "Keywords: cell segmentation,", "Provides-Extra: training",
        "Provides-Extra: dask", "Requires-Python: >=3.11",
    ):  # fmt: skip
        assert f"\n{field}" in metadata


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """Folder of the commands of an environment with the wheel; it borrows all other packages."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", wheel], check=True)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    # As plain lines: .pth files that lie there, such as that of an editable install, do not count.
    borrowed = [path for path in sys.path if path.endswith("-packages")]
    (packages / "zz_borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return folder / "bin"


def _run(installed, folder, *arguments):
    environment = subprocess_environment()
    for name in ("PYTHONPATH", "MEDIAR_WEIGHTS", "VIRTUAL_ENV"):
        environment.pop(name, None)
    return subprocess.run(
        [installed / "mediar-infer", *map(str, arguments)], cwd=folder, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_installed_command_segments_with_the_weights_of_the_wheel(installed, tmp_path):
    write_image(tmp_path / "images" / "a.png", noise(40, 50))
    options = ("--plan", "fast", "--threads", "1", "--device", "cpu")
    done = _run(installed, tmp_path, "predict", "-i", "images", "-o", "labels", *options)
    assert done.returncode == 0, done.stderr
    assert read_labels(tmp_path / "labels" / "a_label.tiff").shape == (40, 50)
    first = sorted((ROOT / "weights").glob("*.safetensors"))[0]
    assert f"weights {first.name}, SHA-256 {compute_digest(first)[:16]}" in done.stderr


def test_installed_weights_are_those_of_the_environment(installed, tmp_path):
    done = _run(installed, tmp_path, "weights", "verify")
    assert done.returncode == 0, done.stderr
    paths = [Path(line.split("  ")[0]) for line in done.stdout.splitlines() if line[0] != " "]
    assert len(paths) == 2
    assert all(installed.parent in path.parents for path in paths)
    checked = "ok: all entries present and finite, ranges for int8 fit, checksum of the manifest"
    assert done.stdout.count(checked) == 2
