"""The ladder of plans that a time budget chooses from, richest first.

Each rung uses a part of the passes of the rung above it, and windows that overlap as much or less.
So an image that turns out to take too long can go down the ladder half-way: passes are dropped, or
the windows still to come are laid further apart, and what has been computed stays of use.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mediar_infer.config import Plan


@dataclass(frozen=True, slots=True)
class Rung:
    """How much of the system is used; an asked-for plan that does less is not made to do more."""

    name: str
    """Name of the plan in the ledger."""
    max_members: int
    """Models, in their order."""
    n_flips: int
    """Passes per model: the first flips of the asked-for plan."""
    overlap: float
    """Overlap of neighbouring windows."""


LADDER: tuple[Rung, ...] = (
    # The released system.
    Rung("paper", 2, 3, 0.6),
    # The same passes over windows further apart: 2.2, 3.5 and 5 times fewer on a large image, each
    # pixel still seen by every pass. First, as nothing else costs so little F1 for the time it
    # saves (benchmarks/NOTES.md).
    Rung("overlap-40", 2, 3, 0.4),
    Rung("overlap-25", 2, 3, 0.25),
    Rung("overlap-10", 2, 3, 0.1),
    # A third less work. The vertical flip goes first: it alone needs rows of windows of its own.
    Rung("two-flips", 2, 2, 0.1),
    # Half of that. Flips go before the second model: in the paper's Table 4 each is worth about
    # 0.003, but all flips together cost two more passes per model and the second model only one.
    # One model with three flips is left out: more work than this for no more.
    Rung("ensemble", 2, 1, 0.1),
    Rung("one-pass", 1, 1, 0.1),
    # Each pixel is seen once, apart from the last row and column of windows: the least there is.
    Rung("tiles", 1, 1, 0.0),
)


def ladder_below(plan: Plan, n_members: int) -> tuple[Plan, ...]:
    """List a plan and those that do less, from richest to cheapest.

    Args:
        plan: what is asked for; the first one of the result, with no more models than there are.
        n_members: number of models at hand.

    Returns:
        At least one plan. Members, flips and overlap never grow from one to the next.
    """
    top = replace(plan, max_members=min(plan.max_members, n_members))
    plans = [top]
    for rung in LADDER:
        lower = Plan(
            name=rung.name,
            max_members=min(rung.max_members, top.max_members),
            flips=top.flips[: rung.n_flips],
            overlap=min(rung.overlap, top.overlap),
        )
        if replace(lower, name=plans[-1].name) != plans[-1]:
            plans.append(lower)
        elif len(plans) > 1:
            # The lower rung's name tells what is done: one model is no ensemble.
            plans[-1] = lower
    return tuple(plans)


def describe_passes(plan: Plan) -> dict[str, Any]:
    """Fields of a plan as the ledger tells them."""
    return {
        "name": plan.name,
        "models": plan.max_members,
        "flips": list(plan.flips),
        "overlap": plan.overlap,
    }


def name_dropped(before: Plan, after: Plan) -> Sequence[str]:
    """What the second plan does without: passes as ``model 2 identity``, then the overlap."""
    kept = {(m, flip) for m in range(after.max_members) for flip in after.flips}
    dropped = [
        f"model {m + 1} {flip}"
        for flip in before.flips
        for m in range(before.max_members)
        if (m, flip) not in kept
    ]
    if after.overlap < before.overlap:
        dropped.append(f"overlap {before.overlap} to {after.overlap}")
    return dropped
