"""What a network makes of one part of an image that is shown at some scale."""

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from mediar_infer.arrays import (
    CELLPROB,
    FLOW_SCALE,
    FLOW_X,
    FLOW_Y,
    AnyArray,
    Float32Array,
    LabelArray,
)
from mediar_infer.config import EngineConfig, Plan
from mediar_infer.engine.bands import predict_bands
from mediar_infer.engine.preprocess import Scaling
from mediar_infer.engine.resampling import resize_whole, scaled_length
from mediar_infer.engine.scaled import NORMALISED
from mediar_infer.image_trace import Trace
from mediar_infer.images.sources import ArraySource, ImageSource
from mediar_infer.labels.flows import compute_flow_errors
from mediar_infer.labels.kernels.choice import select_kernels
from mediar_infer.labels.masks import compute_labels
from mediar_infer.network.backends import Backend
from mediar_infer.scales.places import read_part

_FLOW_THRESHOLD: Final = 0.4
_PLAN: Final = Plan("trial", 1, ("identity",), 0.0)


@dataclass(frozen=True, slots=True)
class PartPrediction:
    """Maps and cells of one part, in pixels that the network sees."""

    logits: Float32Array
    """``(H, W)``: logits of the cell probability."""
    flow_lengths: Float32Array
    """``(H, W)``; 1 where the network is sure."""
    labels: LabelArray
    """``(H, W)`` int32: all cells, also those that fail the flow check."""
    areas: npt.NDArray[np.int64]
    """``(cells,)``: pixels of each cell."""
    is_kept: npt.NDArray[np.bool_]
    """``(cells,)``: whether it passes the flow check."""


class PartPredictor:
    """Predicts parts of an image at any scale, by one model without flips.

    Args:
        source: the image.
        scaling: its normalisation constants.
        member: the model.
        config: window size and thresholds.
    """

    def __init__(
        self, source: ImageSource, scaling: Scaling, member: Backend, config: EngineConfig
    ) -> None:
        self._source, self._scaling, self._member = source, scaling, member
        self._config = replace(config, plan=_PLAN, fit_budget=None)
        self._masks = replace(config.masks, flow_threshold=None)
        self._kernels = select_kernels(member.device, config.runtime.threads)

    def predict(self, place: tuple[int, int], scale: float) -> PartPrediction:
        """Predict one window around a place.

        Args:
            place: (row, column) of its centre in the image.
            scale: size at which the image is shown.
        """
        maps = self._predict_maps(self._show(place, scale))
        labels, n_cells = compute_labels(maps, self._masks, self._kernels)
        flow = np.ascontiguousarray(maps[:CELLPROB])
        errors = compute_flow_errors(labels, flow, self._kernels)
        return PartPrediction(
            logits=maps[CELLPROB],
            flow_lengths=np.hypot(maps[FLOW_Y], maps[FLOW_X]) / FLOW_SCALE,
            labels=labels,
            areas=np.bincount(labels.ravel(), minlength=n_cells + 1)[1:],
            is_kept=errors <= _FLOW_THRESHOLD,
        )

    def _show(self, place: tuple[int, int], scale: float) -> AnyArray:
        """``(H, W, 3)`` uint8: the part that fills a window at this scale, normalised."""
        size = self._config.roi_size
        part = read_part(self._source, self._scaling, place, math.ceil(size / scale))
        shape = (min(scaled_length(length, scale), size) for length in part.shape[1:])
        shown = resize_whole(part, *shape, is_cubic=True).clip(0, 255).round().astype(np.uint8)
        return shown.transpose(1, 2, 0)

    def _predict_maps(self, image: AnyArray) -> Float32Array:
        source = ArraySource(image, self._source.name)
        bands = predict_bands(source, NORMALISED, [self._member], self._config, Trace())
        return np.concatenate(list(bands), axis=1)
