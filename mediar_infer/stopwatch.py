"""Seconds per stage of an image."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

_Item = TypeVar("_Item")


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
