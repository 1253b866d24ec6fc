"""Images segmented one after the other, each with a record of what became of it."""

import logging
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

import torch

from mediar_infer.arrays import LabelArray
from mediar_infer.config import LARGE_IMAGE_PIXELS
from mediar_infer.engine.pacing import Pacer
from mediar_infer.errors import MediarError, OutputError
from mediar_infer.folder.ledger import ImageRecord, timestamp
from mediar_infer.folder.options import RunOptions
from mediar_infer.folder.provenance import EngineFacts, full_plan, label_facts, package_versions
from mediar_infer.folder.read_ahead import ReadAhead, ReadyImage
from mediar_infer.images.open import open_image
from mediar_infer.images.sources import ImageSource
from mediar_infer.labels.files import write_labels
from mediar_infer.labels.overlay import write_overlay
from mediar_infer.labels.reading import read_labels
from mediar_infer.process import peak_memory_bytes
from mediar_infer.segmenter import Prepared
from mediar_infer.stopwatch import Stopwatch

logger = logging.getLogger(__name__)


class Progress(Protocol):
    """Takes note of how far an image has come."""

    def __call__(self, path: Path, fraction: float) -> None:
        """Take note that a fraction in [0, 1] of an image is done."""
        ...


class ImageSegmenter(Protocol):
    """What makes labels of one image at a time: a :class:`Segmenter`, or what stands for it."""

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        ...

    def pacer(
        self,
        source: ImageSource,
        stopwatch: Stopwatch,
        started_s: float,
        extra_stages: Sequence[str] = (),
    ) -> Pacer | None:
        """See :meth:`Segmenter.pacer`."""
        ...

    def label_bands(
        self,
        source: ImageSource,
        stopwatch: Stopwatch,
        *,
        pacer: Pacer | None = None,
        prepared: Prepared | None = None,
    ) -> Iterator[LabelArray]:
        """See :meth:`Segmenter.label_bands`."""
        ...


def describe_unexpected(path: Path, failure: Exception) -> str:
    """Say what an error that nobody foresaw means for an image."""
    first_line = str(failure).partition("\n")[0]
    # torch has a class of its own for devices, but none for the host.
    out_of_memory = isinstance(failure, MemoryError | torch.OutOfMemoryError) or (
        isinstance(failure, RuntimeError) and "allocate memory" in first_line
    )
    if out_of_memory:
        torch.cuda.empty_cache()
        return (
            f"{path.name}: out of memory ({first_line or 'host'}); expected room for one window and"
            " the rows around it; use a smaller --batch, --device cpu, or a machine with more"
            " memory"
        )
    return (
        f"{path.name}: unexpected {type(failure).__name__}: {first_line}; the other images are"
        " done; run with --verbose and report this"
    )


def _remove(result: Path) -> None:
    try:
        result.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise OutputError(
            f"{result}: cannot be removed ({error.strerror or error}); expected a writable folder;"
            " allow removing it or choose another output folder"
        ) from error


class TooLargeHere(Exception):
    """An image is left to those who can share it out."""


class ImageRunner:
    """Segments one image after the other and says what became of each.

    Args:
        segmenter: models and settings, or what stands for them.
        facts: what the ledger tells of them.
        options: folders and switches.
        started_s: when the wall time of the first image began, by ``time.perf_counter``.
        below_pixels: images of as many pixels or more are left alone; none takes them all.
        prepare: makes ready what the segmenter's labels begin with, as ``Segmenter.prepare``; with
            it ``run_all`` reads small images ahead.
    """

    def __init__(
        self,
        segmenter: ImageSegmenter,
        facts: EngineFacts,
        options: RunOptions,
        started_s: float,
        below_pixels: int | None = None,
        prepare: Callable[[ImageSource, Stopwatch], Prepared] | None = None,
    ) -> None:
        self.facts = facts
        self._prepare = prepare
        self._segmenter, self._options = segmenter, options
        self._below_pixels = below_pixels
        self._next_start = started_s
        self._pacer: Pacer | None = None

    def run_all(
        self, paths: Sequence[Path], progress: Progress
    ) -> Generator[ImageRecord, None, None]:
        """Segment files one after the other; the next one is read meanwhile."""
        with ReadAhead(self._read_small) as ahead:
            for path, following in zip_longest(paths, paths[1:]):
                progress(path, 0.0)
                yield self._run(path, progress, ahead, following)

    def _read_small(self, path: Path, stopwatch: Stopwatch) -> ReadyImage:
        """Open and prepare an image that may be held beside another one."""
        assert self._prepare is not None
        limit = min(LARGE_IMAGE_PIXELS, self._options.max_pixels or LARGE_IMAGE_PIXELS)
        with stopwatch("open"):
            source = self._open(path, limit)
        try:
            return ReadyImage(source, self._prepare(source, stopwatch))
        except BaseException:
            source.close()
            raise

    def _open(self, path: Path, max_pixels: int | None) -> ImageSource:
        return open_image(
            path,
            plane=self._options.plane,
            max_pixels=max_pixels,
            apply_orientation=self._options.apply_orientation,
        )

    def fail(self, path: Path, error: str) -> ImageRecord:
        """Remove what an earlier run left of an image that cannot be done, and say why."""
        error += self._remove_results(path)
        return self._record(path, None, status="failed", error=error)

    def run(self, path: Path, progress: Progress) -> ImageRecord:
        """Segment one file; every error becomes its record's.

        Raises:
            TooLargeHere: if it has too many pixels for this runner; nothing was done.
        """
        return self._run(path, progress)

    def _run(
        self,
        path: Path,
        progress: Progress,
        ahead: ReadAhead | None = None,
        following: Path | None = None,
    ) -> ImageRecord:
        """Segment one file, which may have been read ahead, while the following one is read."""
        ready, stopwatch = ahead.take(path) if ahead else (None, Stopwatch())
        source = ready.source if ready else None
        self._pacer = None
        started_at = timestamp()
        error: str
        try:
            if source is None:
                with stopwatch("open"):
                    source = self._open(path, self._options.max_pixels)
            with source:
                if source.height * source.width >= (self._below_pixels or sys.maxsize):
                    raise TooLargeHere
                prepared = ready.prepared if ready else None
                if prepared is None and self._prepare is not None:
                    prepared = self._prepare(source, stopwatch)
                with closing(prepared) if prepared else nullcontext():
                    # Not before: images are predicted in the order in which they are prepared.
                    if ahead and following and prepared:
                        ahead.begin(following)
                    n_cells = self._segment(path, source, stopwatch, progress, prepared)
            if self._pacer:
                self._pacer.finish()
        except MediarError as failure:
            error = str(failure)
        except TooLargeHere:
            raise
        except Exception as failure:
            # The border of one image: whatever is wrong with it, the others are done.
            logger.debug("%s", path, exc_info=True)
            error = describe_unexpected(path, failure)
        else:
            return self._record(
                path, source, status="done", started_at=started_at, n_cells=n_cells,
                stages_s=stopwatch.seconds, output=self._options.label_path(path).name,
            )  # fmt: skip
        error += self._remove_results(path)
        return self._record(
            path, source, status="failed", error=error, started_at=started_at,
            stages_s=stopwatch.seconds,
        )  # fmt: skip

    def _segment(
        self,
        path: Path,
        source: ImageSource,
        stopwatch: Stopwatch,
        progress: Progress,
        prepared: Prepared | None,
    ) -> int:
        with_overlay = self._options.has_overlay(source.height, source.width)
        stages = ["write", "overlay"] if with_overlay else ["write"]
        self._pacer = self._segmenter.pacer(source, stopwatch, self._next_start, stages)

        def watched() -> Iterator[LabelArray]:
            n_rows = 0
            for labels in self._segmenter.label_bands(
                source, stopwatch, pacer=self._pacer, prepared=prepared
            ):
                n_rows += len(labels)
                progress(path, n_rows / source.height)
                yield labels

        target = self._options.label_path(path)
        overlay = self._options.overlay_path(path)
        # An earlier run's shows other labels. It goes first: were it there beside the new labels
        # when this run is stopped, --resume would take both for one result.
        _remove(overlay)
        facts = label_facts(path, self.facts, self._options)
        with stopwatch("write"):
            n_cells = write_labels(
                target, watched(), height=source.height, width=source.width, facts=facts,
                geometry=source.geometry,
            )  # fmt: skip
        if with_overlay:
            with stopwatch("overlay"):
                write_overlay(overlay, source.read_rows(0, source.height), read_labels(target))
        elif self._options.overlays:
            source.warnings.append("too large for an overlay; open image and labels in a viewer")
        return n_cells

    def _remove_results(self, path: Path) -> str:
        """Remove what an earlier run left under the name of a failed image; say if that failed."""
        overlay = self._options.overlay_path(path)
        try:
            for result in (self._options.label_path(path), overlay):
                _remove(result)
        except OutputError as failure:
            return f"; results of an earlier run are still there ({failure})"
        return ""

    def _record(
        self,
        path: Path,
        source: ImageSource | None,
        **fields: Any,  # noqa: ANN401 (fields of ImageRecord)
    ) -> ImageRecord:
        now = time.perf_counter()
        wall_s, self._next_start = now - self._next_start, now
        cuda = self._segmenter.device.type == "cuda"
        gpu = torch.cuda.max_memory_allocated(self._segmenter.device) if cuda else None
        if source is not None:
            fields |= {
                "height": source.height,
                "width": source.width,
                "dtype": str(source.dtype),
                "pixel_size_mm": source.geometry and source.geometry.pixel_size_mm,
                "warnings": tuple(source.warnings),
            }
        return ImageRecord(
            **{"started_at": timestamp(), **fields},
            file=path.name,
            plan=full_plan(self.facts, self._options),
            wall_s=wall_s,
            budget=self._pacer.report() if self._pacer else None,
            weights=self.facts.digests,
            versions=package_versions(),
            device=self.facts.device,
            peak_memory_bytes=peak_memory_bytes(gpu),
        )
