"""After a plain ``pip install mediar-infer`` training names the missing extra, in one line."""

import json
import subprocess
import sys

import pytest

from mediar_infer.training.__main__ import COMMANDS

EXTRAS = ("monai", "lightning_fabric", "matplotlib", "segmentation_models_pytorch", "tensorboard",
          "torchvision", "einops", "nncf")  # fmt: skip
WITHOUT = {"index", "convert", "generate", "select", "export"}
TABLE, RUN = ("--table", "t.csv"), ("--run", "r")
ARGUMENTS = {
    "index": ["nowhere", "-o", "t.csv"],
    "convert": ["omnipose", "nowhere", "-o", "out"],
    "generate": ["0", "-o", "out"],
    "stats": ["t.csv", "-o", "out"],
    "sheet": ["t.csv", "-o", "out.png"],
    "train": ["small", *TABLE, *RUN],
    "pretrain": ["small", *TABLE, *RUN, "--phase", "1"],
    "finetune": ["small", *TABLE, *RUN, "--from-phase", "1"],
    "tune": ["nowhere", "-o", "out.safetensors"],
    "discover": [*TABLE, "--weights", "w.safetensors", "-o", "out"],
    "relabel": [*TABLE, "--weights", "w.safetensors", "-o", "out"],
    "ablate": ["table5", *TABLE, *RUN],
    "select": ["w.safetensors", *TABLE],
    "export": ["w.safetensors", "-o", "out.safetensors"],
    "quantize": ["w.safetensors", *TABLE],
    "curves": ["r", "-o", "out.png"],
}
PROGRAM = """
import contextlib, io, json, sys
for name in json.loads(sys.argv[2]):
    sys.modules[name] = None
from mediar_infer.training.__main__ import main
told = {}
for command, arguments in json.loads(sys.argv[1]).items():
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        told[command] = [main([command, *arguments]), errors.getvalue().splitlines()]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Exit code and lines on stderr of every command, run where the extras cannot be imported."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(ARGUMENTS), json.dumps(EXTRAS)],
        capture_output=True, text=True, cwd=tmp_path_factory.mktemp("plain"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("command", ["select", "export"])
def test_command_that_needs_torch_alone_names_the_extra(tmp_path, command):
    arguments = json.dumps({command: ARGUMENTS[command]})
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, arguments, json.dumps(["torch"])],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [(code, lines)] = json.loads(done.stdout.splitlines()[-1]).values()

    assert code == 2
    assert len(lines) == 1
    assert "found no package torch" in lines[0]


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - WITHOUT))
def test_command_names_the_extra_in_one_line(told, command):
    code, lines = told[command]

    assert code == 2
    assert len(lines) == 1
    assert "pip install 'mediar-infer[training]'" in lines[0]


@pytest.mark.parametrize("command", sorted(WITHOUT))
def test_command_that_needs_no_extra_does_not_ask_for_it(told, command):
    code, lines = told[command]

    assert code in (1, 2)  # there is nothing to work on
    assert lines
    assert not any("pip install" in line or "Traceback" in line for line in lines)
