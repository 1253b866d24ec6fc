"""This process: its standard streams, when it started, and how it holds and uses memory."""

import ctypes
import io
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_MMAP_MAX: Final = -4
_LARGE_BYTES: Final = 1 << 20
_NEVER: Final = -1
_CGROUPS: Final = Path("/sys/fs/cgroup")
_PROCESS_FILES: Final = Path("/proc/self")

POOL_PREFIX: Final = "mediar-"
"""Begins the names of threads in pools of this package that outlive the work given to them."""

_IMPORTED_AT: Final = time.perf_counter()


class LossyStream(io.TextIOWrapper):
    """A text stream that drops what cannot be written: a lost log line must not end a run."""

    def write(self, text: str) -> int:
        """Write text, or drop it if the other end is gone, full or closed."""
        try:
            return super().write(text)
        except (OSError, ValueError):
            return len(text)

    def flush(self) -> None:
        """Flush what can be written."""
        with suppress(OSError, ValueError):
            super().flush()


def protect_streams() -> None:
    """Keep the state of the standard streams from deciding about results.

    A stream that the caller closed becomes the null device: otherwise the next file to be opened, a
    label file perhaps, gets its descriptor, and what libraries print goes into that file. Errors of
    stderr are ignored, and characters that stdout cannot encode are escaped.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free descriptor is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    encoding = "utf-8" if sys.stderr is None else sys.stderr.encoding
    stderr = io.BufferedWriter(io.FileIO(2, "w", closefd=False))
    sys.stderr = LossyStream(stderr, encoding, "backslashreplace", line_buffering=True)


def flush_stdout() -> None:
    """Write what waits for stdout, or drop it: the interpreter would fail on it at its exit."""
    try:
        sys.stdout.flush()
    except OSError:
        discard_stdout()


def discard_stdout() -> None:
    """Let nothing more be written to stdout, what waits in its buffer included."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def return_large_blocks() -> None:
    """Let freed arrays of a megabyte or more go back to the system at once, on Linux.

    glibc learns from large arrays that come and go to keep up to 32 MB of them in its heap, where
    they are cut up by what is allocated between them: a slide's bands then take up to twice the
    memory that they need. A command of its own may change this; a library must not.
    """
    _set_options({_M_MMAP_THRESHOLD: _LARGE_BYTES})


def keep_large_blocks() -> None:
    """Let freed arrays stay in the process for the next ones, whatever their size, on Linux.

    A training step allocates the same arrays as the step before. If the system supplied them each
    time, zeroing and mapping their pages would take a sixth to a quarter of the step on a CPU.
    """
    _set_options({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _NEVER})


def _set_options(options: Mapping[int, int]) -> None:
    if not sys.platform.startswith("linux"):
        return
    try:
        for option, value in options.items():
            ctypes.CDLL(None).mallopt(option, value)
    except (OSError, AttributeError):
        return  # another C library


def has_busy_threads() -> bool:
    """Whether a thread runs, next to this one, that may still have something to do.

    Those of this package's own pools have not: whoever gives them work waits for it.
    """
    others = (each.name for each in threading.enumerate() if each != threading.current_thread())
    return not all(name.startswith((POOL_PREFIX, "tqdm")) for name in others)


class Unfreed:
    """Large objects that nobody needs any more, in a process that is about to end.

    The system frees the memory of an ended process at once; freeing compiled networks object by
    object takes a tenth of a second. Off until the process says that it ends so.
    """

    def __init__(self) -> None:
        self._is_on = False
        self._kept: list[object] = []

    def turn_on(self) -> None:
        """From now on, this process ends without freeing anything."""
        self._is_on = True

    def keep(self, value: object) -> None:
        """Keep an object until the process ends, if it ends without freeing anything."""
        if self._is_on:
            self._kept.append(value)

    def free(self) -> None:
        """Free all of them after all, as the process goes on."""
        self._is_on = False
        self._kept.clear()


unfreed: Final = Unfreed()
"""Those of this process."""


class Forks:
    """Whether this process was forked after libraries with threads were in use.

    Their threads do not survive a fork, and a child that calls them waits for ever.
    """

    def __init__(self) -> None:
        self.is_forked = False
        os.register_at_fork(after_in_child=self._note)

    def _note(self) -> None:
        self.is_forked = True


@lru_cache(maxsize=1)
def watch_forks() -> Forks:
    """Watch for forks of this process from the first call on."""
    return Forks()


@lru_cache(maxsize=1)
def process_start_s() -> float:
    """Tell when this process started, on the clock of ``time.perf_counter``.

    The wall time of the first image counts from here and so includes interpreter start and
    imports. Linux says when (to 10 ms); elsewhere it is the time at which this module was imported.

    Returns:
        Seconds; ``time.perf_counter() - process_start_s()`` is the age of the process.
    """
    if not sys.platform.startswith("linux"):
        return _IMPORTED_AT
    try:
        stat = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace")
        # The second field, the command's name, may hold spaces and brackets: count behind it.
        start_ticks = int(stat.rpartition(")")[2].split()[19])
        started_at = start_ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return _IMPORTED_AT
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - started_at
    return min(_IMPORTED_AT, time.perf_counter() - age)


def peak_memory_bytes(gpu_bytes: int | None = None) -> dict[str, int]:
    """Report the most memory this process has held so far.

    Args:
        gpu_bytes: peak of the accelerator as its library tells it, e.g.
            ``torch.cuda.max_memory_allocated()``; ``None`` without one.

    Returns:
        ``host`` (resident) and, if given, ``gpu``, in bytes.
    """
    peaks = {"host": _peak_resident_bytes()}
    if gpu_bytes is not None:
        peaks["gpu"] = gpu_bytes
    return peaks


def _peak_resident_bytes() -> int:
    # Linux: ru_maxrss of a child starts at the peak of its parent, VmHWM does not.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def available_memory_bytes() -> int | None:
    """Estimate the memory that this process may still take.

    Returns:
        The least of what its control groups, its limit of address space (``ulimit -v``) and the
        machine leave to it, in bytes; None where the system does not say.
    """
    bounds = [*_cgroup_bounds(_CGROUPS, _PROCESS_FILES / "cgroup")]
    bounds += [*_address_space_bound(), *_machine_bound()]
    return max(0, min(bounds)) if bounds else None


def _cgroup_bounds(root: Path, listing: Path) -> Iterator[int]:
    """What each control group above this process leaves, in versions 1 and 2."""
    for line in _read_lines(listing):
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            base, limit, usage, cache = root, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, cache = root / "memory", "total_inactive_file"
            limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        folder = base / name.strip("/")
        while True:
            with suppress(OSError, ValueError):  # not there in a container, or "max"
                limit_bytes = int((folder / limit).read_text(encoding="ascii"))
                used_bytes = int((folder / usage).read_text(encoding="ascii"))
                pages = dict(line.split() for line in _read_lines(folder / "memory.stat"))
                yield limit_bytes - used_bytes + int(pages.get(cache, 0))
            if folder == base or base not in folder.parents:
                break
            folder = folder.parent


def address_limit_bytes() -> int | None:
    """Limit of this process's address space, as ``ulimit -v`` sets it; ``None`` without one."""
    import resource

    limit_bytes, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit_bytes == resource.RLIM_INFINITY else limit_bytes


def _address_space_bound() -> Iterator[int]:
    limit_bytes = address_limit_bytes()
    if limit_bytes is not None:
        for line in _read_lines(_PROCESS_FILES / "statm"):
            yield limit_bytes - int(line.split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _machine_bound() -> Iterator[int]:
    for line in _read_lines(_PROCESS_FILES.parent / "meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _read_lines(path: Path) -> list[str]:
    """Lines of a file of the system; none where it does not exist."""
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
