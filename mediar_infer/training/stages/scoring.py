"""Which weights are best: F1 on held-out images or, without labels, the number of cells found.

The paper counts cells where all labelled images are trained on: the flow check drops false cells,
so more cells are, up to a point, more true ones (section 6.2).
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import nn

from mediar_infer.config import PLANS, EngineConfig, RuntimeConfig
from mediar_infer.devices import Device, select_precision
from mediar_infer.errors import UsageError
from mediar_infer.images.open import open_image
from mediar_infer.labels.metrics import THRESHOLDS, evaluate_labels
from mediar_infer.labels.reading import read_labels
from mediar_infer.network.backends.torch_backend import TorchBackend
from mediar_infer.segmenter import Segmenter
from mediar_infer.training.data.table import TrainingImage
from mediar_infer.training.networks.build import window_size

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ImageScore:
    """Score of a network on one image."""

    record: TrainingImage
    """The image."""
    n_cells: int
    """Cells found, including those at the border."""
    f1s: tuple[float, ...]
    """F1 at the thresholds of ``mediar_infer.labels.metrics.THRESHOLDS``; empty without labels, NaN
    if all cells of labels and prediction touch the border, so that none counts."""

    @property
    def f1(self) -> float:
        """F1 at IoU 0.5; NaN if there is nothing to score.

        Raises:
            UsageError: if the image has no labels.
        """
        if not self.f1s:
            raise UsageError(
                f"{self.record.image_id}: found no labels, expected a labelled image for F1"
            )
        return self.f1s[0]


def build_segmenter(
    model: nn.Module,
    device: torch.device | str,
    plan: str = "single",
    flow_threshold: float | None = None,
) -> Segmenter:
    """Build an engine around a network in memory, with one pass and no flips.

    Args:
        model: ``(N, 3, S, S)`` → logits; put into evaluation mode and moved to the device.
        device: where it runs.
        plan: a name of ``mediar_infer.config.PLANS``.
        flow_threshold: what its weights state; None if they state none.
    """
    chosen = Device(torch.device(device).type, torch.device(device).index)
    config = EngineConfig(
        plan=PLANS[plan],
        runtime=RuntimeConfig(device=str(chosen), threads=torch.get_num_threads()),
        roi_size=window_size(model),
    )
    backend = TorchBackend(model, chosen, select_precision("auto", chosen))
    return Segmenter([backend], config, flow_threshold=flow_threshold)


def load_for_scoring(
    weights: Path | Sequence[Path], device: str = "auto", plan: str = "single", roi_size: int = 512
) -> Segmenter:
    """Load weight files for scoring or relabelling.

    Args:
        weights: one or two files, or a folder of them.
        device: as for inference.
        plan: ``single`` and ``fast`` run the first model once; ``paper`` both, with flips.
        roi_size: side of the windows; ideally that of the training crops.

    Raises:
        CheckpointError: if weights are missing or not those of a MEDIAR-Former.
    """
    runtime = RuntimeConfig(device=device, threads=torch.get_num_threads())
    config = EngineConfig(plan=PLANS[plan], runtime=runtime, roi_size=roi_size)
    return Segmenter.from_weights(weights, config)


def score_image(segmenter: Segmenter, record: TrainingImage) -> ImageScore:
    """Segment an image and compare it with its labels, if it has any.

    Raises:
        ImageReadError: if image or labels cannot be read.
    """
    with open_image(record.image_path) as source:
        image = source.read_rows(0, source.height)
    found = segmenter.segment(image)
    if record.label_path is None:
        return ImageScore(record, found.n_cells, ())
    scores = evaluate_labels(read_labels(record.label_path), found.labels, THRESHOLDS)
    has_cells = scores[0].n_true + scores[0].n_pred > 0
    f1s = tuple(score.f1 if has_cells else math.nan for score in scores)
    return ImageScore(record, found.n_cells, f1s)


def score_weights(
    weights: Path | nn.Module | Segmenter,
    records: Sequence[TrainingImage],
    device: str = "auto",
    flow_threshold: float | None = None,
) -> list[ImageScore]:
    """Score a network on images.

    Args:
        weights: a weight file, a network in memory, or an engine that holds one.
        records: images; those without labels are only counted.
        device: where a file or a network runs, as for inference.
        flow_threshold: what the weights of a network in memory state; None if they state none.

    Returns:
        One score per image, in order.

    Raises:
        UsageError: if there is no image.
    """
    if not records:
        raise UsageError("found no image to score, expected held-out or tuning images in the table")
    if isinstance(weights, Segmenter):
        segmenter = weights
    elif isinstance(weights, Path):
        segmenter = load_for_scoring(weights, device)
    else:
        where = next(weights.parameters()).device
        segmenter = build_segmenter(weights, where, flow_threshold=flow_threshold)
    return [score_image(segmenter, record) for record in records]


def select_scored(scores: Sequence[ImageScore]) -> list[ImageScore]:
    """Select the images on which there is something to score.

    The challenge gives the others 0, which would only lower the mean of all networks.

    Raises:
        UsageError: if an image has no labels.
    """
    return [score for score in scores if not math.isnan(score.f1)]


def compute_mean_f1(scores: Sequence[ImageScore]) -> float:
    """Mean of F1 at IoU 0.5 over the images with something to score; 0 if there are none."""
    scored = select_scored(scores)
    return fmean(score.f1 for score in scored) if scored else 0.0


def count_cells(scores: Sequence[ImageScore]) -> int:
    """Cells found on all images."""
    return sum(score.n_cells for score in scores)
