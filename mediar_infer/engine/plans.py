"""The ladder of plans that a time budget chooses from, richest first.

Each step uses a subset of the passes of the step above it, and windows that overlap as much or
less. An image that turns out to take too long can therefore move down the ladder half-way: passes
are dropped, or the remaining windows are laid further apart, and what has been computed stays
useful.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mediar_infer.config import Plan


@dataclass(frozen=True, slots=True)
class Step:
    """An upper bound on how much of the system is used; a plan that does less stays as it is."""

    name: str
    """Name of the plan in the ledger."""
    max_members: int
    """Models, in their order."""
    n_flips: int
    """Passes per model: the first flips of the requested plan."""
    overlap: float
    """Overlap of neighbouring windows."""
    packed: bool = True
    """Windows of an image that is narrower than half a window share one."""


LADDER: tuple[Step, ...] = (
    # The released system.
    Step("paper", 2, 3, 0.6, packed=False),
    # The same windows, several at once where an image is narrower than half of one.
    Step("packed", 2, 3, 0.6),
    # The same passes over windows further apart: 2.2, 3.5 and 5 times fewer on a large image, each
    # pixel still seen by every pass. First, as nothing else costs so little F1 for the time it
    # saves (benchmarks/NOTES.md).
    Step("overlap-40", 2, 3, 0.4),
    Step("overlap-25", 2, 3, 0.25),
    Step("overlap-10", 2, 3, 0.1),
    # A third less work. The vertical flip goes first: it alone needs rows of windows of its own.
    Step("two-flips", 2, 2, 0.1),
    # Half of that. Flips go before the second model: in the paper's Table 4 each is worth about
    # 0.003, but all flips together cost two more passes per model and the second model only one.
    # One model with three flips is not in the list: more work than this for the same F1.
    Step("ensemble", 2, 1, 0.1),
    Step("one-pass", 1, 1, 0.1),
    # Each pixel is seen once, apart from the last row and column of windows: the least there is.
    Step("tiles", 1, 1, 0.0),
)


def ladder_below(plan: Plan, n_members: int, *, can_pack: bool = False) -> tuple[Plan, ...]:
    """List a plan and those that do less, from richest to cheapest.

    Args:
        plan: the requested plan; the first of the result, with no more models than there are.
        n_members: number of models that are loaded.
        can_pack: the image is so narrow that several of its windows fit in one.

    Returns:
        At least one plan. Members, flips and overlap never grow from one to the next.
    """
    top = replace(plan, max_members=min(plan.max_members, n_members))
    plans = [top]
    for step in LADDER:
        lower = Plan(
            name=step.name,
            max_members=min(step.max_members, top.max_members),
            flips=top.flips[: step.n_flips],
            overlap=min(step.overlap, top.overlap),
            packed=top.packed or (can_pack and step.packed),
        )
        if replace(lower, name=plans[-1].name) != plans[-1]:
            plans.append(lower)
        elif len(plans) > 1 and plans[-1].packed == plans[-2].packed:
            # The lower step's name says what is done: one model is no ensemble.
            plans[-1] = lower
    return tuple(plans)


def describe_passes(plan: Plan) -> dict[str, Any]:
    """Fields of a plan as the ledger has them."""
    return {
        "name": plan.name,
        "models": plan.max_members,
        "flips": list(plan.flips),
        "overlap": plan.overlap,
        **({"packed": True} if plan.packed else {}),
    }


def name_dropped(before: Plan, after: Plan) -> Sequence[str]:
    """List what the second plan drops: passes as ``model 2 identity``, then overlap and packing."""
    kept = {(m, flip) for m in range(after.max_members) for flip in after.flips}
    dropped = [
        f"model {m + 1} {flip}"
        for flip in before.flips
        for m in range(before.max_members)
        if (m, flip) not in kept
    ]
    if after.overlap < before.overlap:
        dropped.append(f"overlap {before.overlap} to {after.overlap}")
    if after.packed and not before.packed:
        dropped.append("separate windows")
    return dropped
