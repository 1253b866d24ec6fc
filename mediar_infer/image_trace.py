"""What is recorded about one image on its way to its labels."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

_Item = TypeVar("_Item")


@dataclass(eq=False, slots=True)
class _OpenStage:
    """One ``with`` block that has not ended; compared by identity."""

    name: str


@dataclass(slots=True)
class _ThreadStages:
    """The open stages of one thread, the innermost last."""

    last_s: float
    open: list[_OpenStage] = field(default_factory=list)


class Trace:
    """Stages, warnings and progress of one image.

    ``with trace.stage("network"):`` charges its time to ``network``, less what inner stages take.
    Each thread has its own nesting and all add to the same totals, so with several threads the sum
    may exceed the wall time. A stage that a generator holds open across a ``yield`` may end after
    the stage around it; time always goes to the innermost stage that is still open.

    Args:
        warnings: sentences to start with, such as those of the image's reader.
        clock: the clock of all times, in seconds.
    """

    def __init__(
        self, warnings: Iterable[str] = (), clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.now = clock
        """The time on the trace's clock."""
        self.started_s = clock()
        """When the image's wall time began; a runner of several images sets it."""
        self.budget: Mapping[str, Any] | None = None
        """Under a time budget: the plan that was chosen, why, and what changed on the way."""
        self.scale = 1.0
        """Size at which the networks see the image; final when the first maps are there."""
        self.scale_choice: Mapping[str, Any] | None = None
        """If a scale was asked for: which one was chosen, and why."""
        self.flow_check: Mapping[str, Any] | None = None
        """Cells that the flow check examined and removed; None before the labels are complete."""
        self.on_progress: Callable[[float], None] = _ignore
        """Called with the fraction in [0, 1] of the image whose maps are complete."""
        self._warnings = list(warnings)
        self._lock = threading.Lock()
        self._local = threading.local()
        self._seconds: dict[str, float] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What may make the result differ from what a user expects, one sentence each."""
        return tuple(self._warnings)

    def warn(self, *sentences: str) -> None:
        """Add warnings; a sentence that is there already is not repeated."""
        with self._lock:
            self._warnings = list(dict.fromkeys([*self._warnings, *sentences]))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Charge the time of a ``with`` block to a stage."""
        stages, entry = self._stages_of_thread(), _OpenStage(name)
        with self._lock:
            self._charge(stages)
            self._seconds.setdefault(name, 0.0)
            stages.open.append(entry)
        try:
            yield
        finally:
            # A generator may be closed from another thread: leave the nesting that was entered.
            with self._lock:
                self._charge(stages)
                stages.open.remove(entry)

    def time_items(self, stage: str, items: Iterable[_Item]) -> Iterator[_Item]:
        """Yield items, charging to a stage the time that producing each of them takes."""
        iterator = iter(items)
        while True:
            with self.stage(stage):
                item = next(iterator, None)
            if item is None:
                return
            yield item

    @property
    def stages_s(self) -> dict[str, float]:
        """Exclusive seconds so far by stage, in the order in which stages began; a copy.

        Open stages of the calling thread count up to now.
        """
        stages = self._stages_of_thread()
        with self._lock:
            self._charge(stages)
            return dict(self._seconds)

    def _stages_of_thread(self) -> _ThreadStages:
        if not hasattr(self._local, "stages"):
            self._local.stages = _ThreadStages(self.now())
        stages: _ThreadStages = self._local.stages
        return stages

    def _charge(self, stages: _ThreadStages) -> None:
        now = self.now()
        if stages.open:
            self._seconds[stages.open[-1].name] += now - stages.last_s
        stages.last_s = now


def _ignore(_fraction: float) -> None:
    """No one is watching."""
