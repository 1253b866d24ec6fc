"""One image being segmented: whether it fits in memory, and from its maps to its labels."""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Self

from mediar_infer.arrays import Float32Array, LabelArray
from mediar_infer.config import EngineConfig
from mediar_infer.engine.bands_ahead import BandsAhead
from mediar_infer.engine.pacing import Pacer
from mediar_infer.engine.resampling import scaled_shape
from mediar_infer.errors import ImageReadError
from mediar_infer.images.sources import ImageSource
from mediar_infer.labels.blocks import Labelling, is_stitched, label_bands, pixels_at_once
from mediar_infer.labels.confidence import CellConfidence
from mediar_infer.process import available_memory_bytes

Bands = Generator[Float32Array, None, None] | BandsAhead
"""Bands of merged maps ``(3, rows, W)``; ``close`` ends their computation."""

_ROW_BYTES_PER_PIXEL = 15
"""Of each of ``roi_size`` rows: three float32 sums, and three bytes of input."""
_INPUT_BYTES_PER_PIXEL = 3
_PACED_BYTES_PER_PIXEL = 16
"""With a time budget, of each of these rows and of every pass: four float32 sums."""
_LABEL_BYTES_PER_PIXEL = 24
"""Of rows that are labelled at once: maps, hits, basins and labels. The real need is more."""
_RESULT_BYTES_PER_PIXEL = 32
"""Of a result in memory: maps in bands and as one, and the labels likewise."""


class ImageWork:
    """One image being segmented: scaling → bands of maps → labels.

    Made by ``begin`` of a segmenter and used as a context manager. Leaving it ends what is under
    way; after success, a time budget has learned from the image.

    Args:
        source: the image, open for as long as the work lasts.
        bands: its merged maps ``(3, rows, W)`` from top to bottom, computed as they are taken.
        how: how it is labelled. The trace in it gains the stage ``labels`` and, at the end, the
            budget and the counts of the flow check.
        pacer: keeps the image inside its time tolerance, if there is a budget.
        is_rescaled: the networks may see the image at another size.
    """

    def __init__(
        self,
        source: ImageSource,
        bands: Bands,
        how: Labelling,
        pacer: Pacer | None = None,
        *,
        is_rescaled: bool = False,
    ) -> None:
        self._source, self._bands, self._how = source, bands, how
        self._pacer, self._is_rescaled = pacer, is_rescaled

    def maps(self) -> Iterator[Float32Array]:
        """Predict the image; to be called once.

        Yields:
            ``(3, rows, W)`` float32 from top to bottom: flow y, flow x, cell-probability logit, of
            the image as the networks see it.

        Raises:
            ImageReadError: if the file is damaged.
            PredictionError: if the network's output is not finite.
        """
        return iter(self._bands)

    def labels(
        self,
        maps: Iterable[Float32Array] | None = None,
        *,
        confidence: CellConfidence | None = None,
    ) -> Iterator[LabelArray]:
        """Label the image; the network runs as the labels are taken.

        Args:
            maps: what ``maps`` has yielded, for callers that need both.
            confidence: gains the confidence of every cell as its rows are yielded; without one,
                nothing is computed for it.

        Yields:
            ``(rows, W)`` int32 labels from top to bottom, ids unique in the whole image.

        Raises:
            ImageReadError: if the file is damaged.
            PredictionError: if the network's output is not finite.
        """
        shape = self._source.height, self._source.width
        bands = self.maps() if maps is None else maps
        how = replace(self._how, confidence=confidence)
        if self._is_rescaled:
            from mediar_infer.scales.labelling import label_rescaled

            return label_rescaled(bands, shape, how)
        return label_bands(bands, shape, how)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is None:
            self._finish()
        self.close()

    def _finish(self) -> None:
        if self._pacer is not None:
            self._pacer.finish()
        trace, flow_check = self._how.trace, self._how.flow_check
        trace.flow_check = flow_check.to_dict()
        if flow_check.warning is not None:
            trace.warn(flow_check.warning)

    def close(self) -> None:
        """End what is under way, and leave what a budget decided in the trace."""
        self._bands.close()
        if self._pacer is not None:
            self._how.trace.budget = self._pacer.report()


def check_memory(
    source: ImageSource,
    config: EngineConfig,
    n_members: int,
    scale: float,
    *,
    makes_labels: bool = True,
) -> None:
    """Refuse an image that cannot fit, before a system that is out of memory ends the process.

    Args:
        source: the image.
        config: settings.
        n_members: models that predict it in this process; 0 if others predict it.
        scale: size at which they see it.
        makes_labels: whether this process labels it, too.

    Raises:
        ImageReadError: if it takes more memory than this process may still use.
    """
    height, width = scaled_shape((source.height, source.width), scale)
    per_pixel = _ROW_BYTES_PER_PIXEL if n_members else 0
    if config.fit_budget is not None:
        n_passes = n_members * len(config.plan.flips)
        per_pixel = _INPUT_BYTES_PER_PIXEL + _PACED_BYTES_PER_PIXEL * n_passes
    n_bytes = per_pixel * config.roi_size * width
    if makes_labels and not is_stitched(height, width, config.masks):
        n_bytes += _LABEL_BYTES_PER_PIXEL * pixels_at_once(height, width, config.masks)
    _check_available(source, n_bytes, "or use --blocks stitched, which holds a band of rows only")


def check_result_memory(source: ImageSource) -> None:
    """Refuse an image of which maps and labels cannot be held as a whole.

    Args:
        source: the image.

    Raises:
        ImageReadError: if they take more memory than this process may still use.
    """
    n_bytes = _RESULT_BYTES_PER_PIXEL * source.height * source.width
    _check_available(source, n_bytes, "or use predict, which holds a band of rows only")


def _check_available(source: ImageSource, n_bytes: int, remedy: str) -> None:
    available_bytes = available_memory_bytes()
    if available_bytes is not None and n_bytes > available_bytes:
        raise ImageReadError(
            f"{source.name}: found {source.height:,} × {source.width:,} pixels that take at least"
            f" {n_bytes / 2**20:,.0f} MiB to segment, expected at most"
            f" {available_bytes / 2**20:,.0f} MiB, the memory that is left to this process; give it"
            f" more memory, {remedy}"
        )
