"""The script that starts a container, run outside of one with its folder moved."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "mediar_infer" / "container" / "entry.sh"
_OTHER_USER = 1234

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv"
)


@pytest.fixture
def start(tmp_path):
    """Start the script with arguments; ``predict.py`` prints those it gets."""
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "predict.py").write_text("import sys; print('predict', *sys.argv[1:])")
    script = workspace / "entry.sh"
    script.write_text(SCRIPT.read_text().replace("/workspace", str(workspace)))
    for folder in (tmp_path, *tmp_path.parents[:3]):
        # Another user can find what is in there; /tmp keeps its other bits.
        folder.chmod(stat.S_IMODE(folder.stat().st_mode) | 0o055)

    def run(*arguments):
        return subprocess.run(
            ["sh", script, *arguments], capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture
def outputs(tmp_path, start):
    """Output folder of another user."""
    folder = tmp_path / "workspace" / "outputs"
    folder.mkdir()
    os.chown(folder, _OTHER_USER, _OTHER_USER + 1)
    return folder


@pytest.mark.parametrize("options", [(), ("--plan", "two words"), ("-i", "in")])
def test_options_go_to_predict(start, options):
    assert start(*options).stdout == " ".join(("predict", *options)) + "\n"


def test_options_of_the_image_come_first(start, monkeypatch):
    monkeypatch.setenv("MEDIAR_OPTIONS", "--fit-budget")
    assert start("--plan", "single").stdout == "predict --fit-budget --plan single\n"


def test_command_is_run_as_it_is_and_its_exit_status_passed_on(start):
    finished = start("/bin/sh", "-c", 'echo "$1"; exit 7', "sh", "--plan")
    assert (finished.stdout, finished.returncode) == ("--plan\n", 7)


@needs_root
def test_root_goes_on_as_the_owner_of_the_output_folder(start, outputs):
    finished = start("/bin/sh", "-c", f"id -u; id -g; id -G; touch {outputs}/made")
    assert finished.stdout.split() == ["1234", "1235", "1235"]
    status = (outputs / "made").stat()
    assert (status.st_uid, status.st_gid) == (_OTHER_USER, _OTHER_USER + 1)


@needs_root
def test_no_privileges_can_be_gained_after_the_drop(start, outputs):
    outputs.chmod(0o755)
    assert start("grep", "NoNewPrivs", "/proc/self/status").stdout.split() == ["NoNewPrivs:", "1"]


@needs_root
def test_root_stays_root_where_the_owner_cannot_write(start, outputs):
    outputs.chmod(0o555)
    assert start("id", "-u").stdout == "0\n"


@needs_root
@pytest.mark.parametrize(("mode", "user"), [(0o700, 0), (0o600, 0), (0o755, _OTHER_USER)])
def test_root_stays_root_where_the_owner_cannot_read_the_inputs(start, outputs, mode, user):
    inputs = outputs.with_name("inputs")
    inputs.mkdir()
    inputs.chmod(mode)
    assert start("id", "-u").stdout == f"{user}\n"


@needs_root
def test_root_stays_root_without_an_output_folder(start):
    assert start("id", "-u").stdout == "0\n"
