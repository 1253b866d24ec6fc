"""A folder of images in, a folder of labels out: one bad image never stops the others."""

import logging
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

import torch
from tqdm import tqdm

from mediar_infer import __version__
from mediar_infer.budget import Stopwatch, peak_memory_bytes, process_start_s
from mediar_infer.config import LARGE_IMAGE_PIXELS
from mediar_infer.devices import describe_device
from mediar_infer.errors import MediarError, OutputError, UsageError
from mediar_infer.images import ImageSource, SkippedFile, list_images, open_image
from mediar_infer.label_files import (
    LabelHeader,
    check_collisions,
    label_path,
    read_label_header,
    read_labels,
    write_labels,
)
from mediar_infer.output_files import remove_stale_parts
from mediar_infer.overlay import write_overlay
from mediar_infer.pacing import Pacer
from mediar_infer.read_ahead import ReadAhead, ReadyImage
from mediar_infer.report import (
    ImageRecord,
    Ledger,
    LedgerContent,
    summarise,
    write_summary,
)
from mediar_infer.segmenter import Prepared, Segmenter
from mediar_infer.types import LabelArray

logger = logging.getLogger(__name__)

OVERLAY_DIR = "overlays"
MAX_OVERLAY_PIXELS = 100_000_000
"""An overlay needs the whole image in memory, which a slide may not fit."""
_PACKAGES = ("torch", "numpy", "tifffile", "opencv-python-headless", "openvino")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What to do with a folder, beside how to segment."""

    input_path: Path
    """Folder of images, or one image."""
    output_dir: Path
    """Folder of results; made if need be."""
    ledger_dir: Path | None = None
    """Folder of ledger and summary; none writes neither."""
    plane: int | None = None
    """Index of the plane to take from stacks; none makes a stack an error."""
    max_pixels: int | None = None
    """Largest image that is accepted; none takes the limits of the readers."""
    resume: bool = False
    """Skip images that an earlier run with the same weights and settings has done."""
    overlays: bool = False
    """Also write the outlines over each image as PNG."""
    show_progress: bool = False
    """Show a progress bar."""
    label_file: Path | None = None
    """Where the labels of a single image go, ``.tif`` or ``.mha``; none names them after it."""

    def __post_init__(self) -> None:
        if self.plane is not None and self.plane < 0:
            raise UsageError(f"found --plane {self.plane}, expected 0 or more")
        if self.max_pixels is not None and self.max_pixels < 1:
            raise UsageError(f"found --max-pixels {self.max_pixels}, expected 1 or more")

    def label_path(self, image_path: Path) -> Path:
        """Where the labels of an image go."""
        return self.label_file or label_path(self.output_dir, image_path)


@cache
def package_versions() -> dict[str, str]:
    """Versions of this package, Python and what the numbers depend on."""
    versions = {"mediar_infer": __version__, "python": sys.version.split()[0]}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def describe_plan(segmenter: Segmenter) -> dict[str, Any]:
    """Everything that decides the labels of an image, ready for JSON.

    Under a time budget this is what was asked for; what was done with an image is in the field
    ``budget`` of its record.
    """
    config = segmenter.config
    budget = {} if config.fit_budget is None else {"fit_budget": config.fit_budget}
    return budget | {
        "name": config.plan.name,
        "models": len(segmenter.members),
        "flips": list(config.plan.flips),
        "overlap": config.plan.overlap,
        "roi_size": config.roi_size,
        "precision": segmenter.members[0].precision,
        "backend": segmenter.members[0].name,
        "masks": asdict(config.masks),
    }


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the ledger tells of the models and settings that made labels."""

    plan: Mapping[str, Any]
    """See :func:`describe_plan`."""
    digests: Mapping[str, str]
    """Weight file → SHA-256."""
    device: str
    """Where the network runs."""

    @classmethod
    def of(cls, segmenter: Segmenter) -> "EngineFacts":
        """Facts of models that are loaded in this process."""
        device = describe_device(segmenter.device)
        return cls(describe_plan(segmenter), segmenter.digests, device)


def _full_plan(facts: EngineFacts, options: RunOptions) -> dict[str, Any]:
    return {**facts.plan, "plane": options.plane}


def label_facts(path: Path, facts: EngineFacts, options: RunOptions) -> dict[str, Any]:
    """What a label file says that it was made of: the same for the same input and settings."""
    return {
        "mediar_infer": __version__,
        "image": path.name,
        "image_bytes": path.stat().st_size,
        "plan": _full_plan(facts, options),
        "weights": dict(facts.digests),
    }


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


class FolderRunner(Protocol):
    """What does the images of a folder: one after the other here, or many at once elsewhere."""

    @property
    def facts(self) -> EngineFacts:
        """What the ledger tells of it."""
        ...

    def run_all(
        self, paths: Sequence[Path], progress: Progress
    ) -> Generator[ImageRecord, None, None]:
        """Segment files; one record each, as they finish."""
        ...

    def fail(self, path: Path, error: str) -> ImageRecord:
        """Remove what an earlier run left of an image that cannot be done, and say why."""
        ...


def run_folder(segmenter: Segmenter, options: RunOptions) -> list[ImageRecord]:
    """Segment every image of a folder and keep a ledger of it.

    Args:
        segmenter: models and settings.
        options: folders and switches.

    Returns:
        One record per entry of the folder.

    Raises:
        UsageError: if the input folder does not exist.
        OutputError: if the ledger cannot be written.
    """
    return run_images(_runner_of_process(segmenter, options), options)


def run_image(segmenter: Segmenter, options: RunOptions) -> ImageRecord:
    """Segment one image without a ledger.

    Args:
        segmenter: models and settings.
        options: the image, where its labels go, and switches.

    Returns:
        Its record; an error is in there.
    """
    runner = _runner_of_process(segmenter, options)
    return runner.run(options.input_path, lambda _path, _fraction: None)


def _runner_of_process(segmenter: Segmenter, options: RunOptions) -> "ImageRunner":
    # The first image is charged with the start of the process, as the challenge does.
    facts, started_s = EngineFacts.of(segmenter), process_start_s()
    return ImageRunner(segmenter, facts, options, started_s, prepare=segmenter.prepare)


def run_images(runner: FolderRunner, options: RunOptions) -> list[ImageRecord]:
    """Do the images of a folder that are left to do, and keep a ledger; see :func:`run_folder`."""
    images, skipped = list_images(options.input_path)
    _check_folders(options, images)
    for folder in (options.output_dir, options.output_dir / OVERLAY_DIR):
        remove_stale_parts(folder)
    ledger = None if options.ledger_dir is None else Ledger(options.ledger_dir)
    records = [_skipped_record(entry) for entry in skipped]
    if ledger:
        for record in records:
            ledger.append(record)
    done = _finished_before(ledger, runner.facts, images, options) if options.resume else {}
    collisions = {path: paths for paths in check_collisions(images).values() for path in paths}
    to_do = [path for path in images if path not in collisions and path not in done]
    with _progress_bar(len(images), options) as bar:

        def show(path: Path, fraction: float) -> None:
            bar.set_description(path.name[:40], refresh=False)
            bar.n = len(records) - len(skipped) + fraction
            bar.refresh()

        with closing(runner.run_all(to_do, show)) as results:
            for path in images:
                # Collisions first: an input may have come since the other one was done.
                if path in collisions:
                    record = _collision(runner, path, collisions[path])
                else:
                    record = done[path] if path in done else next(results)
                # Logged first: on a full disk the ledger fails too, and the reason must be seen.
                log_record(record)
                if ledger:
                    ledger.append(record)
                records.append(record)
                show(path, 0.0)
    order = {path.name: number for number, path in enumerate(images)}
    records[len(skipped) :] = sorted(records[len(skipped) :], key=lambda r: order[r.file])
    if options.ledger_dir:
        summary = summarise(records, config=runner.facts.plan, versions=package_versions())
        write_summary(options.ledger_dir, summary)
    return records


def _progress_bar(n_images: int, options: RunOptions) -> "tqdm[Any]":
    return tqdm(
        total=n_images, unit="image", disable=not options.show_progress, file=sys.stderr,
        bar_format="{desc}{percentage:3.0f}%|{bar}| {n:.1f}/{total} images [{elapsed}<{remaining}]",
    )  # fmt: skip


def _collision(runner: FolderRunner, path: Path, others: Sequence[Path]) -> ImageRecord:
    """Record of an input whose output name is also that of another one."""
    names = ", ".join(sorted(other.name for other in others if other != path))
    error = (
        f"{path.name}: maps to {label_path(Path(), path)}, and so does {names}; expected one"
        " image per name up to the first dot; rename one of them"
    )
    return runner.fail(path, error)


def _check_folders(options: RunOptions, images: Sequence[Path]) -> None:
    source = options.input_path if options.input_path.is_dir() else options.input_path.parent
    if options.output_dir.resolve() == source.resolve():
        raise UsageError(
            f"{options.output_dir}: is both input and output folder, expected two; label files"
            " would become inputs of the next run; choose another output folder"
        )
    if not images:
        logger.warning("%s: found no image", options.input_path)


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


def log_record(record: ImageRecord) -> None:
    """Log what became of an image: an error, or warnings and one line."""
    if record.status == "failed":
        logger.error("%s", record.error)
        return
    for warning in record.warnings:
        logger.warning("%s: %s", record.file, warning)
    logger.info(
        "%s: %sx%s, %s cells, %.1f s of %.1f s (%s)",
        record.file,
        record.height,
        record.width,
        record.n_cells,
        record.wall_s,
        record.tolerance_s or 0.0,
        record.status,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _skipped_record(entry: SkippedFile) -> ImageRecord:
    return ImageRecord(
        file=entry.path.name, status="skipped", started_at=_now(), error=entry.reason
    )


def _finished_before(
    ledger: Ledger | None, facts: EngineFacts, images: Iterable[Path], options: RunOptions
) -> dict[Path, ImageRecord]:
    """Images whose label files say that they were made of them with the same weights and plan.

    What else the ledger knows of such an image is carried over.
    """
    content = ledger.read() if ledger else LedgerContent((), ())
    for problem in content.problems:
        logger.warning("%s", problem)
    finished = {}
    for path in images:
        header = read_label_header(label_path(options.output_dir, path))
        if header is None or not path.is_file() or not _has_overlay(path, header, options):
            continue
        expected = label_facts(path, facts, options)
        if dict(header.facts) != expected:
            continue
        fields: dict[str, Any] = {
            "height": header.height, "width": header.width, "n_cells": header.n_cells,
            "plan": expected["plan"], "weights": expected["weights"],
            "output": label_path(Path(), path).name,
        }  # fmt: skip
        before = content.latest.get(path.name)
        known = before.to_dict() if before else {}
        if all(known.get(name) == value for name, value in fields.items()):
            fields = known
        now = {"file": path.name, "status": "resumed", "started_at": _now(), "wall_s": 0.0}
        finished[path] = ImageRecord.from_dict({**fields, **now, "stages_s": {}})
    return finished


def _overlay_path(output_dir: Path, image_path: Path) -> Path:
    return output_dir / OVERLAY_DIR / label_path(Path(), image_path).with_suffix(".png")


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


def _has_overlay(path: Path, header: LabelHeader, options: RunOptions) -> bool:
    """Whether the image has the overlay that is asked for, if any."""
    return (
        not options.overlays
        or header.height * header.width > MAX_OVERLAY_PIXELS
        or _overlay_path(options.output_dir, path).is_file()
    )


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
            source = open_image(path, plane=self._options.plane, max_pixels=limit)
        try:
            return ReadyImage(source, self._prepare(source, stopwatch))
        except BaseException:
            source.close()
            raise

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
        started_at = _now()
        error: str
        try:
            if source is None:
                with stopwatch("open"):
                    source = open_image(
                        path, plane=self._options.plane, max_pixels=self._options.max_pixels
                    )
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
        with_overlay = self._options.overlays and source.height * source.width <= MAX_OVERLAY_PIXELS
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
        overlay = _overlay_path(self._options.output_dir, path)
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
        overlay = _overlay_path(self._options.output_dir, path)
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
                "warnings": tuple(source.warnings),
            }
        return ImageRecord(
            **{"started_at": _now(), **fields},
            file=path.name,
            plan=_full_plan(self.facts, self._options),
            wall_s=wall_s,
            budget=self._pacer.report() if self._pacer else None,
            weights=self.facts.digests,
            versions=package_versions(),
            device=self.facts.device,
            peak_memory_bytes=peak_memory_bytes(gpu),
        )


def exit_code(records: Iterable[ImageRecord], *, strict_budget: bool) -> int:
    """0 if every image was done (and, if strict, in time), else 1."""
    for record in records:
        if record.status == "failed":
            return 1
        if strict_budget and record.status == "done" and record.within_tolerance is False:
            return 1
    return 0
