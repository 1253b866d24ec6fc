"""A built image: every form in which it is started, and runs that are stopped in the middle."""

import hashlib
import json
import os
import re
import time

import pytest
from container_files import read_files
from folder_helpers import ROOT

from mediar_infer.labels.reading import read_labels

_DEADLINE_S = 120
_OWNER = 1234
_QUICK = ("--plan", "fast")
_LIST_PACKAGES = """
import json
from importlib.metadata import distributions
print(json.dumps({each.metadata["Name"]: each.version for each in distributions()}))
"""


def test_image_has_the_options_that_it_was_built_with(containers):
    """podman 4 can lose a build argument without a word."""
    variables = json.loads(
        containers.control(
            "image", "inspect", "--format", "{{json .Config.Env}}", containers.image
        ).stdout
    )
    assert f"MEDIAR_OPTIONS={os.environ.get('MEDIAR_IMAGE_OPTIONS', '')}" in variables


def test_image_holds_the_licences(containers, inputs, outputs):
    command = "cat LICENSE; grep -A1 ^=== THIRD_PARTY_NOTICES.txt"
    finished = containers.run(inputs, outputs, "sh", "-c", command)
    assert finished.returncode == 0, finished.stderr
    assert "MIT License" in finished.stdout
    for package in ("numpy", "openvino", "tifffile"):
        assert re.search(rf"^{package} \d.*: ", finished.stdout, re.MULTILINE)


def test_image_holds_a_valid_bill_of_materials(containers, inputs, outputs):
    finished = containers.run(inputs, outputs, "cat", "bill.cdx.json")
    assert finished.returncode == 0, finished.stderr
    bill = json.loads(finished.stdout)
    found = {component["name"]: component for component in bill["components"]}
    finished = containers.run(inputs, outputs, "python", "-I", "-c", _LIST_PACKAGES)
    installed = json.loads(finished.stdout)
    assert {name: found[name]["version"] for name in installed} == installed
    digest = hashlib.sha256((ROOT / "weights" / "from_phase1.safetensors").read_bytes())
    (hashed,) = found["weights/from_phase1.safetensors"]["hashes"]
    assert hashed["content"] == digest.hexdigest()
    validation = pytest.importorskip("cyclonedx.validation.json")
    schema = pytest.importorskip("cyclonedx.schema")
    validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_6)
    assert validator.validate_str(json.dumps(bill)) is None


@pytest.mark.parametrize("command", ["info", "weights verify", "predict --help", "export --help"])
def test_commands_run(containers, inputs, outputs, command):
    commands = ("python", "-I", "-m", "mediar_infer", *command.split())
    finished = containers.run(inputs, outputs, *commands)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize(
    "options",
    [("--workdir", "/foreign"), ("--workdir", "/foreign", "--env", "PYTHONPATH=/foreign")],
    ids=["working-folder", "PYTHONPATH"],
)
def test_foreign_modules_are_not_imported(containers, inputs, outputs, expected, tmp_path, options):
    (tmp_path / "foreign" / "mediar_infer").mkdir(parents=True)
    for name in ("numpy.py", "mediar_infer/__init__.py"):
        (tmp_path / "foreign" / name).write_text("raise SystemExit('a foreign module')")
    mount = ("-v", f"{tmp_path / 'foreign'}:/foreign:ro")
    finished = containers.run(inputs, outputs, options=(*mount, *options))
    assert finished.returncode == 0, finished.stderr
    assert read_files(outputs) == expected


@pytest.mark.parametrize(
    "arguments",
    [(), ("--plan", "paper"), ("/bin/bash", "-c", "sh predict.sh")],
    ids=["plain", "options", "challenge"],
)
def test_every_form_writes_the_label_files_of_a_plain_process(
    containers, inputs, outputs, expected, arguments
):
    finished = containers.run(inputs, outputs, *arguments)
    assert finished.returncode == 0, finished.stderr
    assert read_files(outputs) == expected


@pytest.mark.parametrize(
    "options",
    [
        ("--read-only",),
        ("--user", f"{_OWNER}:{_OWNER}"),
        ("--user", f"{_OWNER}:{_OWNER}", "--read-only", "--tmpfs", "/tmp", "--shm-size", "64m"),
        ("--cap-drop", "all"),
    ],
    ids=["read-only", "user", "user-read-only", "no-capabilities"],
)
def test_restricted_containers_write_the_same(containers, inputs, outputs, expected, options):
    finished = containers.run(inputs, outputs, options=options)
    assert finished.returncode == 0, finished.stderr
    assert read_files(outputs) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a folder away")
def test_results_belong_to_the_owner_of_the_output_folder(containers, inputs, outputs):
    os.chown(outputs, _OWNER, _OWNER)
    outputs.chmod(0o755)
    finished = containers.run(inputs, outputs)
    assert finished.returncode == 0, finished.stderr
    assert {path.stat().st_uid for path in outputs.iterdir()} == {_OWNER}


def test_labels_are_exported(containers, inputs, outputs):
    containers.run(inputs, outputs, *_QUICK)
    command = "python -I -m mediar_infer export /workspace/outputs -o /workspace/outputs"
    finished = containers.run(inputs, outputs, *command.split(), "--table", "cells.csv")
    assert finished.returncode == 0, finished.stderr
    assert len((outputs / "cells.csv").read_text().splitlines()) > 2


def test_mounted_weights_replace_those_of_the_image(containers, inputs, outputs, tmp_path):
    finished = containers.run(inputs, outputs, options=("-v", f"{tmp_path}:/workspace/weights:ro"))
    assert finished.returncode == 2
    assert re.search("found no weights in /opt/ml/model, .*/workspace/weights;", finished.stderr)


def _wait_for_second_image(process, outputs):
    deadline = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline and process.poll() is None:
        if (outputs / "a_label.tiff").exists() and list(outputs.glob(".b_label*.part")):
            return
        time.sleep(0.05)
    pytest.fail(f"the second image was not begun: {process.communicate()}")


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_stopped_container_leaves_complete_labels_and_is_resumed(
    containers, long_inputs, outputs, how
):
    name, process = containers.start(long_inputs, outputs, *_QUICK)
    _wait_for_second_image(process, outputs)
    started = time.monotonic()
    containers.control(how, name)
    process.communicate(timeout=_DEADLINE_S)
    assert time.monotonic() - started < 9  # the engine kills after 10 s what ignores its signal
    assert process.returncode == {"stop": 143, "kill": 137}[how]
    _check_and_resume(containers, long_inputs, outputs)


def test_container_that_is_killed_for_memory_leaves_complete_labels_and_is_resumed(
    containers, long_inputs, outputs
):
    # The first image fits, the second does not.
    finished = containers.run(long_inputs, outputs, *_QUICK, options=("--memory", "400m"))
    assert finished.returncode == 137
    _check_and_resume(containers, long_inputs, outputs)


def _check_and_resume(containers, long_inputs, outputs):
    complete = outputs / "a_label.tiff"
    assert [path for path in outputs.iterdir() if not path.name.startswith(".")] == [complete]
    written_at = complete.stat().st_mtime_ns
    finished = containers.run(long_inputs, outputs, "--resume", *_QUICK)
    assert finished.returncode == 0, finished.stderr
    assert sorted(path.name for path in outputs.iterdir()) == ["a_label.tiff", "b_label.tiff"]
    assert complete.stat().st_mtime_ns == written_at
    assert read_labels(outputs / "b_label.tiff").shape == (2500, 2500)


def test_failure_names_the_file_and_the_other_images_are_done(
    containers, inputs, outputs, expected, tmp_path
):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "bad.png").write_bytes(b"not a png")
    for path in inputs.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    finished = containers.run(folder, outputs)
    assert finished.returncode == 1
    assert "ERROR bad.png" in finished.stderr
    assert read_files(outputs) == expected
