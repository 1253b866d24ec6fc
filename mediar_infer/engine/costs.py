"""What the stages cost on this machine, in seconds: measured as it works, guessed until then."""

from collections.abc import Mapping, Sequence
from typing import Final

END_S: Final = 0.5
"""From the last label file to the end of the process: summary and table.
Measured 0.2 to 0.5 s on two cores; a process cannot measure its own end."""
STAGE_PRIORS: Final[Mapping[str, float]] = {
    "labels": 0.4, "write": 0.05, "overlay": 0.2, "export": 0.8, "report": 0.2,
}  # fmt: skip
"""Seconds per megapixel of the stages after the network, before any image is done. Labels were
measured at 0.13 (780 cells per megapixel, two cores) to 0.18 (one core); giant cells take more."""

_LEAST_MEGAPIXELS = 0.1
_SHARE_OF_LATEST = 1 / 2
"""Weight of the latest batch in the mean. A smaller one would drop fewer passes after a short
delay, but would notice later that the machine has become slower."""
_N_EARLY = 2
"""Full batches that are timed before a decision, where waiting does no harm."""


class WindowRate:
    """Seconds per window of one model.

    The first calls include one-time work (allocation, loading of kernels), and a call of few
    windows leaves cores idle. The first call therefore counts only until there is another one,
    later calls are combined until they make a full batch, and the first batch counts only until
    there is a second one; the mean of the last batches then follows a machine that becomes slower.

    Args:
        batch: windows of a full call.
        warms_up: the very first call is ignored, as on accelerators, where it takes seconds.
    """

    def __init__(self, batch: int, *, warms_up: bool = False) -> None:
        self._batch, self._warms_up = batch, warms_up
        self._first: float | None = None
        self._steady: float | None = None
        self._n_pending, self._pending_s = 0, 0.0
        self._n_batches = 0

    def add(self, n_windows: int, seconds: float) -> None:
        """Record how long a call took."""
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
        """Whether the rate still includes the cost of starting up, and is too slow if anything."""
        return self._n_batches < _N_EARLY

    @property
    def is_first_guess(self) -> bool:
        """Whether only the first call has been timed."""
        return self._steady is None and self._n_pending == 0

    @property
    def seconds(self) -> float | None:
        """Seconds per window; None before the first call."""
        if self._steady is None and self._n_pending:
            return self._pending_s / self._n_pending
        return self._first if self._steady is None else self._steady


class Costs:
    """Costs of one set of models on one machine, learned over the images of a run.

    Args:
        n_members: number of models.
        batch: windows of a full call.
        warms_up: the models run on an accelerator.
    """

    def __init__(self, n_members: int, batch: int, *, warms_up: bool = False) -> None:
        self.batch = batch
        self.rates = [WindowRate(batch, warms_up=warms_up) for _ in range(n_members)]
        self._stages = dict(STAGE_PRIORS)

    @property
    def is_known(self) -> bool:
        """Whether any window has been timed that counts."""
        return any(rate.seconds is not None for rate in self.rates)

    @property
    def is_early(self) -> bool:
        """Whether no model has been timed for long enough to decide."""
        return all(rate.is_early for rate in self.rates)

    def window_s(self, member: int) -> float:
        """Estimate the seconds per window of one model.

        While the model's only timing is its first call, which is slower than later ones, the mean
        over the models with more than one timed call is used in its place; without any, the mean
        over all first calls.

        Args:
            member: index of the model in the ensemble, from 0.

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
        """Estimate the seconds for a number of windows of each model."""
        return sum(n * self.window_s(member) for member, n in enumerate(n_windows) if n)

    def stage_s_per_megapixel(self, stage: str) -> float:
        """Seconds per megapixel of a stage of ``STAGE_PRIORS``."""
        return self._stages[stage]

    def learn(self, stages_s: Mapping[str, float], megapixels: float) -> None:
        """Move half-way to what the stages of a finished image took.

        Images of less than a tenth of a megapixel are ignored: their times are mostly constant.

        Args:
            stages_s: seconds by stage.
            megapixels: size of the image.
        """
        if megapixels < _LEAST_MEGAPIXELS:
            return
        for stage, before in self._stages.items():
            if stage in stages_s:
                self._stages[stage] = (before + stages_s[stage] / megapixels) / 2
