"""What things cost on this machine, in seconds: measured as it works, guessed until then."""

from collections.abc import Mapping, Sequence
from typing import Final

END_S: Final = 0.5
"""From the last label file to the end of the process: summary and table.
Measured 0.2 to 0.5 s on two cores; the process cannot measure it for itself."""
STAGE_PRIORS: Final[Mapping[str, float]] = {"labels": 0.4, "write": 0.05, "overlay": 0.2}
"""Seconds per megapixel of the stages behind the network, before any image is done. Labels were
measured at 0.13 (780 cells per megapixel, two cores) to 0.18 (one core); giant cells take more."""

_LEAST_MEGAPIXELS = 0.1
_SHARE_OF_LATEST = 1 / 2
"""Of one batch in the mean. Less would drop fewer passes for a short delay, but see a machine that
has become slower later."""
_N_EARLY = 2
"""Full batches before anything is decided, where that does no harm."""


class WindowRate:
    """Seconds per window of one model.

    The first calls hold what happens once (allocation, loading of kernels), and a call of few
    windows leaves cores idle. So the first call counts only until there is another one, later
    calls are taken together until they make a full batch, and the first batch counts only until
    there is a second one; the mean of the last batches then follows a machine that becomes slower.

    Args:
        batch: windows that suit the model at once.
        warms_up: the very first call says nothing, as on accelerators, where it takes seconds.
    """

    def __init__(self, batch: int, *, warms_up: bool = False) -> None:
        self._batch, self._warms_up = batch, warms_up
        self._first: float | None = None
        self._steady: float | None = None
        self._n_pending, self._pending_s = 0, 0.0
        self._n_batches = 0

    def add(self, n_windows: int, seconds: float) -> None:
        """Note how long a call took."""
        if self._warms_up:
            self._warms_up = False
            return
        if self._first is None:
            self._first = seconds / n_windows
            return
        self._n_pending += n_windows
        self._pending_s += seconds
        if self._n_pending >= self._batch:
            latest = self._pending_s / self._n_pending
            self._n_batches += 1
            before = self._steady if self._steady and self._n_batches > _N_EARLY else latest
            self._steady = before + _SHARE_OF_LATEST * (latest - before)
            self._n_pending, self._pending_s = 0, 0.0

    @property
    def is_early(self) -> bool:
        """Whether what is known holds the cost of a start, and is too slow rather than too fast."""
        return self._n_batches < _N_EARLY

    @property
    def is_first_guess(self) -> bool:
        """Whether the first call is all there is."""
        return self._steady is None and self._n_pending == 0

    @property
    def seconds(self) -> float | None:
        """Seconds per window; none before the first call."""
        if self._steady is None and self._n_pending:
            return self._pending_s / self._n_pending
        return self._first if self._steady is None else self._steady


class Costs:
    """Costs of one set of models on one machine, learned over the images of a run.

    Args:
        n_members: number of models.
        batch: windows that suit them at once.
        warms_up: they run on an accelerator.
    """

    def __init__(self, n_members: int, batch: int, *, warms_up: bool = False) -> None:
        self.batch = batch
        self.rates = [WindowRate(batch, warms_up=warms_up) for _ in range(n_members)]
        self._stages = dict(STAGE_PRIORS)

    @property
    def is_known(self) -> bool:
        """Whether any window has been timed that tells something."""
        return any(rate.seconds is not None for rate in self.rates)

    @property
    def is_early(self) -> bool:
        """Whether no model has been timed for long enough to be judged by it."""
        return all(rate.is_early for rate in self.rates)

    def window_s(self, member: int) -> float:
        """Seconds per window of a model; that of the others while they are known better.

        Raises:
            ValueError: if no window has been timed.
        """
        steady = [rate for rate in self.rates if not rate.is_first_guess]
        own = self.rates[member]
        chosen = [own] if own in steady else steady or self.rates
        known = [rate.seconds for rate in chosen if rate.seconds is not None]
        if not known:
            raise ValueError("found no timed window, expected one; time a window first")
        return sum(known) / len(known)

    def network_s(self, n_windows: Sequence[int]) -> float:
        """Seconds for a number of windows per model."""
        return sum(n * self.window_s(member) for member, n in enumerate(n_windows) if n)

    def stage_s_per_megapixel(self, stage: str) -> float:
        """Seconds per megapixel of ``labels``, ``write`` or ``overlay``."""
        return self._stages[stage]

    def learn(self, stages_s: Mapping[str, float], megapixels: float) -> None:
        """Move half-way to what the stages of a finished image took.

        Images of less than a tenth of a megapixel tell little: what they take is mostly constant.
        """
        if megapixels < _LEAST_MEGAPIXELS:
            return
        for stage, before in self._stages.items():
            if stage in stages_s:
                self._stages[stage] = (before + stages_s[stage] / megapixels) / 2
