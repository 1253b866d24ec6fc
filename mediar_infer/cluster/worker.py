"""What the workers of a Dask cluster do: tasks, and what a worker must be told and agree on.

A task leaves nothing behind but its result and whole files, so that one whose worker dies can be
run again elsewhere.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mediar_infer import __version__
from mediar_infer.arrays import Float32Array
from mediar_infer.config import EngineConfig
from mediar_infer.engine.bands import predict_bands
from mediar_infer.engine.preprocess import Scaling
from mediar_infer.errors import ClusterError, UsageError
from mediar_infer.folder.image_runner import ImageRunner, TooLargeHere
from mediar_infer.folder.ledger import ImageRecord
from mediar_infer.folder.options import RunOptions
from mediar_infer.folder.provenance import EngineFacts
from mediar_infer.images.open import open_image
from mediar_infer.network.weight_files import compute_digest, find_weights
from mediar_infer.segmenter import Segmenter
from mediar_infer.stopwatch import Stopwatch

_AT_WORK = threading.Lock()
"""One task at a time in a process: each takes all of the worker's threads, or its GPU."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker must know to do any part of a run."""

    weights: tuple[Path, ...]
    """As given: a folder, one or two files, or nothing for the worker's default; absolute."""
    config: EngineConfig
    """Settings; without a number of threads each worker takes its own."""
    options: RunOptions
    """Folders and switches; paths are absolute, and the same on all workers."""
    mark: Path
    """A file that is there while the run lasts, by which workers know the output folder."""
    spread_from: int
    """Images of this many pixels or more are spread over the workers."""
    version: str
    """That of this package on the client."""
    facts: EngineFacts | None = None
    """What all workers must agree on; unknown until the first has loaded the weights."""


@dataclass(frozen=True, slots=True)
class RowMaps:
    """Merged maps of a range of rows, from a worker."""

    maps: Float32Array
    """``(3, rows, W)``, as in :class:`mediar_infer.engine.bands.MapBand`."""
    worker: str
    """Its name."""
    warnings: Sequence[str]
    """About reading the image."""


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


def find_problem(job: Job) -> str | None:
    """Say why this worker cannot do the job, if so."""
    if __version__ != job.version:
        return (
            f"found mediar_infer {__version__}, expected {job.version} as on the client; install"
            " the same version everywhere"
        )
    shared = "expected the folder of the client, under the same path on all workers; mount it there"
    if not job.options.input_path.exists():
        return f"found no {job.options.input_path}, {shared}"
    if not job.mark.exists():
        return f"found another or no {job.options.output_dir}, {shared}"
    return None


def _ignore_progress(path: Path, fraction: float) -> None:
    """Nobody looks on at a worker."""


def _own_worker() -> Any:  # noqa: ANN401
    return import_distributed().get_worker()


def _digests_of(job: Job) -> tuple[str, ...]:
    """SHA-256 of the weights that this worker would use."""
    paths = find_weights(job.weights)[: job.config.plan.max_members]
    return tuple(compute_digest(path) for path in paths)


@lru_cache(maxsize=1)
def _load_segmenter(
    weights: tuple[Path, ...], digests: tuple[str, ...], config: EngineConfig
) -> Segmenter:
    """Load the weights, once per process for any number of tasks."""
    # Errors about a file are in its record.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    segmenter = Segmenter.from_weights(weights, config)
    found = tuple(segmenter.digests.values())
    if found != digests:
        raise ClusterError(
            f"found weights {', '.join(d[:16] for d in found)}, expected those of the other workers"
            f" ({', '.join(d[:16] for d in digests)}); put the same files everywhere"
        )
    return segmenter


def _prepare(job: Job) -> Segmenter:
    """The models of this worker, which must do what the others do.

    Raises:
        ClusterError: if this worker, perhaps one that came late, cannot do the job.
    """
    name, config = _own_worker().name, job.config
    problem = find_problem(job)
    if problem:
        raise ClusterError(f"worker {name}: {problem}")
    if not config.runtime.threads:
        threads = _own_worker().state.nthreads
        config = replace(config, runtime=replace(config.runtime, threads=threads))
    digests = _digests_of(job) if job.facts is None else tuple(job.facts.digests.values())
    segmenter = _load_segmenter(job.weights, digests, config)
    plan = EngineFacts.of(segmenter).plan
    if job.facts is not None and plan != job.facts.plan:
        different = [key for key in plan if plan[key] != job.facts.plan.get(key)]
        raise ClusterError(
            f"worker {name}: found {', '.join(f'{key} {plan[key]}' for key in different)}, expected"
            f" {', '.join(f'{key} {job.facts.plan.get(key)}' for key in different)} as on the other"
            " workers, so that labels do not depend on who makes them; use workers of one kind, or"
            " set --device, --backend and --precision"
        )
    return segmenter


def describe(job: Job) -> EngineFacts:
    """Task: load the weights and say what they are."""
    with _AT_WORK:
        return EngineFacts.of(_prepare(job))


def segment_image(job: Job, path: Path) -> ImageRecord | None:
    """Task: segment an image and write its labels; none if it is too large for one worker."""
    with _AT_WORK:
        segmenter = _prepare(job)
        runner = ImageRunner(
            segmenter, EngineFacts.of(segmenter), job.options, time.perf_counter(), job.spread_from
        )
        try:
            record = runner.run(path, _ignore_progress)
        except TooLargeHere:
            return None
    return replace(record, worker=str(_own_worker().name))


def predict_rows(job: Job, path: Path, scaling: Scaling, rows: tuple[int, int]) -> RowMaps:
    """Task: predict the merged maps of a range of rows of a large image."""
    options = job.options
    with _AT_WORK:
        segmenter = _prepare(job)
        with open_image(
            path,
            plane=options.plane,
            max_pixels=options.max_pixels,
            apply_orientation=options.apply_orientation,
        ) as source:
            bands = predict_bands(
                source, scaling, segmenter.members, segmenter.config, Stopwatch(), rows
            )
            maps = np.empty((3, rows[1] - rows[0], source.width), dtype=np.float32)
            for band in bands:
                first = band.top - rows[0]
                maps[:, first : first + band.maps.shape[1]] = band.maps
            return RowMaps(maps, str(_own_worker().name), tuple(source.warnings))
