"""A folder of images in, a folder of labels out: one bad image never stops the others."""

import logging
import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from mediar_infer.errors import UsageError
from mediar_infer.folder.image_runner import ImageRunner, Progress
from mediar_infer.folder.ledger import ImageRecord, Ledger, summarise, timestamp, write_summary
from mediar_infer.folder.options import OVERLAY_DIR, RunOptions
from mediar_infer.folder.provenance import EngineFacts, package_versions
from mediar_infer.folder.resuming import find_finished
from mediar_infer.images.open import SkippedFile, list_images
from mediar_infer.labels.files import UNKNOWN_PIXEL_MM, check_collisions, label_path
from mediar_infer.output_files import refuse_link_as_root, remove_stale_parts
from mediar_infer.process import process_start_s
from mediar_infer.segmenter import Segmenter

logger = logging.getLogger(__name__)


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


def _runner_of_process(segmenter: Segmenter, options: RunOptions) -> ImageRunner:
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
    done = find_finished(ledger, runner.facts, images, options) if options.resume else {}
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
    log_unknown_pixel_sizes(records)
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
    refuse_link_as_root(options.output_dir / OVERLAY_DIR)
    if not images:
        logger.warning("%s: found no image", options.input_path)


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


def log_unknown_pixel_sizes(records: Iterable[ImageRecord]) -> None:
    """Log once which pixel size label files state where the images state none."""
    done = [record for record in records if record.status == "done"]
    if n_unknown := sum(record.pixel_size_mm is None for record in done):
        logger.info(
            "%d of %d images state no pixel size; their label files state %g mm",
            n_unknown, len(done), UNKNOWN_PIXEL_MM,
        )  # fmt: skip


def _skipped_record(entry: SkippedFile) -> ImageRecord:
    return ImageRecord(
        file=entry.path.name, status="skipped", started_at=timestamp(), error=entry.reason
    )


def exit_code(records: Iterable[ImageRecord], *, strict_budget: bool) -> int:
    """0 if every image was done (and, if strict, in time), else 1."""
    for record in records:
        if record.status == "failed":
            return 1
        if strict_budget and record.status == "done" and record.within_tolerance is False:
            return 1
    return 0
