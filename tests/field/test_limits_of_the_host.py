"""Limits that libraries do not survive (``ulimit -v``, ``--pids-limit``) end in one line."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from folder_helpers import ROOT, noise, subprocess_environment, write_image

from mediar_infer import cli
from mediar_infer.commands import limits

ADDRESS_LIMIT_KB = 8_000_000
_RUN = "import os, signal, sys, time; from mediar_infer.cli import run_process; run_process({})"


def _limited(command, limit_kb=ADDRESS_LIMIT_KB, **options):
    shell = ["bash", "-c", f'ulimit -v {limit_kb} && exec "$@"', "bash"]
    return subprocess.Popen(
        [*shell, sys.executable, *map(str, command)], cwd=ROOT, env=subprocess_environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS"])
def test_crash_under_a_limit_of_address_space_names_the_limit(name):
    command = f"lambda: os.kill(os.getpid(), signal.{name})"
    out, err = (process := _limited(["-c", _RUN.format(command)])).communicate()
    assert (process.returncode, out) == (1, "")
    assert err == (
        f"ERROR found a crash ({name}) under a limit of 8.2 GB of address space, expected room for"
        " the libraries and an image; raise or remove it (ulimit -v)\n"
    )


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_exit_code_under_a_limit_is_that_of_the_command(code):
    process = _limited(["-c", _RUN.format(f"lambda: print('done') or {code}")])
    out, err = process.communicate()
    assert (process.returncode, out, err) == (code, "done\n", "")


_COUNTING = """
def command():
    received = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda signum, _: received.append(signum))
    print("ready", flush=True)
    deadline = time.monotonic() + 60
    while not received and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    print([int(number) for number in received])
    return 128 + received[0]
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_signal_under_a_limit_reaches_the_command_once(send, number):
    """Whether it comes from ``kill``, or from a terminal, which sends it to the whole group."""
    script = f"import os, signal, sys, time\n{_COUNTING}\n{_RUN.format('command')}"
    process = _limited(["-c", script], start_new_session=True)
    assert process.stdout.readline() == "ready\n"
    send(process.pid, number)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (128 + number, f"[{int(number)}]\n", "")


def test_command_under_a_limit_stops_and_goes_on_with_its_parent():
    """As by Ctrl-Z and ``fg``."""
    command = "lambda: [print('ready', flush=True), time.sleep(60)]"
    process = _limited(["-c", _RUN.format(command)], start_new_session=True)
    assert process.stdout.readline() == "ready\n"
    [child] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for number, stopped in ((signal.SIGTSTP, True), (signal.SIGCONT, False)):
        os.kill(process.pid, number)
        for pid in (process.pid, child):
            _await_state(pid, is_stopped=stopped)
    process.kill()
    process.communicate()


def _await_state(pid, *, is_stopped):
    deadline = time.monotonic() + 60
    while (_read_state(pid) == "T") != is_stopped:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _read_state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_interrupt_of_a_run_under_a_limit_ends_with_130(tmp_path, weights_dir):
    """Sent to the process that was started alone, as by a program that supervises it."""
    write_image(tmp_path / "in" / "a.png", noise(3000, 3000))
    outputs = tmp_path / "out"
    process = _limited(
        ["-m", "mediar_infer", "predict", "-i", tmp_path / "in", "-o", outputs, "--device", "cpu",
         "--weights", weights_dir, "--plan", "fast", "--threads", "1"]
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(outputs.glob(".a_label*.part")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("ERROR interrupted; finished images are in the output")
    assert err.endswith("rerun with --resume to do the rest\n")
    assert not list(outputs.glob("*label*"))


def test_address_space_that_is_too_small_for_the_libraries_is_named(tmp_path):
    write_image(tmp_path / "in" / "a.png", noise(40, 50))
    arguments = ["predict", "-i", tmp_path / "in", "-o", tmp_path / "out", "--device", "cpu"]
    process = _limited(["-m", "mediar_infer", *arguments], 600_000)
    _, err = process.communicate()
    assert process.returncode == 1
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("ERROR found a ")
    assert err.endswith("raise or remove it (ulimit -v)\n")


def test_too_few_processes_are_named(tmp_path):
    """As with ``docker run --pids-limit 4``."""
    if shutil.which("setpriv") is None or os.geteuid() != 0:
        pytest.skip("another user is needed whose processes can be limited")
    write_image(tmp_path / "in" / "a.png", noise(40, 50))
    arguments = ["predict", "-i", tmp_path / "in", "-o", tmp_path / "out", "--device", "cpu"]
    done = subprocess.run(
        [
            "setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups",
            "--inh-caps", "+dac_override", "--ambient-caps", "+dac_override",
            "prlimit", "--nproc=4", sys.executable, "-m", "mediar_infer", *map(str, arguments),
        ],
        cwd=ROOT, env=subprocess_environment(PYTHONDONTWRITEBYTECODE="1"), capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    if "setpriv:" in done.stderr:
        pytest.skip(f"may not change the user here: {done.stderr.strip()}")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    # Which library meets the limit, and whether one of its threads has ended by then, varies.
    assert re.match(r"ERROR found room for [01] more threads, expected \d+; raise", last)
    assert "docker --pids-limit" in last


class _FewThreads:
    """Stands in for ``threading.Thread.start`` where the host allows only some threads."""

    def __init__(self, n_allowed):
        self.n_left, self.start = n_allowed, threading.Thread.start

    def __call__(self, thread):
        if self.n_left == 0:
            raise RuntimeError("can't start new thread")
        self.n_left -= 1
        self.start(thread)


@pytest.mark.parametrize(("n_allowed", "n_started"), [(0, 0), (3, 3), (9, 5)])
def test_threads_that_can_be_started_are_counted_and_end(monkeypatch, n_allowed, n_started):
    few = _FewThreads(n_allowed)
    monkeypatch.setattr(threading.Thread, "start", lambda thread: few(thread))
    before = threading.active_count()
    assert limits.count_startable_threads(5) == n_started
    assert threading.active_count() == before


def test_interrupt_by_a_person_is_no_limit():
    assert limits.explain_limits(KeyboardInterrupt()) is None


def test_interrupt_by_openblas_is_a_limit(monkeypatch):
    monkeypatch.setattr(limits, "count_startable_threads", lambda _: 0)
    assert "found room for 0 more threads" in limits.explain_limits(KeyboardInterrupt())


@pytest.mark.parametrize(
    "error", [RuntimeError("bug"), ValueError(), ModuleNotFoundError(), OSError()]
)
def test_other_errors_are_not_blamed_on_a_limit(monkeypatch, error):
    monkeypatch.setattr(limits, "address_limit_bytes", lambda: 10**9)
    assert limits.explain_limits(error) is None


def test_memory_error_without_a_limit_is_not_blamed_on_one(monkeypatch):
    monkeypatch.setattr(limits, "address_limit_bytes", lambda: None)
    assert limits.explain_limits(MemoryError()) is None


def test_unforeseen_error_of_a_command_keeps_its_traceback(monkeypatch, tmp_path):
    def fail(_):
        raise ValueError("bug")

    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("mediar_infer.commands.weights.run", fail)
    with pytest.raises(ValueError, match="bug"):
        cli.main(["weights", "list", str(tmp_path)])
    signal.signal(signal.SIGTERM, handler)
