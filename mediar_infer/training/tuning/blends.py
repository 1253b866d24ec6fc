"""Blends of start and tuned weights: scored on held-out images, and the best one chosen."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from mediar_infer.errors import TrainingError
from mediar_infer.network.checkpoints import Checkpoint
from mediar_infer.network.model import MediarFormer
from mediar_infer.training.data.table import TrainingImage, select_records
from mediar_infer.training.stages.averaging import blend_weights
from mediar_infer.training.stages.scoring import compute_mean_f1, score_weights

logger = logging.getLogger(__name__)

_MAX_SCORED_MEMORY: Final = 64


@dataclass(frozen=True, slots=True)
class ScoredBlend:
    """A blend and its scores on held-out images."""

    share: float
    """Share of the tuned weights; 0 is the start."""
    f1: float
    """Mean F1 at IoU 0.5 on the user's held-out images."""
    memory_f1: float | None
    """The same on the memory's held-out images; ``None`` if not needed, or without memory."""


def score_memory(
    start: ScoredBlend,
    candidates: Sequence[ScoredBlend],
    max_loss: float,
    score: Callable[[float], float | None],
) -> list[ScoredBlend]:
    """Score blends that beat the start on the memory, best first, until one is accepted.

    Args:
        start: the start weights.
        candidates: blends, without F1 on the memory.
        max_loss: as for ``choose``.
        score: share of a blend → its F1 on the memory's held-out images.

    Returns:
        The blends in the same order, with F1 on the memory where it was needed.
    """
    scored = {}
    for blend in sorted(candidates, key=_rank):
        if blend.f1 > start.f1:
            scored[blend.share] = replace(blend, memory_f1=score(blend.share))
            logger.info("%s", describe_blend(scored[blend.share]))
            if not _forgets(start, scored[blend.share], max_loss):
                break
    return [scored.get(each.share, each) for each in candidates]


def choose(start: ScoredBlend, candidates: Sequence[ScoredBlend], max_loss: float) -> ScoredBlend:
    """Choose the blend with the best F1 among those that forget little.

    Args:
        start: the start weights.
        candidates: blends; the smaller share wins a tie.
        max_loss: largest loss of F1 on the memory's held-out images.

    Raises:
        TrainingError: if none is better than the start.
    """
    better = [each for each in candidates if each.f1 > start.f1]
    kept = [each for each in better if not _forgets(start, each, max_loss)]
    if not kept:
        best = min(candidates, key=_rank)
        raise TrainingError(
            f"found no tuned weights that do better than the start ({describe_blend(start)}; best"
            f" of {len(candidates)}: {describe_blend(best)}), expected a higher F1 on the held-out"
            " images"
            + (f" and at most {max_loss} less on the memory" if better else "")
            + "; nothing was written: keep the start weights, or add labelled images"
        )
    return min(kept, key=_rank)


def _rank(candidate: ScoredBlend) -> tuple[float, float]:
    """Sort key: the best blend first, the smaller share first in a tie."""
    return -candidate.f1, candidate.share


def _forgets(start: ScoredBlend, candidate: ScoredBlend, max_loss: float) -> bool:
    if candidate.memory_f1 is None or start.memory_f1 is None:
        return False
    return candidate.memory_f1 < start.memory_f1 - max_loss


def describe_blend(candidate: ScoredBlend) -> str:
    """One line: share and scores."""
    name = f"share {candidate.share:g}" if candidate.share else "start"
    told = f"{name}: F1 {candidate.f1:.4f} on the held-out images"
    if candidate.memory_f1 is not None:
        told += f", {candidate.memory_f1:.4f} on the memory's"
    return told


class BlendJudge:
    """Scores blends of start and tuned weights, rounded as they will be written.

    Args:
        start: the start weights; the flow threshold that they state counts for all blends.
        tuned: the tuned entries, float32.
        device: where the network runs.
        records: the user's images; the held-out ones are scored.
        memory: images of the memory; some of the held-out ones are scored.
    """

    def __init__(
        self,
        start: Checkpoint,
        tuned: Mapping[str, Tensor],
        device: torch.device,
        records: Sequence[TrainingImage],
        memory: Sequence[TrainingImage],
    ) -> None:
        self._model = MediarFormer(start.architecture).to(device)
        self._start, self._tuned = start.state_dict, tuned
        self._flow_threshold = start.flow_threshold
        self._records = select_records(records, ("target",), "val")
        held_out = select_records(memory, ("public",), "val")
        stride = -(-len(held_out) // _MAX_SCORED_MEMORY) or 1
        self._memory = held_out[::stride]

    def score(self, share: float) -> float:
        """F1 on the user's held-out images with ``share`` of the tuned weights."""
        return self._score(share, self._records)

    def score_memory(self, share: float) -> float | None:
        """The same on the memory's held-out images; None if there are none."""
        return self._score(share, self._memory) if self._memory else None

    def _score(self, share: float, records: Sequence[TrainingImage]) -> float:
        blend = blend_weights(self._start, self._tuned, share)
        rounded = {
            name: value.half().float() if value.is_floating_point() else value
            for name, value in blend.items()
        }
        self._model.load_state_dict(rounded)
        scores = score_weights(self._model, records, flow_threshold=self._flow_threshold)
        return compute_mean_f1(scores)
