"""What the workers of a Dask cluster do: tasks, and the job description that all of them share.

A task leaves only its result and complete files behind, so a task whose worker dies can run again
elsewhere.
"""

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mediar_infer import __version__
from mediar_infer.arrays import Float32Array
from mediar_infer.config import EngineConfig
from mediar_infer.engine.preprocess import Scaling
from mediar_infer.engine.resampling import scaled_length
from mediar_infer.engine.scaled import predict_scaled_bands
from mediar_infer.errors import ClusterError, ExportError, UsageError
from mediar_infer.folder.image_runner import ImageRunner
from mediar_infer.folder.image_task import ImageTask, open_input
from mediar_infer.folder.options import RunOptions
from mediar_infer.folder.provenance import Provenance
from mediar_infer.folder.results import ImageResult
from mediar_infer.folder.run_image import RunImage
from mediar_infer.image_trace import Trace
from mediar_infer.image_work import check_memory
from mediar_infer.images.sources import ImageSource
from mediar_infer.network.int8_ranges import require_ranges
from mediar_infer.network.weight_files import (
    ListedWeights,
    compute_digest,
    find_weights,
    read_weights_manifest,
)
from mediar_infer.scales.choice import ScaleChoice, known_scale
from mediar_infer.segmenter import Segmenter

_AT_WORK = threading.Lock()
"""One task at a time in a process: each uses all of the worker's threads, or its GPU."""


@dataclass(frozen=True, slots=True)
class ClusterJob:
    """What a worker must know to do any part of a run."""

    weights: tuple[Path, ...]
    """As given, absolute: a folder, one or two files, or nothing for the worker's default."""
    config: EngineConfig
    """Settings; without a number of threads each worker uses its own number."""
    options: RunOptions
    """Folders and switches; paths are absolute, and the same on all workers."""
    mark: Path
    """A file that exists while the run lasts; it shows that workers see the same output folder."""
    spread_from: int
    """Images of this many pixels or more are spread over the workers."""
    version: str
    """Version of this package on the client."""
    provenance: Provenance | None = None
    """What all workers must agree on; None until the first has loaded the weights."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A piece of a range of rows, of the image as the networks see it."""

    top: int
    """Its first row."""
    bottom: int
    """Row after its last one."""
    range_bottom: int
    """Row after the last one of the range, down to which the worker is to go on."""


@dataclass(frozen=True, slots=True)
class RowMaps:
    """Merged maps of a piece of a range of rows, from a worker."""

    maps: Float32Array
    """``(3, rows, W)``, as :func:`mediar_infer.engine.bands.predict_bands` yields them."""
    bottom: int
    """Row after the last one, of the image as the networks see it."""
    worker: str
    """Its name."""
    warnings: Sequence[str]
    """Warnings of the network."""


def import_distributed() -> Any:  # noqa: ANN401 (a module of an optional package)
    """Import Dask's part for clusters.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        import distributed
    except ImportError as error:
        raise UsageError(
            f"found no package {error.name}, expected Dask for --dask; install it here and on the"
            " workers: python -m pip install 'mediar-infer[dask]', or dask and distributed"
        ) from error
    return distributed


def find_problem(job: ClusterJob) -> str | None:
    """Say why this worker cannot do the job; None if it can."""
    if __version__ != job.version:
        return (
            f"found mediar_infer {__version__}, expected {job.version} as on the client; install"
            " the same version everywhere"
        )
    shared = "expected the folder of the client, under the same path on all workers; mount it there"
    for path in job.options.selection.list_paths():
        if not path.exists():
            return f"found no {path}, {shared}"
    if not job.mark.exists():
        return f"found another or no {job.options.output_dir}, {shared}"
    try:
        job.options.check_packages()
    except ExportError as error:
        return str(error)
    return None


def _own_worker() -> Any:  # noqa: ANN401
    return import_distributed().get_worker()


def _digests_of(job: ClusterJob) -> tuple[str, ...]:
    """SHA-256 of the weights that this worker would use, and of their ranges for int8."""
    paths = find_weights(job.weights)[: job.config.plan.max_members]
    if job.config.runtime.precision == "int8":
        paths = [*paths, *map(require_ranges, paths)]
    return tuple(compute_digest(path) for path in paths)


@lru_cache(maxsize=1)
def _read_listed(
    _mark: Path, weights: tuple[Path, ...], n_models: int
) -> tuple[ListedWeights | None, ...]:
    """What manifests say of the weights that this worker would use, read once per run."""
    paths = find_weights(weights)[:n_models]
    return tuple(read_weights_manifest(path.parent).get(path.name) for path in paths)


@lru_cache(maxsize=1)
def _load_segmenter(
    weights: tuple[Path, ...],
    digests: tuple[str, ...],
    _listed: tuple[ListedWeights | None, ...],
    config: EngineConfig,
) -> Segmenter:
    """Load the weights, once per process for any number of tasks.

    They are loaded again if a manifest says something else of them than in an earlier run.
    """
    # Errors about a file are in its record.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    segmenter = Segmenter.from_weights(weights, config)
    loaded = tuple(segmenter.digests.values())
    if loaded != digests:
        raise ClusterError(
            f"found weights {', '.join(d[:16] for d in loaded)}, expected those of the other"
            f" workers ({', '.join(d[:16] for d in digests)}); put the same files everywhere"
        )
    return segmenter


def _prepare(job: ClusterJob) -> Segmenter:
    """Load the models of this worker, which must give the same labels as all others.

    Raises:
        ClusterError: if this worker, perhaps a late one, cannot do the job.
    """
    name, config = _own_worker().name, job.config
    problem = find_problem(job)
    if problem:
        raise ClusterError(f"worker {name}: {problem}")
    if not config.runtime.threads:
        threads = _own_worker().state.nthreads
        config = replace(config, runtime=replace(config.runtime, threads=threads))
    digests = _digests_of(job) if job.provenance is None else tuple(job.provenance.digests.values())
    listed = _read_listed(job.mark, job.weights, config.plan.max_members)
    segmenter = _load_segmenter(job.weights, digests, listed, config)
    plan = Provenance.of(segmenter, job.options).plan
    if job.provenance is not None and plan != job.provenance.plan:
        different = [key for key in plan if plan[key] != job.provenance.plan.get(key)]
        raise ClusterError(
            f"worker {name}: found {', '.join(f'{key} {plan[key]}' for key in different)}, expected"
            f" {', '.join(f'{key} {job.provenance.plan.get(key)}' for key in different)} as on"
            " the other workers, as labels must not depend on the worker; use workers of one kind,"
            " or set --device, --backend and --precision"
        )
    return segmenter


def describe(job: ClusterJob) -> Provenance:
    """Task: load the weights and describe them."""
    with _AT_WORK:
        return Provenance.of(_prepare(job), job.options)


def segment_image(job: ClusterJob, image: RunImage) -> ImageResult | None:
    """Task: segment an image and write its labels and exports.

    Returns:
        The image's result; None if it is so large that its rows are to be spread over the workers.

    Raises:
        ClusterError: if this worker cannot do the job.
        ImageReadError: if the image cannot be opened.
    """
    with _AT_WORK, closing(ImageTask(image, job.options)) as task:
        segmenter, started_s = _prepare(job), time.perf_counter()
        source = task.open()
        if source.height * source.width >= job.spread_from:
            return None
        provenance = Provenance.of(segmenter, job.options)
        result = ImageRunner(segmenter, provenance, job.options, started_s).run(task)
    return replace(result, entry=replace(result.entry, worker=str(_own_worker().name)))


def choose_scale(job: ClusterJob, image: RunImage, scaling: Scaling) -> ScaleChoice:
    """Task: choose the size at which the networks see a large image."""
    with _AT_WORK:
        segmenter = _prepare(job)
        config, diameter = segmenter.config, segmenter.cell_diameter
        with open_input(image, job.options) as source:
            choice = known_scale(source, config, diameter)
            if choice is not None:
                return choice
            from mediar_infer.scales.trials import find_scale

            return find_scale(source, scaling, segmenter.members[0], config, Trace(), diameter)


class _RangeInProgress:
    """A range of rows that this worker has begun, so that no window is predicted twice."""

    def __init__(
        self,
        key: tuple[object, ...],
        segmenter: Segmenter,
        source: ImageSource,
        scaling: Scaling,
        scale: float,
        rows: tuple[int, int],
    ) -> None:
        self.key, self.next_row, self._bottom = key, *rows
        self._trace = Trace()
        self._width = scaled_length(source.width, scale)
        self._bands = predict_scaled_bands(
            source, scaling, scale, segmenter.members, segmenter.config, self._trace, rows=rows
        )
        self._rest = np.empty((3, 0, self._width), np.float32)
        self._open = ExitStack()
        self._open.enter_context(closing(source))
        self._open.enter_context(closing(self._bands))

    def take(self, bottom: int, worker: str) -> RowMaps:
        """Predict the next rows."""
        maps = np.empty((3, bottom - self.next_row, self._width), np.float32)
        first = 0
        while first < maps.shape[1]:
            if not self._rest.shape[1]:
                self._rest = next(self._bands)
            part = self._rest[:, : maps.shape[1] - first]
            maps[:, first : first + part.shape[1]] = part
            self._rest = self._rest[:, part.shape[1] :]
            first += part.shape[1]
        self.next_row = bottom
        return RowMaps(maps, bottom, worker, self._trace.warnings)

    def close(self) -> None:
        """Give back what the range holds."""
        self._open.close()


_in_progress: list[_RangeInProgress] = []
"""At most one, the latest; only used by the task at work."""


def predict_rows(
    job: ClusterJob,
    image: RunImage,
    scaling: Scaling,
    scale: float,
    rows: Rows,
    _above: RowMaps | None,
) -> RowMaps:
    """Task: predict the merged maps of a piece of a large image, seen at a scale.

    Where this worker has predicted the piece above, it goes on; elsewhere the windows that reach
    into both pieces are predicted again. The maps are the same.

    Args:
        job: what all tasks share.
        image: the image.
        scaling: its normalisation constants.
        scale: size at which it is shown.
        rows: the piece.
        _above: the piece above it in the range. It is not used, but with it the scheduler waits for
            that piece, and prefers the worker that has it.

    Raises:
        ClusterError: if this worker cannot do the job.
        ImageReadError: if the image cannot be read, or its rows take more memory than this worker
            may still use.
    """
    with _AT_WORK:
        segmenter, key = _prepare(job), (job.mark, image, scale, rows.range_bottom)
        found = [each for each in _in_progress if (each.key, each.next_row) == (key, rows.top)]
        if not found:
            _drop_range()
            with ExitStack() as opened:
                source = opened.enter_context(closing(open_input(image, job.options)))
                n_members, ends = len(segmenter.members), (rows.top, rows.range_bottom)
                check_memory(source, segmenter.config, n_members, scale, makes_labels=False)
                found = [_RangeInProgress(key, segmenter, source, scaling, scale, ends)]
                opened.pop_all()
        _in_progress[:] = found
        try:
            maps = found[0].take(rows.bottom, str(_own_worker().name))
        except BaseException:
            _drop_range()
            raise
        if rows.bottom == rows.range_bottom:
            _drop_range()
        return maps


def _drop_range() -> None:
    while _in_progress:
        _in_progress.pop().close()
