"""A folder of images in, a folder of labels out: one bad image never stops the others."""

import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tqdm import tqdm

from mediar_infer.errors import OutputError, UsageError
from mediar_infer.exports.options import ZARR_DIR
from mediar_infer.folder.at_work import AtWork
from mediar_infer.folder.clashes import explain_clashes
from mediar_infer.folder.console import (
    log_entry,
    log_skipped,
    log_unknown_pixel_sizes,
    printable_name,
)
from mediar_infer.folder.failures import fail_image
from mediar_infer.folder.gathering import Gathering
from mediar_infer.folder.inputs import RunInputs
from mediar_infer.folder.ledger import (
    Ledger,
    LedgerEntry,
    summarise_entries,
    timestamp,
    write_summary,
)
from mediar_infer.folder.options import RunOptions
from mediar_infer.folder.provenance import Provenance, package_versions
from mediar_infer.folder.results import ImageResult, Made
from mediar_infer.folder.resuming import find_finished
from mediar_infer.folder.run_image import RunImage
from mediar_infer.folder.selection import Selection
from mediar_infer.images.formats import EXTENSIONS
from mediar_infer.images.listing import SkippedFile
from mediar_infer.output_files import refuse_link_as_root, remove_stale_parts
from mediar_infer.process import process_start_s

if TYPE_CHECKING:
    from mediar_infer.segmenter import Segmenter

logger = logging.getLogger(__name__)

_SHOWN_COLUMNS = 40
"""Of the progress bar, for the name of an image."""


def run_folder(
    segmenter: "Segmenter", options: RunOptions, found: RunInputs | None = None
) -> list[LedgerEntry]:
    """Segment every image of a folder and keep a ledger of it.

    Args:
        segmenter: models and settings.
        options: folders and switches.
        found: the images, if they have been looked for already.

    Returns:
        One entry per file of the folder.

    Raises:
        UsageError: if the input folder does not exist.
        OutputError: if the ledger cannot be written.
    """
    from mediar_infer.folder.image_runner import ImageRunner

    provenance = Provenance.of(segmenter, options)
    # The first image is charged with the start of the process, as the challenge does, but not with
    # what images of an earlier run still lack.
    started_s, before_s = process_start_s(), time.perf_counter()
    with FolderRun(provenance, options, found) as run:
        run.add_known()
        if options.resume:
            started_s += time.perf_counter() - before_s
        runner = ImageRunner(segmenter, provenance, options, started_s)
        with closing(runner.run_all(run.to_do, run.show_progress, run.at_work)) as results:
            for result in results:
                run.add(result)
        return run.finish()


def fail_folder(
    errors: Mapping[Path, str], options: RunOptions, found: RunInputs
) -> list[LedgerEntry]:
    """Keep the ledger of a run in which no image can be read, so that it needs no models.

    Args:
        errors: image → why it cannot be read.
        options: folders and switches.
        found: the images.

    Returns:
        One entry per file of the folder.

    Raises:
        OutputError: if the ledger cannot be written.
    """
    provenance = Provenance({}, {}, None)
    with FolderRun(provenance, options, found) as run:
        run.add_known()
        for image in run.to_do:
            entry = fail_image(image, errors[image.path], provenance, options)
            run.add(ImageResult(image, entry, Made()))
        return run.finish()


def run_image(segmenter: "Segmenter", options: RunOptions) -> LedgerEntry:
    """Segment one image without a ledger.

    Args:
        segmenter: models and settings.
        options: the image, where its labels go, and switches.

    Returns:
        Its entry; an error is in there.
    """
    from mediar_infer.folder.image_runner import ImageRunner
    from mediar_infer.folder.image_task import ImageTask

    provenance = Provenance.of(segmenter, options)
    runner = ImageRunner(segmenter, provenance, options, process_start_s())
    [path] = options.selection.inputs
    with closing(ImageTask(RunImage.named(path, path.name), options)) as task:
        return runner.run(task).entry


class FolderRun:
    """One run over a folder: what there is to do, and what became of it.

    Used as a context manager. Whoever processes ``to_do`` calls ``add_known``, adds a result for
    each of the files, in any order, and calls ``finish``.

    Args:
        provenance: models and settings of this run.
        options: folders and switches.
        found: the images, if they have been looked for already.

    Raises:
        UsageError: if the input folder does not exist, or is the output folder.
        OutputError: if the ledger cannot be written.
    """

    def __init__(
        self, provenance: Provenance, options: RunOptions, found: RunInputs | None = None
    ) -> None:
        self._provenance, self._options, part = provenance, options, options.selection.part
        self._found = found or options.find_inputs()
        log_skipped(options.selection, self._found.skipped)
        _check_folders(options, self._found)
        images = self._found.images
        clashes = explain_clashes(images, options.output_dir, options.selection.names)
        self._images = options.selection.choose(images)
        self.remove_leftovers()
        self._ledger = None if options.ledger_dir is None else Ledger(options.ledger_dir, part)
        self._ledger_start = self._ledger.size if self._ledger else 0
        is_first = options.selection.is_first_part
        self._skipped = [_skipped_entry(*each) for each in self._found.skipped.items() if is_first]
        self._entries: list[LedgerEntry] = []
        self._clashes = {image: clashes[image] for image in self._images if image in clashes}
        # An input may have come since the other one was done.
        self._finished = {
            image: entry
            for image, entry in self._find_finished().items()
            if image not in self._clashes
        }
        known = self._clashes.keys() | self._finished.keys()
        self.to_do = [image for image in self._images if image not in known]
        """Images that are left to do, in order; after a crash those that were at work come last."""
        self._gathering = Gathering(options)
        self.at_work = AtWork(options.ledger_dir, part)
        """Notes the images that are at work, for the case that this process dies."""
        if options.resume:
            self._put_suspects_last()
        self._bar = _progress_bar(len(self._images), options)

    def _find_finished(self) -> dict[RunImage, LedgerEntry]:
        options = self._options
        if not options.resume:
            return {}
        ledgers = []
        if self._ledger and options.ledger_dir:
            whole_run = Ledger(options.ledger_dir)
            ledgers = [whole_run, self._ledger] if options.selection.part else [self._ledger]
        return find_finished(ledgers, self._provenance, self._images, options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()
        self._gathering.close()
        self.at_work.close()

    def _put_suspects_last(self) -> None:
        suspects = self.at_work.suspects
        for image in self.to_do:
            if image.name in suspects:
                logger.warning(
                    "%s: an earlier run died while it was at work on this image, which is tried"
                    " last; if memory is short, give the process more",
                    image.name,
                )
        self.to_do.sort(key=lambda image: image.name in suspects)

    def add_known(self) -> None:
        """Add files of which it is known what becomes of them: skipped, clashing or finished.

        What finished images lack besides labels is made.

        Raises:
            OutputError: if the ledger or the table cannot be written.
        """
        if self._options.selection.part:
            self._write_summary([], is_finished=False)
        for entry in self._skipped:
            self._append(entry)
        if self._options.selection.is_first_part:
            for name, error in self._found.unreadable.items():
                self._note(_unreadable_entry(name, error))
        for image, error in self._clashes.items():
            entry = fail_image(image, error, self._provenance, self._options)
            self.add(ImageResult(image, entry, Made()))
        if self._finished:
            from mediar_infer.folder.image_runner import complete_image
        for image, entry in self._finished.items():
            self.add(complete_image(entry, image, self._options))

    def add(self, result: ImageResult) -> None:
        """Log and record what became of an image.

        Raises:
            OutputError: if the ledger or the table cannot be written.
        """
        self._note(result.entry)
        self._gathering.add(result)
        self._show(result.entry.file, 0.0)

    def finish(self) -> list[LedgerEntry]:
        """Write table and report if they are asked for, then the summary.

        Returns:
            One entry per file of the folder: those that were skipped, then images in order.

        Raises:
            OutputError: if one of them cannot be written.
        """
        order = {image.name: number for number, image in enumerate(self._images)}
        images = sorted(self._entries, key=lambda entry: order.get(entry.file, -1))
        entries = [*self._skipped, *images]
        # A summary that calls a part finished comes last: a kill leaves no other one.
        try:
            self._gathering.write(entries, self._provenance)
        except OutputError:
            self._write_summary(entries, is_finished=False)
            raise
        self._write_summary(entries)
        log_unknown_pixel_sizes(entries)
        return entries

    def _write_summary(self, entries: Sequence[LedgerEntry], *, is_finished: bool = True) -> None:
        folder, part = self._options.ledger_dir, self._options.selection.part
        if folder is None:
            return
        config, versions = self._provenance.plan, package_versions()
        summary = summarise_entries(entries, config=config, versions=versions)
        if part:
            table = self._options.exports.table_path(self._options.output_dir)
            summary |= part.describe(
                [image.name for image in self._found.images],
                is_finished=is_finished,
                ledger_start=self._ledger_start,
                table=None if table is None else _relative_path(table, folder),
            )
        write_summary(folder, summary, part)

    def remove_leftovers(self) -> None:
        """Remove unfinished files of processes that were killed, of this part only if it is one.

        Raises:
            OutputError: if one cannot be removed.
        """
        options = self._options
        names: dict[Path, set[str]] = {folder: set() for folder in options.result_dirs}
        for image in self._images:
            for result in options.list_results(image):
                names.setdefault(result.parent, set()).add(result.name)
        for folder, own in names.items():
            remove_stale_parts(folder, own if self._options.selection.part else None)

    def show_progress(self, image: RunImage, fraction: float) -> None:
        """Show that a fraction in [0, 1] of an image is done, after those that are finished."""
        self._show(image.name, fraction)

    def _show(self, name: str, fraction: float) -> None:
        self._bar.set_description(printable_name(name, _SHOWN_COLUMNS), refresh=False)
        self._bar.n = len(self._entries) + fraction
        self._bar.refresh()

    def _note(self, entry: LedgerEntry) -> None:
        # Logged first: on a full disk the ledger fails too, and the reason must be seen.
        log_entry(entry, with_budget=self._options.with_budget)
        self._append(entry)
        self._entries.append(entry)

    def _append(self, entry: LedgerEntry) -> None:
        if self._ledger:
            self._ledger.append(entry)


def _progress_bar(n_images: int, options: RunOptions) -> "tqdm[Any]":
    return tqdm(
        total=n_images, unit="image", disable=not options.show_progress, file=sys.stderr,
        bar_format="{desc}{percentage:3.0f}%|{bar}| {n:.1f}/{total} images [{elapsed}<{remaining}]",
    )  # fmt: skip


def _relative_path(path: Path, folder: Path) -> str:
    """Path that leads from a folder to a file, although parts of both may be links."""
    return os.path.relpath(path.parent.resolve() / path.name, folder.resolve())


def _check_folders(options: RunOptions, found: RunInputs) -> None:
    if options.output_dir.resolve() in {folder.resolve() for folder in found.folders}:
        raise UsageError(
            f"{options.output_dir}: input and output folder are the same, expected two different"
            " folders; label files would become inputs of the next run; choose another output"
            " folder"
        )
    for folder in (*options.result_dirs[1:], options.output_dir / ZARR_DIR):
        refuse_link_as_root(folder)
    if not found.images:
        logger.error("%s", _explain_absence(options.selection))


def _explain_absence(selection: Selection) -> str:
    found = f"{selection.describe_inputs()}: found no image"
    if selection.patterns:
        below = "" if selection.recursive else ", and --recursive for folders below"
        return (
            f"{found} that matches {' '.join(selection.patterns)}, expected at least one; check"
            f" --pattern and --input{below}"
        )
    return (
        f"{found}, expected at least one file of a known extension ({' '.join(EXTENSIONS)}); check"
        " --input"
    )


def _skipped_entry(name: str, file: SkippedFile) -> LedgerEntry:
    return LedgerEntry(file=name, status="skipped", started_at=timestamp(), error=file.reason)


def _unreadable_entry(name: str, error: str) -> LedgerEntry:
    return LedgerEntry(file=name, status="failed", started_at=timestamp(), error=error)


def compute_exit_code(
    entries: Sequence[LedgerEntry], *, strict_budget: bool, may_be_empty: bool = False
) -> int:
    """0 if there were images and every one was done (and, if strict, in time), else 1.

    Args:
        entries: one per file.
        strict_budget: whether a late image counts as one that is not done.
        may_be_empty: whether a run without images is one that has done all there was.
    """
    if not may_be_empty and not any(entry.status in ("done", "resumed") for entry in entries):
        return 1
    for entry in entries:
        if entry.status == "failed":
            return 1
        if strict_budget and entry.status == "done" and entry.within_tolerance is False:
            return 1
    return 0
