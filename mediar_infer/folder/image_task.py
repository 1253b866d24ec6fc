"""The images of a folder, each opened and begun while the one before is still being processed."""

from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from itertools import zip_longest
from typing import Protocol

from mediar_infer.config import LARGE_IMAGE_PIXELS
from mediar_infer.engine.merging import merge_channels
from mediar_infer.errors import ImageReadError
from mediar_infer.folder.at_work import AtWork
from mediar_infer.folder.options import RunOptions
from mediar_infer.folder.run_image import RunImage
from mediar_infer.image_trace import Trace
from mediar_infer.image_work import ImageWork
from mediar_infer.images.fingerprint import FileState, read_state
from mediar_infer.images.open import open_image
from mediar_infer.images.sources import ImageSource


class ImageSegmenter(Protocol):
    """What segments images: a :class:`Segmenter`, or the workers of a cluster."""

    def begin(
        self, source: ImageSource, trace: Trace, *, later_stages: Sequence[str] = ()
    ) -> ImageWork:
        """Begin with an image: find its scaling, and start what runs ahead of its labels.

        Args:
            source: the image; nothing else may read it until the work has ended.
            trace: gains stages and warnings.
            later_stages: stages that follow the labels, such as ``write``.

        Returns:
            The work, to be used as a context manager.

        Raises:
            ImageReadError: if the image cannot be read or has no finite value.
        """
        ...


def open_input(image: RunImage, options: RunOptions, held_pixels: int | None = None) -> ImageSource:
    """Open an image of a run, its channels merged as the options say.

    Args:
        image: the image.
        options: how it is read.
        held_pixels: largest image that is accepted besides the limits of the options.

    Raises:
        ImageReadError: if it cannot be read as one image, or is too large.
    """
    reading = replace(options.reading_of(image), held_pixels=held_pixels)
    source = open_image(image.path, reading)
    try:
        return merge_channels(source)
    except BaseException:
        source.close()
        raise


class ImageTask:
    """One image file of a run, from its opening to its closing.

    Args:
        image: the image file.
        options: how it is read, and which results are written.
    """

    def __init__(self, image: RunImage, options: RunOptions) -> None:
        self.image, self._options = image, options
        self.trace = Trace()
        """Stages and warnings of the image."""
        self.source: ImageSource | None = None
        """The open file; None until it is opened."""
        self.state: FileState | None = None
        """The file as it lay on the disk just before it was opened; None until then."""
        self._work: ImageWork | None = None
        self._failure: Exception | None = None

    def open(self, held_pixels: int | None = None) -> ImageSource:
        """Open the file, unless it is open.

        Args:
            held_pixels: largest image that is accepted besides the limits of the options.

        Raises:
            ImageReadError: if it cannot be read as one image, or is too large.
        """
        if self.source is None:
            with self.trace.stage("open"):
                with suppress(OSError):  # which the reader explains
                    self.state = read_state(self.image.path)
                self.source = open_input(self.image, self._options, held_pixels)
            self.trace.warn(*self.source.warnings)
        return self.source

    def check_unchanged(self) -> None:
        """Make sure that what was read is one image, that which the label file will name.

        Raises:
            ImageReadError: if the file is not the one that was opened, or was written to.
        """
        try:
            is_same = read_state(self.image.path) == self.state
        except OSError:
            is_same = False
        if not is_same:
            raise ImageReadError(
                f"{self.image.name}: found a file that changed while it was read, expected one that"
                " stays as it is until its labels are written; rerun with --resume"
            )

    def begin(self, segmenter: ImageSegmenter, held_pixels: int | None = None) -> ImageWork:
        """Open the image and begin with it, unless that is done.

        Args:
            segmenter: makes the labels.
            held_pixels: as for ``open``.

        Returns:
            The work, to be used as a context manager.

        Raises:
            Exception: whatever is wrong with the image; the same again in later calls.
        """
        if self._failure is not None:
            raise self._failure
        if self._work is None:
            try:
                source = self.open(held_pixels)
                stages = self._options.list_result_stages(source.height, source.width)
                self._work = segmenter.begin(source, self.trace, later_stages=stages)
            except Exception as failure:
                self._failure = failure
                raise
        return self._work

    def close(self) -> None:
        """End what was begun, and close the file."""
        if self._work is not None:
            self._work.close()
        if self.source is not None:
            self.source.close()


def begin_in_order(
    images: Sequence[RunImage], segmenter: ImageSegmenter, options: RunOptions, at_work: AtWork
) -> Generator[ImageTask, None, None]:
    """Begin with images one after the other, each while the one before is being processed.

    Images that an earlier run was at when it died are processed with no other one at work.

    Args:
        images: image files.
        segmenter: makes their labels.
        options: how images are read.
        at_work: notes the images that are at work.

    Yields:
        Tasks in the order of the files, each open until the next one is taken. What is wrong with
        an image is raised by its ``begin``.
    """
    ahead: Future[ImageTask | None] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="read") as pool:
        try:
            for image, following in zip_longest(images, images[1:]):
                task, ahead = ahead.result() if ahead else None, None
                if task is None:
                    at_work.begin(image.name)
                    task = ImageTask(image, options)
                    with suppress(Exception):
                        task.begin(segmenter)
                # Not before: images are predicted in the order in which they are begun.
                names = {image.name, following.name if following else ""}
                if following is not None and at_work.suspects.isdisjoint(names):
                    at_work.begin(following.name)
                    ahead = pool.submit(_begin_ahead, following, segmenter, options)
                with closing(task):
                    yield task
                at_work.end(image.name)
        finally:
            if ahead and not ahead.cancel() and (task := ahead.result()):
                task.close()


def _begin_ahead(
    image: RunImage, segmenter: ImageSegmenter, options: RunOptions
) -> ImageTask | None:
    """Begin with an image that may be held in memory next to another one.

    Returns:
        None if that fails, for whatever reason: the image is tried again in its turn.
    """
    task = ImageTask(image, options)
    with suppress(Exception):
        task.begin(segmenter, LARGE_IMAGE_PIXELS)
        return task
    task.close()
    return None
