"""A folder over the workers of a Dask cluster: whole images, and the rows of large ones.

An image below ``spread_from`` pixels is one task: the worker reads, segments and writes it as a
run on one machine does (``folder.image_runner``). A larger one is divided into ranges of rows, and
each task predicts the maps of a piece of a range (``spread.py``); they come back in order, and are
labelled and written here while the pieces below are predicted. Every row is summed over the same
windows in the same order as on one machine (``engine.bands``), and the same stage makes the labels,
so the label files are identical to the byte.

A task leaves only its result and complete files behind. Dask can therefore run a task again
elsewhere when its worker dies, and only the client writes the ledger.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from concurrent.futures import Future as SharedFuture
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from mediar_infer import __version__
from mediar_infer.cluster.connection import check_workers, connected
from mediar_infer.cluster.spread import SpreadSegmenter
from mediar_infer.cluster.worker import (
    ClusterJob,
    describe,
    import_distributed,
    segment_image,
)
from mediar_infer.config import LARGE_IMAGE_PIXELS, EngineConfig
from mediar_infer.errors import ClusterError, MediarError, UsageError
from mediar_infer.folder.failures import fail_image
from mediar_infer.folder.image_runner import (
    ImageRunner,
    Progress,
    describe_unexpected,
)
from mediar_infer.folder.image_task import ImageTask
from mediar_infer.folder.inputs import RunInputs
from mediar_infer.folder.ledger import LedgerEntry
from mediar_infer.folder.options import RunOptions
from mediar_infer.folder.provenance import Provenance
from mediar_infer.folder.results import ImageResult, Made
from mediar_infer.folder.run_image import RunImage
from mediar_infer.folder.runner import FolderRun
from mediar_infer.output_files import marking

logger = logging.getLogger(__name__)

_POLL_S: Final = 1.0
_NO_WORKERS_S: Final = 60.0


def run_on_cluster(
    scheduler: str,
    weights: Sequence[Path],
    config: EngineConfig,
    options: RunOptions,
    *,
    found: RunInputs | None = None,
    spread_from: int = LARGE_IMAGE_PIXELS,
) -> list[LedgerEntry]:
    """Segment every image of a folder on the workers of a Dask cluster; the ledger is kept here.

    Args:
        scheduler: address of a running scheduler, or ``local:N`` for N processes on this machine.
        weights: a folder, or one or two files; without any, each worker's default folder.
        config: settings; no time budget.
        options: folders and switches.
        found: the images, if they have been looked for already.
        spread_from: images of this many pixels or more are spread over the workers.

    Returns:
        One entry per file of the folder.

    Raises:
        UsageError: if Dask is not installed, the scheduler cannot be reached, there is a budget, or
            the folders do not fit together.
        ClusterError: if a worker cannot do the job, or the cluster is lost.
        CheckpointError: if weights are missing or damaged on a worker.
        OutputError: if the ledger cannot be written.
    """
    if config.fit_budget is not None:
        raise UsageError(
            f"found --fit-budget and --dask {scheduler}, expected one of them; a time budget"
            " applies to one machine: drop --dask, or choose a cheaper --plan"
        )
    options = replace(
        options,
        selection=options.selection.absolute(),
        output_dir=options.output_dir.absolute(),
    )
    run: FolderRun | None = None
    paths = tuple(Path(path).absolute() for path in weights)
    try:
        with (
            connected(scheduler, config) as (client, threads),
            marking(options.output_dir) as mark,
        ):
            config = replace(config, runtime=replace(config.runtime, threads=threads))
            job = ClusterJob(paths, config, options, mark, spread_from, __version__)
            check_workers(client, job)
            cluster = _Cluster(client, job)
            with FolderRun(cluster.provenance, options, found) as run:
                run.add_known()
                with closing(cluster.run_all(run.to_do, run.show_progress)) as results:
                    for result in results:
                        run.add(result)
                return run.finish()
    finally:
        # Left by workers that died or were stopped with the run; files being written are locked.
        if run is not None:
            run.remove_leftovers()


def _lost_scheduler() -> ClusterError:
    return ClusterError(
        "lost the Dask scheduler, expected it to run to the end; finished images are in the output"
        " folder: start it again and add --resume"
    )


class _Stopped(BaseException):
    """The run ends early, through no fault of the image in progress: its earlier results stay."""


class _Cluster:
    """Segments the images of a folder on the workers of a cluster."""

    def __init__(self, client: Any, job: ClusterJob) -> None:  # noqa: ANN401
        self._client, self._job = client, job
        self._stopped = threading.Event()
        self._n_workers = self.count_workers()
        self._last_seen = time.monotonic()
        self._warming = self._warm_up()
        self.provenance = self._ask_provenance()
        self._job = replace(job, provenance=self.provenance)

    def _warm_up(self) -> list[Any]:
        """Let all workers load the weights at once, not each for its first image.

        Nothing waits for these tasks. What goes wrong in one goes wrong again in the worker's first
        task for an image, which says so.
        """
        return [
            self._client.submit(describe, self._job, pure=False, workers=[address], priority=1)
            for address in self._list_workers()
        ]

    def _ask_provenance(self) -> Provenance:
        """Let any worker load the weights and describe them."""
        future = self.submit(describe)
        while not future.done():
            self._watch_workers()
            time.sleep(_POLL_S / 10)
        provenance: Provenance = self.result_of("weights", future)
        logger.info("%d worker(s), the first on %s", self._n_workers, provenance.device)
        return provenance

    def count_workers(self) -> int:
        """Number of workers that the cluster has now."""
        return len(self._list_workers())

    def _list_workers(self) -> list[str]:
        """Addresses of the workers that the cluster has now."""
        try:
            return list(self._client.nthreads())
        except (OSError, TimeoutError, CancelledError) as error:
            raise _lost_scheduler() from error

    def run_all(
        self, images: Sequence[RunImage], progress: Progress
    ) -> Generator[ImageResult, None, None]:
        """Segment files in any order; one result each, as they finish."""
        finished: queue.SimpleQueue[tuple[RunImage, Any]] = queue.SimpleQueue()

        def note(image: RunImage, future: Any) -> None:  # noqa: ANN401
            finished.put((image, future))

        futures = {}
        # Large images one after the other: each of them keeps all workers at work.
        large = ThreadPoolExecutor(1, thread_name_prefix="large-images")
        try:
            for image in images:
                futures[image] = self.submit(segment_image, image)
                futures[image].add_done_callback(partial(note, image))
            n_left = len(images)
            while n_left:
                try:
                    image, future = finished.get(timeout=_POLL_S)
                except queue.Empty:
                    self._watch_workers()
                    continue
                futures.pop(image, None)
                if isinstance(future, SharedFuture):
                    result = future.result()
                else:
                    result = self._image_result_of(image, future)
                if result is None:
                    spread = large.submit(self._spread, image, progress)
                    spread.add_done_callback(partial(note, image))
                else:
                    n_left -= 1
                    yield result
        finally:
            self._stopped.set()
            self._client.cancel([*futures.values(), *self._warming])
            large.shutdown(wait=True, cancel_futures=True)

    def submit(
        self,
        function: Callable[..., Any],
        *arguments: object,
        priority: int = 0,
    ) -> Any:  # noqa: ANN401
        """Start a task of this job."""
        return self._client.submit(function, self._job, *arguments, pure=False, priority=priority)

    def cancel(self, futures: Sequence[Any]) -> None:
        """Forget tasks; a task in progress is finished by its worker and its result dropped."""
        self._client.cancel(list(futures))

    def result_of(self, name: str, future: Any) -> Any:  # noqa: ANN401
        """Wait for a task of the image of that name and return its result, or raise its error.

        Raises:
            ClusterError: if every worker that ran it died, or the cluster is lost.
        """
        failure, result = self._wait_for(name, future)
        if failure is not None:
            raise failure
        return result

    def _wait_for(self, name: str, future: Any) -> tuple[Exception | None, Any]:  # noqa: ANN401
        """Wait for a task; its error, if it has one, and its result."""
        is_done = threading.Event()
        future.add_done_callback(lambda _: is_done.set())
        while not is_done.wait(_POLL_S):
            if self._stopped.is_set():
                raise _Stopped
        try:
            failure: Exception | None = future.exception()
            if failure is None:
                return None, future.result()
        except CancelledError as error:
            if self._stopped.is_set():
                raise _Stopped from error
            raise _lost_scheduler() from error
        if isinstance(failure, import_distributed().KilledWorker):
            failure = ClusterError(
                f"{name}: every worker that ran it died, expected one to finish; look for the"
                " reason in their logs; if it is memory, use fewer workers per machine or a smaller"
                " --batch"
            )
        return failure, None

    def _image_result_of(self, image: RunImage, future: Any) -> ImageResult | None:  # noqa: ANN401
        """Result of a finished task; None if the image is to be spread over the workers."""
        failure, result = self._wait_for(image.name, future)
        if failure is not None:
            is_known = isinstance(failure, MediarError)
            error = str(failure) if is_known else describe_unexpected(image, failure)
            entry = fail_image(image, error, self.provenance, self._job.options)
            return ImageResult(image, entry, Made())
        image_result: ImageResult | None = result
        return image_result

    def _spread(self, image: RunImage, progress: Progress) -> ImageResult:
        """Segment a large image whose maps come from the workers."""
        segmenter = SpreadSegmenter(self, self._job, image)
        options, started_s = self._job.options, time.perf_counter()
        runner = ImageRunner(segmenter, self.provenance, options, started_s)
        with closing(ImageTask(image, options)) as task:
            task.trace.on_progress = partial(progress, image)
            result = runner.run(task)
        worker = ", ".join(sorted(segmenter.workers)) or None
        return replace(result, entry=replace(result.entry, worker=worker))

    def _watch_workers(self) -> None:
        """Warn about workers that are gone; give up when there have been none for a while."""
        n_workers = self.count_workers()
        if n_workers < self._n_workers:
            logger.warning(
                "%d of %d workers are gone; their tasks are run again by others",
                self._n_workers - n_workers,
                self._n_workers,
            )
        self._n_workers = n_workers
        if n_workers:
            self._last_seen = time.monotonic()
        elif time.monotonic() - self._last_seen > _NO_WORKERS_S:
            raise ClusterError(
                f"found no worker for {_NO_WORKERS_S:.0f} s, expected one or more; finished images"
                " are in the output folder: start workers and add --resume"
            )
