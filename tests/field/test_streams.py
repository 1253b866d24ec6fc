"""Standard streams that are closed, full or left by their reader: no labels are lost by it."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from folder_helpers import ROOT, noise, subprocess_environment, write_image

from mediar_infer import cli
from mediar_infer.commands.printing import print_result
from mediar_infer.errors import OutputError
from mediar_infer.labels.reading import read_labels
from mediar_infer.process import LossyStream


@pytest.fixture
def arguments(weights_dir, tmp_path):
    """Arguments of ``predict`` for a folder of one image."""
    write_image(tmp_path / "in" / "a.png", noise(40, 50))
    options = ["--plan", "fast", "--threads", "1", "--device", "cpu", "--verbose"]
    folders = ["-i", tmp_path / "in", "-o", tmp_path / "out", "--weights", weights_dir]
    return ["predict", *folders, *options]


@pytest.mark.parametrize("redirections", ["2>&-", "<&- >&- 2>&-", ">/dev/full 2>&1"])
def test_closed_or_full_stream_costs_no_labels(run_command, arguments, tmp_path, redirections):
    done = run_command(arguments, redirections)
    assert (done.returncode, read_labels(tmp_path / "out" / "a_label.tiff").shape) == (0, (40, 50))
    assert b"Traceback" not in done.stdout + done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a_label.tiff", "ledger.jsonl", "summary.json",
    ]  # fmt: skip


def test_reader_that_leaves_costs_no_labels(arguments, tmp_path):
    """As in ``predict … 2>&1 | head -1``."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "mediar_infer", *map(str, arguments)],
        cwd=ROOT, env=subprocess_environment(), stdout=writing, stderr=writing, check=False,
    )  # fmt: skip
    os.close(writing)
    assert done.returncode == 0
    assert read_labels(tmp_path / "out" / "a_label.tiff").shape == (40, 50)


def test_full_stdout_is_a_warning_once_the_labels_are_there(run_command, arguments):
    done = run_command(arguments, ">/dev/full")
    assert done.returncode == 0
    (line,) = (line for line in done.stderr.decode().splitlines() if "stdout" in line)
    assert line.startswith("WARNING stdout: cannot be written (No space left on device), expected")
    assert line.endswith("all results are on disk")


def test_name_that_the_terminal_cannot_show_is_escaped(run_command, arguments, tmp_path):
    (tmp_path / "in" / "a.png").rename(tmp_path / "in" / "zellé.png")
    done = run_command(arguments, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert b"zell\\xe9.png" in done.stdout
    assert b"Traceback" not in done.stderr
    assert (tmp_path / "out" / "zellé_label.tiff").is_file()


def test_result_that_cannot_be_printed_fails_in_one_line(run_command, weights_dir):
    done = run_command(["weights", "list", weights_dir], ">/dev/full")
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("ERROR stdout: cannot be written (No space left on device), expected")


@pytest.mark.parametrize("command", [["--help"], ["weights", "list"]])
def test_reader_that_has_seen_enough_is_no_error(command):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "mediar_infer", *command],
        cwd=ROOT, env=subprocess_environment(), stdout=writing, stderr=subprocess.PIPE, check=False,
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_terminal_that_is_gone_takes_no_progress_bar_with_it():
    class Gone(io.RawIOBase):
        def writable(self):
            return True

        def write(self, _):
            raise OSError(5, "Input/output error")

    stream = LossyStream(io.BufferedWriter(Gone()), "utf-8", line_buffering=True)
    assert stream.write("50%\n" * 10_000) == 40_000
    stream.flush()
    stream.detach()


@pytest.mark.parametrize("name", ["a\nERROR forged.png", "a\x1b[2Jb.png", "a\rb.png"])
def test_control_characters_of_a_name_are_escaped(weights_dir, tmp_path, capsys, name):
    write_image(tmp_path / "in" / "a.png", noise(40, 50))
    (tmp_path / "in" / "a.png").rename(tmp_path / "in" / name)
    (tmp_path / "in" / "damaged.png").write_bytes(b"\x89PNG")
    (tmp_path / "in" / "damaged.png").rename(tmp_path / "in" / f"damaged{name}")
    folders = ("-i", tmp_path / "in", "-o", tmp_path / "out", "--weights", weights_dir)
    assert cli.main(["predict", *map(str, folders), "--plan", "fast", "--threads", "1"]) == 1
    out, err = capsys.readouterr()
    escaped = name.encode("unicode_escape").decode()
    assert f"INFO {escaped}: 40×50" in err
    assert f"damaged{escaped}: " in err
    assert all(line.startswith(("INFO ", "WARNING ", "ERROR ")) for line in err.splitlines())
    assert not [line for line in err.splitlines() if line.startswith("ERROR forged")]
    assert "\x1b" not in out + err
    assert "\r" not in out + err


def test_printed_lines_stay_lines_and_other_controls_are_escaped(capsys):
    print_result("a\tb\nc\x07")
    assert capsys.readouterr().out == "a\\tb\nc\\x07\n"


def test_unwritable_stdout_names_the_cause(monkeypatch):
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(OutputError, match=r"stdout: cannot be written \(No space left"):
            print_result("a")
