"""The scale at which a network knows an image best, found by trying several on parts of it.

One model, without flips, looks at a few windows at each scale. Where cells have a size that it
knows, it is sure of them: the flow is long, it agrees with the cells that follow from it, most
of the foreground belongs to such cells, and few pixels are undecided. Elsewhere it runs cells
together or takes their texture apart, of which it can be just as sure; so cells count less the
further their size is from that of the training images. How these measures are combined was chosen
on training images that had been resized; see ``benchmarks/NOTES.md``.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mediar_infer.config import EngineConfig
from mediar_infer.engine.preprocess import Scaling
from mediar_infer.engine.resampling import scaled_length
from mediar_infer.image_trace import Trace
from mediar_infer.images.sources import ImageSource
from mediar_infer.network.backends import Backend
from mediar_infer.scales.choice import ScaleChoice
from mediar_infer.scales.parts import PartPrediction, PartPredictor
from mediar_infer.scales.places import choose_places

logger = logging.getLogger(__name__)

SCALES: Final = (1.0, 0.25, 0.35, 0.5, 2.0, 2.83, 4.0)
"""Scales that are tried, the image's own first."""
_UNDECIDED_LOGIT: Final = 2.0
_FEW_CELLS: Final = 8
"""Fewer cells prove nothing: a colony that is taken for one giant cell looks perfect."""
N_PLACES: Final = 2
"""Most parts of an image that are looked at."""
_SMALLEST: Final = 48
"""Longest side in pixels below which an image is not shrunk."""
_CONVINCING: Final = 0.5
_CERTAIN: Final = 0.1
"""Certainty below which nothing is decided."""
_EXPLAINED: Final = 0.25
"""How much it counts that more of the image is explained."""
_CLEARLY: Final = 2.0
"""How many times better than as it is a scale must be."""
_KNOWN_SIZES: Final = (0.5, 2.0)
"""Diameters, relative to the typical one of training, at which a network finds nearly all that it
ever finds of the same cells."""
TYPICAL_DIAMETER: Final = 36.0
"""In pixels, for weights that do not state theirs."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What a network makes of some windows at one scale."""

    scale: float
    """Size at which the network saw them, relative to the image."""
    n_cells: int
    """Cells that pass the flow check."""
    kept: float
    """Fraction of the area of all cells that belongs to those."""
    flow_length: float
    """Mean length of the flow in the foreground; 1 where the network is sure."""
    undecided: float
    """Fraction of the pixels whose cell probability is between 0.12 and 0.88."""
    foreground: float
    """Fraction of the pixels in the foreground."""
    diameter: float
    """Median diameter, in pixels that the network sees, of the cells that pass; 0 without any."""

    @property
    def certainty(self) -> float:
        """How sure the network is of what it has found, 0 to 1."""
        return self.kept * min(self.flow_length, 1.0) * (1 - self.undecided)

    def familiarity(self, typical: float) -> float:
        """How well a network knows cells of this size, 0 to 1.

        Args:
            typical: median diameter of the cells that it was trained on, in pixels.
        """
        smallest, largest = (factor * typical for factor in _KNOWN_SIZES)
        if not self.diameter:
            return 0.0
        return min(1.0, self.diameter / smallest, largest / self.diameter) ** 2

    def score(self, most: float, typical: float) -> float:
        """Certainty; less for unknown sizes, or below the ``most`` foreground of any scale."""
        explained = float((self.foreground / most) ** _EXPLAINED)
        return self.certainty * explained * self.familiarity(typical)

    def is_convincing(self, typical: float) -> bool:
        """Whether no other scale need be tried."""
        has_evidence = self.n_cells >= _FEW_CELLS and self.certainty >= _CONVINCING
        return has_evidence and self.familiarity(typical) == 1

    def __str__(self) -> str:
        return f"{self.n_cells} cells of {self.diameter:.0f} px with certainty {self.certainty:.2f}"

    def to_plain(self) -> dict[str, Any]:
        """Give the trial as the ledger has it."""
        return {
            "scale": self.scale,
            "n_cells": self.n_cells,
            "cell_diameter": round(self.diameter, 1),
            "certainty": round(self.certainty, 3),
        }


def find_scale(
    source: ImageSource,
    scaling: Scaling,
    member: Backend,
    config: EngineConfig,
    trace: Trace,
    training_diameter: float | None = None,
) -> ScaleChoice:
    """Find the scale at which a network knows the cells of an image.

    Args:
        source: the image.
        scaling: its normalisation constants.
        member: the model that looks.
        config: window size and thresholds.
        trace: gains the stage ``scale``.
        training_diameter: median diameter of the cells that the model was trained on, in pixels,
            if known.

    Returns:
        The scale and what was tried; 1 if nothing is clearly better.
    """
    typical = training_diameter or TYPICAL_DIAMETER
    with trace.stage("scale"):
        places = choose_places(source, scaling, config.roi_size, N_PLACES)
        predictor = PartPredictor(source, scaling, member, config)

        def try_at(scale: float) -> Trial:
            return make_trial(scale, [predictor.predict(place, scale) for place in places])

        own_scale, *others = list_scales(source.height, source.width)
        trials = [try_at(own_scale)]
        if not trials[0].is_convincing(typical):
            trials += map(try_at, others)
        choice = judge(trials, typical)
    logger.info("%s: seen at %g times its size: %s", source.name, choice.scale, choice.reason)
    return choice


def list_scales(height: int, width: int) -> list[float]:
    """Scales at which an image is tried: its own, then those that leave something to see."""
    longest = max(height, width)
    return [scale for scale in SCALES if scale == 1 or scaled_length(longest, scale) >= _SMALLEST]


def make_trial(scale: float, parts: Sequence[PartPrediction]) -> Trial:
    """Measure what a network made of some windows at one scale."""
    logits = np.concatenate([part.logits.ravel() for part in parts])
    lengths = np.concatenate([part.flow_lengths.ravel() for part in parts])
    areas = np.concatenate([part.areas for part in parts])
    kept_areas = np.concatenate([part.areas[part.is_kept] for part in parts])
    inside = logits > 0
    return Trial(
        scale=scale,
        n_cells=len(kept_areas),
        kept=float(kept_areas.sum() / max(areas.sum(), 1)),
        flow_length=float(lengths[inside].mean()) if inside.any() else 0.0,
        undecided=float((np.abs(logits) < _UNDECIDED_LOGIT).mean()),
        foreground=float(inside.mean()),
        diameter=2 * math.sqrt(float(np.median(kept_areas)) / math.pi) if len(kept_areas) else 0.0,
    )


def judge(trials: Sequence[Trial], typical: float) -> ScaleChoice:
    """Choose among trials, of which the first is the image as it is.

    Of two scales at which the network is equally sure, the one that explains more of the image is
    better: texture inside cells makes many certain specks.

    Args:
        trials: at one scale each.
        typical: median diameter of the cells that the network was trained on, in pixels.
    """
    own = trials[0]
    plain = [trial.to_plain() for trial in sorted(trials, key=lambda trial: trial.scale)]
    able = [trial for trial in trials if trial.n_cells >= _FEW_CELLS]
    most = max((trial.foreground for trial in (own, *able)), default=0.0) or 1.0
    best = max(able, key=lambda trial: trial.score(most, typical), default=own)
    if len(trials) == 1 or max(best.certainty, own.certainty) >= _CERTAIN:
        if best is not own and best.score(most, typical) >= _CLEARLY * own.score(most, typical):
            return ScaleChoice(best.scale, f"{best}, as it is {own}", plain)
        return ScaleChoice(1.0, f"{own}, nothing is clearly better", plain)
    return ScaleChoice(
        1.0,
        "undecided",
        plain,
        "found no scale at which the network is sure of its cells, so the image is seen as it is;"
        " look at the result, and give --cell-size if cells are smaller or larger than usual",
    )
