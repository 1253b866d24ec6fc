"""One large image over the workers of a cluster: maps come from there, labels are made here."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, Protocol

from mediar_infer.arrays import Float32Array
from mediar_infer.cluster.row_ranges import split_rows
from mediar_infer.cluster.worker import ClusterJob, RowMaps, Rows, choose_scale, predict_rows
from mediar_infer.config import MaskConfig
from mediar_infer.devices import CPU, Device, select_device
from mediar_infer.engine.bands import BAND_ROWS, list_window_rows
from mediar_infer.engine.preprocess import Scaling, compute_scaling
from mediar_infer.engine.resampling import scaled_shape
from mediar_infer.errors import UsageError
from mediar_infer.folder.run_image import RunImage
from mediar_infer.image_trace import Trace
from mediar_infer.image_work import ImageWork, check_memory
from mediar_infer.images.sources import ImageSource
from mediar_infer.labels.blocks import Labelling
from mediar_infer.labels.kernels.choice import select_kernels

MAX_RANGE_BYTES: Final = 1 << 29
"""About the most that the maps of one range of rows take; a few ranges are held at once."""
_RANGES_PER_WORKER: Final = 2
"""Ranges that are predicted or wait to be labelled."""
_PIECES: Final = 8
"""A range comes in about so many pieces, each labelled while those below are predicted."""


class Workers(Protocol):
    """What is asked of the cluster; see ``client.py``."""

    def count_workers(self) -> int:
        """Number of workers that the cluster has now."""

    def submit(self, function: Callable[..., Any], *arguments: object, priority: int = 0) -> Any:  # noqa: ANN401
        """Start a task of this job."""

    def result_of(self, name: str, future: Any) -> Any:  # noqa: ANN401
        """Wait for a task and return its result, or raise its error."""

    def cancel(self, futures: Sequence[Any]) -> None:
        """Forget tasks."""


class SpreadSegmenter:
    """Segments one large image whose maps come from the workers of a cluster."""

    def __init__(self, cluster: Workers, job: ClusterJob, image: RunImage) -> None:
        self._cluster, self._job, self._image = cluster, job, image
        self.workers: set[str] = set()
        """Names of the workers that predicted some of its rows."""

    def begin(
        self,
        source: ImageSource,
        trace: Trace,
        *,
        later_stages: Sequence[str] = (),
    ) -> ImageWork:
        """Find the scaling of the image, which every worker needs.

        The stage ``network`` is the time spent waiting for maps.

        Raises:
            ImageReadError: if the image cannot be read, or its labels take more memory than this
                process may still use.
        """
        if not self._job.config.is_rescaled:  # otherwise once a worker has chosen the scale
            check_memory(source, self._job.config, 0, trace.scale)
        with trace.stage("preprocess"):
            scaling = compute_scaling(source)
        trace.warn(*scaling.warnings)
        runtime = self._job.config.runtime
        kernels = select_kernels(_label_device(runtime.device), runtime.threads)
        bands = self._predict(source, scaling, trace)
        assert self._job.provenance is not None, "images are given out once workers have answered"
        # What the weights decide is known to workers only.
        masks = MaskConfig(**self._job.provenance.plan["masks"])
        how = Labelling(masks, kernels, trace)
        return ImageWork(source, bands, how, is_rescaled=self._job.config.is_rescaled)

    def _predict(
        self, source: ImageSource, scaling: Scaling, trace: Trace
    ) -> Generator[Float32Array, None, None]:
        config = self._job.config
        if config.is_rescaled:
            task = self._cluster.submit(choose_scale, self._image, scaling, priority=1)
            with trace.stage("network"):
                self._cluster.result_of(source.name, task).note(trace)
            check_memory(source, config, 0, trace.scale)
        scale = trace.scale
        height, width = scaled_shape((source.height, source.width), scale)
        window_rows = list_window_rows(height, width, config)
        n_workers = max(self._cluster.count_workers(), 1)
        max_rows = max(MAX_RANGE_BYTES // (12 * width), 1)
        ranges = deque(split_rows(window_rows, height, config.roi_size, n_workers, max_rows))
        under_way: deque[deque[Any]] = deque()
        try:
            while ranges or under_way:
                while ranges and self._has_room(under_way):
                    first, bottom = ranges.popleft()
                    inside = [row - first for row in window_rows if first <= row < bottom]
                    pieces = split_rows(inside, bottom - first, config.roi_size, _PIECES, bottom)
                    rows = [Rows(first + top, first + end, bottom) for top, end in pieces]
                    under_way.append(self._start(scaling, scale, rows))
                with trace.stage("network"):
                    result: RowMaps = self._cluster.result_of(source.name, under_way[0].popleft())
                if not under_way[0]:
                    under_way.popleft()
                self.workers.add(result.worker)
                trace.warn(*result.warnings)
                trace.on_progress(result.bottom / height)
                for top in range(0, result.maps.shape[1], BAND_ROWS):
                    yield result.maps[:, top : top + BAND_ROWS]
        finally:
            self._cluster.cancel([future for futures in under_way for future in futures])

    def _start(self, scaling: Scaling, scale: float, pieces: Sequence[Rows]) -> deque[Any]:
        """Start to predict a range; each piece after the one above it, and where that was."""
        futures: deque[Any] = deque()
        for rows in pieces:
            above = futures[-1] if futures else None
            # Before whole images: those need no order, and this one waits for its rows.
            task = predict_rows, self._image, scaling, scale, rows, above
            futures.append(self._cluster.submit(*task, priority=1))
        return futures

    def _has_room(self, under_way: Sequence[Sequence[Any]]) -> bool:
        """Whether a worker has no range to predict, and not too many wait to be labelled."""
        n_workers = max(self._cluster.count_workers(), 1)
        n_predicted = sum(futures[-1].done() for futures in under_way)
        is_idle = len(under_way) - n_predicted < n_workers
        return is_idle and len(under_way) < _RANGES_PER_WORKER * n_workers


def _label_device(name: str) -> Device:
    """The device on which labels are made without a cluster, if this machine has it."""
    try:
        return select_device(name)
    except UsageError:
        return CPU
