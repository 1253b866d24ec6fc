"""Learning curves of runs, as in the paper's Figures 10 and 11: losses, scores, cell counts."""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mediar_infer.errors import DataError, UsageError
from mediar_infer.output_files import write_bytes
from mediar_infer.training.stages.run_folder import StageFolder, read_log

_Floats = npt.NDArray[np.float64]

_SMOOTHED_SHARE: Final = 40
"""Losses are smoothed over the number of a stage's steps divided by this."""


@dataclass(frozen=True, slots=True)
class StageCurves:
    """Logs of one stage."""

    name: str
    """Run and stage."""
    offset: int
    """Steps of the stages that it follows."""
    steps: _Floats
    """``(n,)`` steps of this stage."""
    losses: _Floats
    """``(n,)`` loss of each step."""
    scores: dict[str, tuple[_Floats, _Floats]]
    """Measure → steps and values of the validations."""


def read_curves(run: Path, stage_names: Sequence[str] = ()) -> list[StageCurves]:
    """Read the logs of a run.

    Args:
        run: folder of the run.
        stage_names: only these stages.

    Returns:
        Stages with a log, in the recipe's order; each begins where the one it starts from ends.

    Raises:
        UsageError: if the folder holds no run, or no stage has a log.
        DataError: if its files are damaged.
    """
    path = run / "recipe.json"
    try:
        stages = json.loads(path.read_text(encoding="utf-8"))["recipe"]["stages"]
    except OSError as error:
        raise UsageError(f"{path}: found no such file, expected a run folder") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read ({error!r}); expected a run folder") from error
    ends: dict[str, int] = {}
    found = []
    for stage in stages:
        name, folder = stage["name"], StageFolder(run / stage["name"])
        offset = ends.get(stage["start"].removeprefix("stage:"), 0)
        rows = read_log(folder.log_path)
        ends[name] = offset + len(rows)
        if rows and (not stage_names or name in stage_names):
            found.append(
                StageCurves(
                    name=f"{run.name}: {name}",
                    offset=offset,
                    steps=np.array([float(row["step"]) for row in rows]),
                    losses=np.array([float(row["loss"]) for row in rows]),
                    scores=_read_scores(folder.validation_path),
                )
            )
    if not found:
        raise UsageError(f"{run}: found no log of a stage, expected a run that has started")
    return found


def _read_scores(path: Path) -> dict[str, tuple[_Floats, _Floats]]:
    rows = read_log(path)
    return {
        measure: (
            np.array([float(row["step"]) for row in rows if row["measure"] == measure]),
            np.array([float(row["value"]) for row in rows if row["measure"] == measure]),
        )
        for measure in dict.fromkeys(row["measure"] for row in rows)
    }


def smooth(values: _Floats, width: int) -> _Floats:
    """Mean over windows of ``width`` values, shorter at both ends.

    Args:
        values: ``(n,)``.
        width: at least 1.
    """
    kernel = np.ones(min(width, len(values)))
    sums = np.convolve(values, kernel, mode="same")
    counts = np.convolve(np.ones(len(values)), kernel, mode="same")
    means: _Floats = sums / counts
    return means


def draw_curves(runs: Sequence[Path], output: Path, stage_names: Sequence[str] = ()) -> None:
    """Draw the losses of all steps and any validation scores.

    Args:
        runs: run folders.
        output: PNG file.
        stage_names: only these stages.

    Raises:
        UsageError: if a folder holds no run.
        OutputError: if the plot cannot be written.
    """
    from matplotlib.figure import Figure

    curves = [each for run in runs for each in read_curves(run, stage_names)]
    measures = list(dict.fromkeys(name for each in curves for name in each.scores))
    n_rows = 1 + len(measures)
    figure = Figure(figsize=(9, 3.2 * n_rows), layout="constrained")
    panels = figure.subplots(n_rows, 1, sharex=True, squeeze=False)[:, 0]
    colours = _colours(len(curves))
    for curve, colour in zip(curves, colours, strict=True):
        _draw_loss(panels[0], curve, colour)
        for panel, measure in zip(panels[1:], measures, strict=True):
            if measure in curve.scores:
                steps, values = curve.scores[measure]
                style = {"marker": "o", "markersize": 3, "color": colour}
                panel.plot(curve.offset + steps, values, label=curve.name, **style)
    panels[0].set_ylabel("training loss")
    panels[0].set_yscale("log")
    for panel, measure in zip(panels[1:], measures, strict=True):
        panel.set_ylabel({"f1": "F1 at IoU 0.5 (held out)", "count": "cells (tuning)"}[measure])
    panels[-1].set_xlabel("steps")
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    write_bytes(output, picture.getvalue())


def _draw_loss(panel: Any, curve: StageCurves, colour: Any) -> None:  # noqa: ANN401 (matplotlib has no types here)
    steps = curve.offset + curve.steps
    width = max(1, len(curve.steps) // _SMOOTHED_SHARE)
    panel.plot(steps, curve.losses, color=colour, alpha=0.2, linewidth=0.7)
    style = {"color": colour, "linewidth": 1.5, "marker": "o" if len(steps) == 1 else None}
    panel.plot(steps, smooth(curve.losses, width), label=curve.name, **style)


def _colours(number: int) -> Iterator[Any]:
    from matplotlib import colormaps

    palette = colormaps["tab10" if number <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    return (palette[i % len(palette)] for i in range(number))
