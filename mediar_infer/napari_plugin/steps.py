"""An image segmented in steps, so that a window shows how far it is and can stop it."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from mediar_infer.arrays import LabelArray
from mediar_infer.config import EngineConfig
from mediar_infer.engine.resampling import scaled_shape
from mediar_infer.hosts.models import load_segmenter
from mediar_infer.image_trace import Trace
from mediar_infer.images.sources import ImageSource
from mediar_infer.labels.blocks import is_stitched


@dataclass(frozen=True, slots=True, eq=False)
class SegmentedPlane:
    """What came of a plane."""

    labels: LabelArray
    """``(H, W)`` int32, 0 = background, cells 1 … n."""
    seconds: float
    """Wall time, without the loading of networks."""
    scale: float
    """Size at which the networks saw the plane."""
    warnings: Sequence[str]
    """What may make the result differ from what a user expects."""

    @property
    def n_cells(self) -> int:
        """Number of cells found."""
        return int(self.labels.max(initial=0))


def segment_in_steps(
    source: ImageSource, weights: Sequence[Path], config: EngineConfig
) -> Generator[float, None, SegmentedPlane]:
    """Segment an image; closing the generator between two steps ends the work.

    Args:
        source: the image.
        weights: a folder, or one or two files; empty for the pair that comes with the package.
        config: settings.

    Yields:
        The fraction of rows that are done, after each band of rows.

    Returns:
        The labels, and what there is to say about them.

    Raises:
        MediarError: as ``Segmenter.from_weights`` and ``Segmenter.begin`` do.
    """
    yield 0.0
    segmenter = load_segmenter(weights, config)
    yield 0.0
    trace = Trace(source.warnings)
    n_done = 0
    with segmenter.begin(source, trace) as work:
        parts: list[LabelArray] = []
        maps = work.maps()
        first = next(maps)  # once it is there, the scale is known
        height, width = scaled_shape((source.height, source.width), trace.scale)
        maps = chain([first], maps)
        if is_stitched(height, width, config.masks):
            for rows in work.labels(maps):
                parts.append(rows)
                n_done += len(rows)
                yield n_done / source.height
        else:
            bands = []
            for band in maps:
                bands.append(band)
                n_done += band.shape[1]
                yield n_done / height
            parts += work.labels(bands)
    labels = np.concatenate(parts)
    return SegmentedPlane(labels, trace.now() - trace.started_s, trace.scale, trace.warnings)
