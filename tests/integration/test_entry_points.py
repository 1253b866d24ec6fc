"""The ways in: ``predict.py``, ``predict.sh``, the container's entry point and the Makefile."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import termios
import tomllib
from contextlib import suppress

import pytest
from folder_helpers import ROOT, noise, subprocess_environment, write_image

from mediar_infer.labels.reading import read_labels

SLOW_PACKAGES = {
    "matplotlib", "monai", "pandas", "segmentation_models_pytorch", "timm", "torchvision",
}  # fmt: skip
LATE_PACKAGES = {"scipy", "skimage"}
"""May be imported by a step that needs them, which an image without cells has not."""

_LIST_IMPORTS = """
import os, runpy, sys
def leave(code, leave_at_once=os._exit):
    names = {name.partition(".")[0] for name in sys.modules}
    print("imported:", *names, flush=True)
    leave_at_once(code)
os._exit = leave
runpy.run_path("predict.py", run_name="__main__")
"""


def _read_terminal(controller):
    """Everything that was written to a pseudo-terminal whose other end is closed."""
    chunks = []
    with suppress(OSError):  # how Linux reports the end
        while chunk := os.read(controller, 4096):
            chunks.append(chunk)
    return b"".join(chunks).decode()


def test_predict_py_on_a_terminal_shows_progress_and_imports_nothing_slow(weights_dir, tmp_path):
    write_image(tmp_path / "in" / "a.b.png", noise(40, 50))
    arguments = ["-i", tmp_path / "in", "-o", tmp_path / "out", "--weights", weights_dir]
    options = ["--plan", "fast", "--threads", "1", "--overlays"]
    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    done = subprocess.Popen(
        [sys.executable, "-c", _LIST_IMPORTS, *map(str, arguments), *options],
        cwd=ROOT, env=subprocess_environment(), stdout=subprocess.PIPE, stderr=terminal, text=True,
    )  # fmt: skip
    os.close(terminal)
    shown = _read_terminal(controller)
    out, _ = done.communicate()
    os.close(controller)
    assert done.returncode == 0, shown
    assert re.search(r"a\.b\.png.*100%\|.*1\.0/1 images", shown)
    assert read_labels(tmp_path / "out" / "a_label.tiff").shape == (40, 50)
    imported = set(out.rpartition("imported: ")[2].split())
    assert "torch" in imported
    assert not imported & SLOW_PACKAGES
    assert not imported & LATE_PACKAGES


def _recorder(folder, name):
    """Put a program on the path that writes its arguments instead of doing anything."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text('#!/bin/sh\nfor argument; do printf "%s\\n" "$argument"; done\n')
    program.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def _output(command, environment):
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_predict_sh_passes_its_arguments_on_unchanged(tmp_path):
    environment = _recorder(tmp_path / "bin", "python")
    given = ["-i", "a folder", "--flips", "none"]
    assert _output(["sh", "predict.sh", *given], environment) == ["predict.py", *given]


def test_predict_sh_adds_the_options_of_its_image(tmp_path):
    environment = _recorder(tmp_path / "bin", "python")
    environment["MEDIAR_OPTIONS"] = "--fit-budget --budget-scale 0.7"
    expected = ["predict.py", "--fit-budget", "--budget-scale", "0.7"]
    assert _output(["sh", "predict.sh"], environment) == expected


def _instructions():
    """Instructions of the Dockerfile in order, continued lines joined: (name, rest)."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def test_image_is_built_from_files_that_exist_and_are_sent_to_the_builder():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    sent = [line[1:] for line in ignored if line.startswith("!")]
    arguments = dict(rest.partition("=")[::2] for name, rest in _instructions() if name == "ARG")
    sources = [
        re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], source)
        for name, rest in _instructions()
        if name == "COPY" and not rest.startswith("--from=")
        for source in rest.split()[:-1]
    ]
    assert {"predict.py", "predict.sh", "mediar_infer", "weights", "requirements.txt"} <= {*sources}
    for source in sources:
        assert (ROOT / source).exists()
        assert source.partition("/")[0] in sent


def test_image_starts_from_a_base_that_can_be_replaced_and_works_in_workspace():
    instructions = _instructions()
    assert instructions[0] == ("ARG", "BASE_IMAGE=python:3.11-slim")
    stages = {rest.split()[2] for name, rest in instructions if name == "FROM" and " AS " in rest}
    bases = {rest.split()[0] for name, rest in instructions if name == "FROM"}
    assert bases - stages == {"${BASE_IMAGE}"}
    assert ("WORKDIR", "/workspace") in instructions
    assert "VOLUME" not in dict(instructions)


def test_image_holds_the_compiled_loops_but_no_compiler():
    stages = "\n".join(" ".join(each) for each in _instructions()).split("\nFROM ")
    assert ["AS kernels" in stage for stage in stages] == ["gcc" in stage for stage in stages]
    (inference,) = (stage for stage in stages if "AS inference" in stage)
    assert "COPY --from=kernels /compiled ./" in inference
    (kernels,) = (stage for stage in stages if "AS kernels" in stage)
    modules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for module in modules["ext-modules"]:
        for source in module["sources"]:
            folder = source.rpartition("/")[0]
            is_needed = not source.startswith("mediar_infer/training/")
            assert (f"COPY {source} {folder}/" in kernels) == is_needed
            assert (f" {folder}/*.so" in kernels) == is_needed


def test_python_of_the_images_ignores_working_folder_and_environment():
    (grand_challenge, _default) = (rest for name, rest in _instructions() if name == "ENTRYPOINT")
    assert json.loads(grand_challenge)[:4] == ["python", "-I", "-m", "mediar_infer"]
    script = (ROOT / "mediar_infer" / "container" / "entry.sh").read_text()
    assert re.findall(r"python .*predict\.py", script) == ["python -I /workspace/predict.py"]
    variables = " ".join(rest for name, rest in _instructions() if name == "ENV")
    assert "PYTHONNOUSERSITE=1" in variables
    assert "PYTHONPATH" not in variables


def test_options_of_the_image_are_used_by_a_step_before_they_become_a_variable():
    """Otherwise podman 4 loses them once the layers are cached."""
    names = [name for name, _ in _instructions()]
    start = _instructions().index(("ARG", "OPTIONS="))
    assert names[start : start + 3] == ["ARG", "RUN", "ENV"]
    assert "${OPTIONS}" in _instructions()[start + 1][1]


def test_image_holds_the_licences():
    (copied,) = (rest for name, rest in _instructions() if name == "COPY" and "LICENSE" in rest)
    assert copied.split()[-1] == "./"
    steps = " ".join(rest for name, rest in _instructions() if name == "RUN")
    assert "third_party.py > THIRD_PARTY_NOTICES.txt" in steps


def test_container_is_started_by_the_entry_script():
    entry_point = json.loads(dict(_instructions())["ENTRYPOINT"])
    assert entry_point == ["sh", "/workspace/mediar_infer/container/entry.sh"]
    assert (ROOT / "mediar_infer" / "container" / "entry.sh").is_file()


@pytest.fixture
def make(tmp_path):
    """Call ``make`` in a copy of the Makefile with a Python that only records what it is asked."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in (
        "requirements.txt",
        "pyproject.toml",
        "mediar_infer/labels/kernels/label_kernels.c",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "Makefile", tmp_path)

    def call(*arguments):
        return subprocess.run(
            ["make", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    return call


@pytest.mark.parametrize("target", ["demo", "test", "lint"])
def test_make_sets_up_before_anything_else(make, target):
    steps = make("--dry-run", target).stdout
    order = [
        steps.index(step)
        for step in (
            "-m venv .venv",
            "--requirement requirements.txt",
            "--editable .",
            "touch .venv/.ready",
            {"demo": "mediar_infer demo", "test": "-m pytest", "lint": "lint-imports"}[target],
        )
    ]
    assert order == sorted(order)


def test_make_does_not_set_up_twice(make, tmp_path):
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".ready").touch()
    assert "pip install" not in make("--dry-run", "test").stdout


@pytest.mark.parametrize(
    ("image", "saved"),
    [
        ("team:latest", "docker.io/library/team:latest"),
        ("me/team:1", "docker.io/me/team:1"),
        ("localhost/team:1", "localhost/team:1"),
        ("host:5000/team", "host:5000/team"),
        ("some.host/me/team:1", "some.host/me/team:1"),
    ],
)
def test_make_submission_saves_the_name_that_docker_means(make, image, saved):
    steps = make("--dry-run", "submission", f"IMAGE={image}", "DOCKER=engine").stdout
    assert f"engine tag {image} {saved}\n" in steps
    assert re.search(rf"engine save --output dist/\S+\.tar {re.escape(saved)}\n", steps)


@pytest.mark.parametrize("version", ["Python 3.10.4", None])
def test_make_with_an_old_or_missing_python_says_what_to_do(make, tmp_path, version):
    program = tmp_path / "python3"
    if version:
        program.write_text(f'#!/bin/sh\ntest "$1" = --version && echo {version}\n')
        program.chmod(0o755)
    done = make("demo", f"PYTHON={program}")
    assert done.returncode != 0
    assert f"found {version or 'no Python'}, expected Python 3.11 or newer" in done.stderr
    assert "install it and name it: make PYTHON=python3.11 demo" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_checks_of_a_change_call_the_test_command_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    assert re.search(r"^set -euo pipefail$.*^make test$.*^make lint$", script, re.M | re.S)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
