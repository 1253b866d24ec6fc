"""A fresh container or process per image: started, timed, stopped, and inspected afterwards."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from mediar_infer.errors import UsageError
from mediar_infer.folder.ledger import LEDGER_VARIABLE

ContainerEngine = Literal["docker", "podman"]
ORGANISERS_COMMAND: Final = "sh predict.sh"
"""What the organisers run in the container with ``/bin/bash -c``."""
LEDGER_DIR: Final = "ledger"
"""Folder beside inputs and outputs for the ledger, if this package is what runs."""

_INPUTS, _OUTPUTS = "/workspace/inputs/", "/workspace/outputs/"
_INSPECTED = (
    "{{.State.OOMKilled}} {{.HostConfig.Memory}}"
    " {{json .State.StartedAt}} {{json .State.FinishedAt}}"
)
_LOG_BYTES = 4000
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """How one container or process went."""

    exit_code: int | None
    """Exit status; minus the number of the signal for a process that one ended; ``None`` if nothing
    was run."""
    wall_s: float
    """Seconds from start to end; for a container, including its removal."""
    outside_s: float | None = None
    """Those of them before the command in a container started and after it ended; ``None`` for
    processes and if unknown."""
    timed_out: bool = False
    """Whether it was stopped at the time limit."""
    out_of_memory: bool = False
    """Whether the kernel killed it, or a process in it, at its memory limit."""
    peak_memory_bytes: int | None = None
    """Peak resident memory; ``None`` for containers."""
    memory_limit_bytes: int | None = None
    """Limit in force for a container, 0 without one; ``None`` for processes and if unknown."""
    log: str = ""
    """Last part of its output."""


class Launcher(Protocol):
    """A way to run the submission on a folder."""

    def describe(self) -> dict[str, Any]:
        """Describe what is run and how, ready for JSON."""

    def run(self, work: Path) -> RunOutcome:
        """Run once on ``work/inputs``, with ``work/outputs`` for the results."""


def parse_bytes(text: str) -> int:
    """Convert ``28g``, ``512m`` or a plain number to bytes, in powers of 1024 as engines do.

    Raises:
        UsageError: if the text has another form.
    """
    number = text.lower().removesuffix("b") if len(text) > 1 else text.lower()
    unit = number[-1:] if number[-1:].isalpha() else ""
    digits = number.removesuffix(unit)
    if unit not in _UNITS or not digits.isdecimal() or int(digits) == 0:
        raise UsageError(f"found memory limit {text!r}, expected a size such as 28g or 512m")
    return int(digits) * _UNITS[unit]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessLauncher:
    """This package's ``predict`` as a process of its own, on this machine."""

    options: tuple[str, ...] = ()
    """Further options of ``predict``."""
    timeout_s: float | None = None
    """Seconds after which a run is stopped."""

    def describe(self) -> dict[str, Any]:
        """Describe what is run and how, ready for JSON."""
        return {
            "engine": "process",
            "command": shlex.join(["python", *self._arguments(Path("INPUTS"), Path("OUTPUTS"))]),
            "timeout_s": self.timeout_s,
        }

    def run(self, work: Path) -> RunOutcome:
        """Run once on ``work/inputs``; the ledger goes to ``work/ledger``."""
        environment = os.environ | {LEDGER_VARIABLE: str(work / LEDGER_DIR)}
        child = _run_child(
            [sys.executable, *self._arguments(work / "inputs", work / "outputs")],
            work / "log.txt", self.timeout_s, end=lambda: None, environment=environment,
        )  # fmt: skip
        return RunOutcome(
            exit_code=child.exit_code,
            wall_s=child.wall_s,
            timed_out=child.timed_out,
            out_of_memory=child.exit_code == -signal.SIGKILL and not child.timed_out,
            peak_memory_bytes=child.peak_bytes,
            log=_read_end(work / "log.txt"),
        )

    def _arguments(self, inputs: Path, outputs: Path) -> list[str]:
        return [
            "-m", "mediar_infer", "predict", "--quiet",
            "-i", str(inputs), "-o", str(outputs), *self.options,
        ]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerLauncher:
    """Any container image, run with the organisers' command line."""

    engine: ContainerEngine
    """Command-line tool that runs the container."""
    image: str
    """Name of the container image."""
    command: str = ORGANISERS_COMMAND
    """Shell command in the container."""
    memory: str = "28g"
    """Memory limit in the tool's own notation."""
    gpus: str | None = None
    """As for ``docker run --gpus``."""
    network: str | None = "none"
    """Network of the container; ``None`` leaves the choice to the engine."""
    timeout_s: float | None = None
    """Seconds after which a run is stopped."""

    def describe(self) -> dict[str, Any]:
        """Describe what is run and how, ready for JSON.

        Raises:
            UsageError: if the tool or the container image does not exist.
        """
        command = self.command_line("NAME", Path("INPUTS"), Path("OUTPUTS"))
        return {
            "engine": self.engine,
            "engine_version": self._ask("--version"),
            "image": self.image,
            "image_id": self._ask("image", "inspect", "--format", "{{.Id}}", self.image),
            "command": shlex.join(command),
            "timeout_s": self.timeout_s,
        }

    def command_line(self, name: str, inputs: Path, outputs: Path) -> list[str]:
        """The organisers' command, which leaves the container to be inspected after its end.

        Their ``--rm`` becomes a separate step, ``--network`` and the read-only mount are added,
        and for podman ``--gpus`` becomes its ``--device``.
        """
        gpus = [] if self.gpus is None else ["--gpus", self.gpus]
        if self.gpus is not None and self.engine == "podman":
            numbers = self.gpus.removeprefix("device=").split(",")
            gpus = [part for each in numbers for part in ("--device", f"nvidia.com/gpu={each}")]
        network = [] if self.network is None else ["--network", self.network]
        return [
            self.engine, "container", "run", *gpus, "-m", self.memory, "--name", name, *network,
            "-v", f"{inputs}:{_INPUTS}:ro", "-v", f"{outputs}:{_OUTPUTS}",
            self.image, "/bin/bash", "-c", self.command,
        ]  # fmt: skip

    def run(self, work: Path) -> RunOutcome:
        """Run a fresh container on ``work/inputs`` and remove it, whatever happens."""
        name = f"challenge-{uuid.uuid4().hex[:12]}"
        try:
            child = _run_child(
                self.command_line(name, work / "inputs", work / "outputs"),
                work / "log.txt", self.timeout_s, end=lambda: self._call("kill", name), folder=work,
            )  # fmt: skip
            was_killed, limit, inside_s = self._inspect(name)
        finally:
            started = time.perf_counter()
            self._call("rm", "--force", "--volumes", name)
            removal_s = time.perf_counter() - started
        wall_s = child.wall_s + removal_s
        return RunOutcome(
            exit_code=child.exit_code,
            wall_s=wall_s,
            outside_s=None if inside_s is None else max(0.0, wall_s - inside_s),
            timed_out=child.timed_out,
            out_of_memory=was_killed
            or (child.exit_code == 128 + signal.SIGKILL and not child.timed_out),
            memory_limit_bytes=limit,
            log=_read_end(work / "log.txt"),
        )

    def _inspect(self, name: str) -> tuple[bool, int | None, float | None]:
        """Whether it was killed for memory, the limit in force, and the seconds of its command."""
        answer = self._call("inspect", "--format", _INSPECTED, name)
        fields = answer.stdout.split()
        if answer.returncode != 0 or len(fields) != 4:
            return False, None, None  # never created; its exit status says so
        was_killed, limit, *times = fields
        return was_killed == "true", int(limit) if limit.isdecimal() else None, _between(*times)

    def _call(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command on a container; failure is a possible answer."""
        return subprocess.run(
            [self.engine, "container", *arguments], stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, start_new_session=True,
        )  # fmt: skip

    def _ask(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                [self.engine, *arguments], stdin=subprocess.DEVNULL, capture_output=True,
                text=True, check=False,
            )  # fmt: skip
        except OSError as error:
            raise UsageError(
                f"{self.engine}: cannot be started ({error.strerror}), expected a container engine;"
                " install it or choose another one with --engine"
            ) from error
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UsageError(
                f"{self.engine} {shlex.join(arguments)}: exit status {done.returncode} ({reason});"
                " expected a working engine and an existing container image; build or load it"
            )
        return done.stdout.strip()


@dataclass(frozen=True, slots=True)
class _Child:
    """How a child process ended."""

    exit_code: int
    wall_s: float
    timed_out: bool
    peak_bytes: int


def _run_child(
    command: Sequence[str],
    log_path: Path,
    timeout_s: float | None,
    *,
    end: Callable[[], object],
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> _Child:
    """Run a command to its end, with its output in a file.

    Args:
        command: program and arguments.
        log_path: file for its standard output and error.
        timeout_s: seconds after which it is ended; ``None`` for no limit.
        end: ends what the command started elsewhere, before the command itself is killed.
        environment: of the command; ``None`` for that of this process.
        folder: working folder, where podman leaves a mark when memory runs out; ``None`` for that
            of this process.

    Raises:
        BaseException: whatever interrupts the wait, after command and container are ended.
    """
    timed_out = threading.Event()

    def stop() -> None:
        end()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def stop_late() -> None:
        timed_out.set()
        stop()

    with log_path.open("wb") as log:
        started = time.perf_counter()
        # preexec_fn makes this a fork: after a vfork the child's peak memory would start at the
        # peak of this process. A session of its own keeps Ctrl-C from the child.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            preexec_fn=os.setsid, env=environment, cwd=folder,
        )  # fmt: skip
        limit_s = min(timeout_s or threading.TIMEOUT_MAX, threading.TIMEOUT_MAX)
        timer = threading.Timer(limit_s, stop_late)
        timer.daemon = True
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            wall_s = time.perf_counter() - started
        except BaseException:
            timer.cancel()
            stop()
            process.wait()
            raise
        timer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return _Child(process.returncode, wall_s, timed_out.is_set(), usage.ru_maxrss * unit)


def _between(started: str, finished: str) -> float | None:
    """Seconds between two times in JSON, as engines state them; None if it has not ended."""
    try:
        start, end = (datetime.fromisoformat(text.strip('"')) for text in (started, finished))
        seconds = (end - start).total_seconds()
    except (ValueError, TypeError):
        return None
    return seconds if seconds >= 0 else None  # an engine's zero time is in the year 1


def _read_end(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - _LOG_BYTES))
        return file.read().decode("utf-8", "replace").strip()
