"""The richest plan that finishes in time: chosen once windows are timed, watched until the end.

Words:
    tolerance: seconds that the challenge grants for an image: 10 per megapixel, at least 10.
    budget: the run's setting to stay inside the tolerance; its scale is the fraction to aim at.
    aim: scale × tolerance, the predicted seconds that a plan is chosen for.
    limit: half-way from aim to tolerance; beyond it the plan is replaced on the way.
    plan: which models, flips and overlap are used; the steps of a ladder go from rich to cheap.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mediar_infer.config import Plan
from mediar_infer.engine.costs import END_S, Costs
from mediar_infer.engine.plans import describe_passes, name_dropped
from mediar_infer.image_trace import Trace
from mediar_infer.tolerance import tolerance_s

logger = logging.getLogger(__name__)

_WORTHWHILE = 0.01
"""Passes are only dropped for a saving of at least this fraction of the tolerance."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """One image's size, and the time that it may take."""

    name: str
    """File name, for messages."""
    height: int
    """Rows in pixels."""
    width: int
    """Columns in pixels."""
    scale: float
    """Fraction of the tolerance that plans are chosen for, in (0, 1]."""
    outside_s: float = 0.0
    """Seconds of the tolerance that pass outside this process, before and after the image."""

    @property
    def megapixels(self) -> float:
        """Size in millions of pixels."""
        return self.height * self.width / 1e6

    @property
    def tolerance_s(self) -> float:
        """Seconds that the challenge grants."""
        return tolerance_s(self.height, self.width)

    @property
    def aim_s(self) -> float:
        """Seconds that a plan may take by prediction."""
        return self.scale * self.tolerance_s

    @property
    def limit_s(self) -> float:
        """Predicted seconds beyond which a cheaper plan is taken; leaves room for fluctuations."""
        return (self.aim_s + self.tolerance_s) / 2


@dataclass(frozen=True, slots=True)
class Work:
    """What is left to do for an image at one moment."""

    row: int
    """First row whose maps are not finished, of the image as the networks see it."""
    n_rows_to_read: int
    """Rows that have not been read yet."""
    n_rows: int
    """Rows in all."""
    n_windows: Callable[[Plan], Sequence[int]]
    """Plan → windows per model that it would still predict."""


@dataclass(slots=True)
class _Choice:
    """What was decided at the start, for the ledger."""

    plan: Plan
    predicted_s: float
    predictions_s: Mapping[str, float]
    reason: str
    window_s: float
    changes: list[dict[str, Any]] = field(default_factory=list)


class Pacer:
    """Decides for one image how much of the system is used, while it is being computed.

    Args:
        plans: from richest to cheapest, see :func:`mediar_infer.engine.plans.ladder_below`.
        costs: what is known of this machine; learns from this image.
        deadline: size and time of the image.
        trace: stages of the image so far, its clock and the start of its wall time; gains a
            warning for each change of plan.
        later_stages: stages after the labels, such as ``write``.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        costs: Costs,
        deadline: Deadline,
        trace: Trace,
        *,
        later_stages: Sequence[str] = (),
    ) -> None:
        self.plan = plans[0]
        self.costs = costs
        self.label_area = 1.0
        """Pixels that are labelled for each pixel of the image."""
        self._plans, self._deadline, self._trace = plans, deadline, trace
        self._later_stages = later_stages
        self._scan_s: float | None = None
        self._choice: _Choice | None = None
        self._n_windows = 0
        self._is_warned = False

    def now(self) -> float:
        """The time on the clock of the image's trace."""
        return self._trace.now()

    def note_windows(self, member: int, n_windows: int, seconds: float) -> None:
        """Record one batch of windows that a member has predicted.

        Args:
            member: index of the model in the ensemble, from 0.
            n_windows: windows that went through the network in this batch.
            seconds: time that all of them took together.
        """
        self._n_windows += n_windows
        self.costs.rates[member].add(n_windows, seconds)

    def review(self, work: Work) -> None:
        """Choose a plan, or a cheaper one if the rest no longer fits; sets ``plan``."""
        if self._scan_s is None:
            # Finding the normalisation reads every row once, about as long as reading them again.
            stages_s = self._trace.stages_s
            self._scan_s = stages_s.get("read", 0.0) + stages_s.get("preprocess", 0.0)
        if not self.costs.is_known:
            return
        elapsed_s = self._trace.now() - self._trace.started_s + self._deadline.outside_s
        fixed_s = elapsed_s + self._stages_s(work)
        predictions = [
            fixed_s + self.costs.network_s(work.n_windows(plan))
            for plan in self._plans[self._plans.index(self.plan) :]
        ]
        if self._choice is None:
            self._choose(predictions)
            return
        predicted = predictions[0]
        if predicted > self._deadline.limit_s:
            row = work.row * self._deadline.height // work.n_rows
            predicted = self._go_down(predictions, row)
        if predicted > self._deadline.tolerance_s:
            self._warn_too_slow(predicted)

    def _best(self, predictions: Sequence[float]) -> int:
        """The first plan inside the aim, or else the first of the cheapest ones."""
        acceptable_s = max(self._deadline.aim_s, min(predictions))
        return next(i for i, predicted in enumerate(predictions) if predicted <= acceptable_s)

    def _choose(self, predictions: Sequence[float]) -> None:
        best, aim_s = self._best(predictions), self._deadline.aim_s
        # The first calls take longer than others. Where that would cost quality, and the cheapest
        # plan does not suffer, two full batches are timed before anything is decided.
        batch_s = self.costs.batch * self.costs.window_s(0)
        if self.costs.is_early and best and predictions[-1] + batch_s <= aim_s:
            return
        self.plan, predicted = self._plans[best], predictions[best]
        names = [plan.name for plan in self._plans]
        listed = ", ".join(
            f"{name} {seconds:.1f} s"
            for name, seconds in zip(names[: best + 1], predictions, strict=False)
        )
        verdict = "the richest within" if predicted <= aim_s else "the cheapest, though not within"
        self._choice = _Choice(
            plan=self.plan,
            predicted_s=predicted,
            predictions_s=dict(zip(names, predictions, strict=True)),
            reason=f"{listed}: {verdict} {aim_s:.1f} s",
            window_s=self.costs.window_s(0),
        )
        logger.info(
            "%s: plan %s, %.1f s predicted of %.1f s (%s)",
            self._deadline.name,
            self.plan.name,
            predicted,
            self._deadline.tolerance_s,
            self._choice.reason,
        )
        if predicted > self._deadline.tolerance_s:
            self._warn_too_slow(predicted)

    def _go_down(self, predictions: Sequence[float], row: int) -> float:
        """Take a cheaper plan if that helps; return the seconds predicted from then on."""
        assert self._choice is not None
        best, expected = self._best(predictions), predictions[0]
        # At the end of an image most of a pass has been paid for, and dropping it saves nothing.
        if expected - predictions[best] < _WORTHWHILE * self._deadline.tolerance_s:
            return expected
        before = self.plan
        self.plan = self._plans[self._plans.index(before) + best]
        dropped = name_dropped(before, self.plan)
        self._choice.changes.append(
            {
                "row": row,
                "plan": describe_passes(self.plan),
                "dropped": dropped,
                "predicted_s": predictions[best],
                "reason": f"{before.name} would take {expected:.1f} s",
            }
        )
        self._trace.warn(
            f"from row {row} on plan {self.plan.name} in place of {before.name}, which would take"
            f" {expected:.1f} s of {self._deadline.tolerance_s:.1f} s; dropped:"
            f" {', '.join(dropped)}"
        )
        return predictions[best]

    def _warn_too_slow(self, predicted: float) -> None:
        if self._is_warned:
            return
        self._is_warned = True
        self._trace.warn(
            f"{predicted:.1f} s predicted for plan {self.plan.name}, the cheapest that is left,"
            f" expected at most {self._deadline.tolerance_s:.1f} s; the image may exceed its"
            " tolerance"
        )

    def _stages_s(self, work: Work) -> float:
        """Predict the seconds that stages other than the network will still take."""
        megapixels, spent_s = self._deadline.megapixels, self._trace.stages_s
        reading_s = (self._scan_s or 0.0) * work.n_rows_to_read / work.n_rows
        share_done = work.row / work.n_rows
        rate = self.costs.stage_s_per_megapixel("labels")
        labels_s = rate * megapixels * self.label_area * self._slowdown
        if spent_s.get("labels") and share_done:
            # Labels of finished rows are made while the rows below are predicted.
            measured_s = spent_s["labels"] / share_done
            labels_s += (measured_s - labels_s) * share_done
        labels_s = max(0.0, labels_s - spent_s.get("labels", 0.0))
        extra = [self.costs.stage_s_per_megapixel(stage) for stage in self._later_stages]
        return reading_s + labels_s + (sum(extra) * megapixels + END_S) * self._slowdown

    @property
    def _slowdown(self) -> float:
        """How much slower the machine is than at the choice; later stages slow down as well."""
        if self._choice is None or self._choice.window_s == 0:
            return 1.0
        return max(1.0, self.costs.window_s(0) / self._choice.window_s)

    def finish(self) -> None:
        """Learn from the stages of the finished image."""
        stages_s = self._trace.stages_s
        if "labels" in stages_s:
            stages_s["labels"] /= self.label_area
        self.costs.learn(stages_s, self._deadline.megapixels)

    def report(self) -> dict[str, Any] | None:
        """What was chosen, predicted and changed, ready for JSON; None before a choice."""
        if self._choice is None:
            return None
        choice = self._choice
        return {
            "scale": self._deadline.scale,
            "aim_s": self._deadline.aim_s,
            **({"outside_s": self._deadline.outside_s} if self._deadline.outside_s else {}),
            "plan": describe_passes(choice.plan),
            "predicted_s": choice.predicted_s,
            "fits": choice.predicted_s <= self._deadline.aim_s,
            "reason": choice.reason,
            "predictions_s": dict(choice.predictions_s),
            "window_s": choice.window_s,
            "n_windows": self._n_windows,
            "changes": list(choice.changes),
        }
