"""The challenge's time tolerance, a stopwatch per stage, and what the process has used."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeVar

_Item = TypeVar("_Item")
SECONDS_PER_MEGAPIXEL: Final = 10.0
"""The challenge grants this much per million pixels, and never less than for one million."""

_IMPORTED_AT: Final = time.perf_counter()


def tolerance_s(height: int, width: int) -> float:
    """Compute the seconds that the challenge grants for an image: 10 per megapixel, at least 10."""
    return SECONDS_PER_MEGAPIXEL * max(1.0, height * width / 1e6)


def counted_s(wall_s: float, height: int, width: int) -> float:
    """Compute the seconds that count against an image: those beyond its tolerance."""
    return max(0.0, wall_s - tolerance_s(height, width))


@lru_cache(maxsize=1)
def process_start_s() -> float:
    """Tell when this process started, on the clock of ``time.perf_counter``.

    The wall time of the first image counts from here, so that it holds interpreter start and
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


@dataclass(eq=False, slots=True)
class _Open:
    """One ``with`` block that has not ended; compared by identity."""

    stage: str


@dataclass(slots=True)
class _ThreadStages:
    """The open stages of one thread, the innermost last."""

    last_s: float
    open: list[_Open] = field(default_factory=list)


class Stopwatch:
    """Exclusive seconds per named stage.

    ``with stopwatch("network"):`` charges its time to ``network``, less what inner stages take.
    Each thread has its own nesting and all add to the same totals, so that with threads at work the
    sum may exceed the wall time. A stage that a generator holds open across a ``yield`` may end
    after the stage around it; time always goes to the stage opened last that is still open.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._local = threading.local()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Charge the time of a ``with`` block to a stage."""
        stages, entry = self._stages(), _Open(stage)
        with self._lock:
            self._charge(stages)
            self._seconds.setdefault(stage, 0.0)
            stages.open.append(entry)
        try:
            yield
        finally:
            # A generator may be closed from another thread: leave the nesting that was entered.
            with self._lock:
                self._charge(stages)
                stages.open.remove(entry)

    def each(self, stage: str, items: Iterable[_Item]) -> Iterator[_Item]:
        """Pass items on, charging to a stage the time that it takes to make each."""
        iterator = iter(items)
        while True:
            with self(stage):
                item = next(iterator, None)
            if item is None:
                return
            yield item

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds so far by stage, in the order in which stages began; a copy.

        Open stages of the calling thread count up to now.
        """
        stages = self._stages()
        with self._lock:
            self._charge(stages)
            return dict(self._seconds)

    def _stages(self) -> _ThreadStages:
        if not hasattr(self._local, "stages"):
            self._local.stages = _ThreadStages(self._clock())
        stages: _ThreadStages = self._local.stages
        return stages

    def _charge(self, stages: _ThreadStages) -> None:
        now = self._clock()
        if stages.open:
            self._seconds[stages.open[-1].stage] += now - stages.last_s
        stages.last_s = now
