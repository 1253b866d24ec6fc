"""Draw the committed figures: seconds over megapixels against the challenge's tolerance.

python benchmarks/plot_results.py
"""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from mediar_infer.engine.plans import LADDER
from mediar_infer.tolerance import SECONDS_PER_MEGAPIXEL

RESULTS = Path(__file__).resolve().parent / "results"
COLOURS = dict(
    zip(
        [step.name for step in LADDER],
        mpl.colormaps["viridis"](np.linspace(0, 0.95, len(LADDER))),
        strict=True,
    )
)


def draw_tolerance(axes: plt.Axes, megapixels: np.ndarray) -> None:
    axes.plot(
        megapixels, SECONDS_PER_MEGAPIXEL * np.maximum(megapixels, 1), "k-", lw=1, label="tolerance"
    )


def draw_runs(axes: plt.Axes, runs: list[dict[str, Any]], marker: str, suffix: str) -> None:
    for plan, colour in COLOURS.items():
        chosen = [run for run in runs if run["last_plan"] == plan]
        if chosen:
            axes.plot(
                [run["megapixels"] for run in chosen],
                [run["real_s"] for run in chosen],
                marker, color=colour, ms=5, mew=1.2, ls="none", label=f"{plan}{suffix}",
            )  # fmt: skip


def plot_fit_budget() -> None:
    """Whole process of each image under ``--fit-budget``, coloured by the plan it ended with."""
    figure, axes = plt.subplots(figsize=(7, 4.6))
    runs: list[dict[str, Any]] = []
    for name, marker, suffix in (
        ("fit_budget.json", "o", ""),
        ("fit_budget_slowed.json", "x", ", slowed"),
    ):
        found = json.loads((RESULTS / name).read_text())["results"]
        for run in found:
            run |= run.get("slowed", {})
            run["megapixels"] = run["height"] * run["width"] / 1e6
        draw_runs(axes, found, marker, suffix)
        runs += found
    sizes = [run["megapixels"] for run in runs]
    draw_tolerance(axes, np.geomspace(min(sizes) * 0.8, max(sizes) * 1.2, 200))
    axes.set(
        xscale="log", yscale="log", xlabel="megapixels", ylabel="seconds, fresh process",
        title="predict --fit-budget on two CPU cores",
    )  # fmt: skip
    axes.legend(fontsize=7, ncols=2)
    axes.grid(alpha=0.3, which="both", lw=0.4)
    figure.savefig(RESULTS / "fit_budget.png", dpi=130, bbox_inches="tight")


if __name__ == "__main__":
    plot_fit_budget()
