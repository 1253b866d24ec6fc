"""Images segmented one after the other, each with an entry that says what became of it."""

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, Never

from mediar_infer.devices import free_gpu_memory
from mediar_infer.errors import MediarError
from mediar_infer.folder.after_labels import make_results
from mediar_infer.folder.at_work import AtWork
from mediar_infer.folder.failures import describe_run, fail_image, failed_entry, remove_results
from mediar_infer.folder.image_task import ImageSegmenter, ImageTask, begin_in_order
from mediar_infer.folder.ledger import LedgerEntry, timestamp
from mediar_infer.folder.options import RunOptions
from mediar_infer.folder.provenance import Provenance, describe_labels
from mediar_infer.folder.results import ImageResult, Made
from mediar_infer.folder.run_image import RunImage
from mediar_infer.labels.confidence import CellConfidence
from mediar_infer.labels.files import write_labels

logger = logging.getLogger(__name__)

Progress = Callable[[RunImage, float], None]
"""Takes note that a fraction in [0, 1] of an image is done."""


def is_out_of_memory(failure: Exception) -> bool:
    """Whether an error says that memory of the host or of a device is full."""
    # torch has a class of its own for devices, but none for the host.
    is_of_device = type(failure).__name__ == "OutOfMemoryError"
    return (
        isinstance(failure, MemoryError)
        or is_of_device
        or (isinstance(failure, RuntimeError) and "allocate memory" in _first_line(failure))
    )


def describe_unexpected(image: RunImage, failure: Exception) -> str:
    """Say what an error that no one foresaw means for an image."""
    if is_out_of_memory(failure):
        return (
            f"{image.name}: out of memory ({_first_line(failure) or 'host'}); expected room for one"
            " window and the rows around it; use a smaller --batch, --device cpu, or a machine"
            " with more memory"
        )
    return (
        f"{image.name}: unexpected {type(failure).__name__}: {_first_line(failure)}; the remaining"
        " images were processed; run with --verbose and report this"
    )


def _first_line(failure: Exception) -> str:
    return str(failure).partition("\n")[0]


def complete_image(entry: LedgerEntry, image: RunImage, options: RunOptions) -> ImageResult:
    """Make what is asked for besides labels of an image whose labels an earlier run has made.

    Args:
        entry: of the resumed image.
        image: the image.
        options: what is asked for; files that are there are kept.

    Returns:
        Its result; the entry has failed if something cannot be made.
    """
    started_s = time.perf_counter()
    with closing(ImageTask(image, options)) as task:
        try:
            made = make_results(task, options, is_resumed=True)
        except Exception as failure:  # noqa: BLE001 (logged where it is described)
            error = image.explain(_describe_failure(image, failure, has_labels=True))
            made = Made()
            entry = replace(entry, status="failed", error=error, n_cells=None, output=None)
        trace = task.trace
        if stages_s := trace.stages_s:
            wall_s = time.perf_counter() - started_s
            warnings = tuple(dict.fromkeys([*entry.warnings, *trace.warnings]))
            entry = replace(entry, wall_s=wall_s, stages_s=stages_s, warnings=warnings)
    return ImageResult(image, entry, made)


def _describe_failure(image: RunImage, failure: Exception, *, has_labels: bool) -> str:
    """Say what is wrong with an image, and whether its labels are complete all the same."""
    if isinstance(failure, MediarError):
        error = str(failure)
    else:
        logger.debug("%s", image.name, exc_info=failure)
        if is_out_of_memory(failure):
            free_gpu_memory()
        error = describe_unexpected(image, failure)
    if has_labels:
        error += f"; the labels of {image.name} are complete, --resume makes the rest"
    return error


def _check_at_end(task: ImageTask) -> Iterator[Never]:
    """No labels, but the last thing that a label file asks for before it takes its place."""
    # A check after that could be lost: a killed run would leave labels that name another image.
    task.check_unchanged()
    yield from ()


class ImageRunner:
    """Segments image files, writes their results, and says what became of each.

    Args:
        segmenter: makes the labels.
        provenance: its models and settings, for label files and ledger.
        options: folders and switches.
        started_s: when the wall time of the first image began, by ``time.perf_counter``.
    """

    def __init__(
        self,
        segmenter: ImageSegmenter,
        provenance: Provenance,
        options: RunOptions,
        started_s: float,
    ) -> None:
        self._segmenter, self._provenance, self._options = segmenter, provenance, options
        self._next_start_s = started_s

    def run_all(
        self, images: Sequence[RunImage], progress: Progress, at_work: AtWork
    ) -> Generator[ImageResult, None, None]:
        """Segment files one after the other; the next one is read meanwhile.

        Args:
            images: image files.
            progress: called as an image advances.
            at_work: notes the images that are at work.

        Yields:
            One result per file, in order.
        """
        with closing(begin_in_order(images, self._segmenter, self._options, at_work)) as tasks:
            for task in tasks:
                task.trace.on_progress = partial(progress, task.image)
                yield self.run(task)

    def run(self, task: ImageTask) -> ImageResult:
        """Segment one file and write its results; every error goes into its entry."""
        image, trace, options = task.image, task.trace, self._options
        trace.started_s = self._next_start_s
        trace.on_progress(0.0)
        started_at, error, n_cells, made = timestamp(), None, None, Made()
        # Measured for the table only: it costs time even where the flow check is off.
        confidence = CellConfidence() if options.exports.table else None
        try:
            with task.begin(self._segmenter) as work:
                source = task.open()
                # Results of an earlier run show other labels. They go first: if they were next to
                # the new labels when this run is stopped, --resume would accept all as one result.
                remove_results(image, options)
                labels = chain(work.labels(confidence=confidence), _check_at_end(task))
                with trace.stage("write"):
                    n_cells = write_labels(
                        options.label_path(image), labels,
                        height=source.height, width=source.width, geometry=source.geometry,
                        facts=describe_labels(image, self._provenance, task.state),
                    )  # fmt: skip
                made = make_results(task, options, confidence=confidence)
        except Exception as failure:  # noqa: BLE001 (logged where it is described)
            # The border of one image: whatever is wrong with it, the others are processed.
            error = _describe_failure(image, failure, has_labels=n_cells is not None)
        if error is None:
            entry = LedgerEntry(
                file=image.name, status="done", started_at=started_at, n_cells=n_cells,
                output=options.output_name(image), **describe_run(self._provenance),
            )  # fmt: skip
        elif n_cells is None:
            entry = fail_image(image, error, self._provenance, options)
        else:
            entry = failed_entry(image, error, self._provenance)
        entry = replace(entry, started_at=started_at, **self._describe_image(task))
        return ImageResult(image, entry, made)

    def _describe_image(self, task: ImageTask) -> dict[str, Any]:
        """Fields of an entry that say how its image was processed; ends its wall time."""
        now_s = time.perf_counter()
        wall_s, self._next_start_s = now_s - self._next_start_s, now_s
        trace, source = task.trace, task.source
        return {
            "wall_s": wall_s,
            "stages_s": trace.stages_s,
            "warnings": trace.warnings,
            "budget": trace.budget,
            "scale": trace.scale_choice,
            "flow_check": trace.flow_check,
            "height": source.height if source else None,
            "width": source.width if source else None,
            "dtype": str(source.stored_dtype) if source else None,
            "pixel_size_mm": source.pixel_size_mm if source else None,
        }
