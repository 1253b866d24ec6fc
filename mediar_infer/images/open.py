"""Input files: which ones a folder holds, and how each is opened as a readable source."""

import logging
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mediar_infer.errors import ImageReadError, UsageError
from mediar_infer.images.faults import reading
from mediar_infer.images.formats import HEAD_BYTES, UNSUPPORTED_IMAGES, find_format
from mediar_infer.images.label_names import explain_label_files
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.mha import open_meta_image
from mediar_infer.images.raster import open_raster
from mediar_infer.images.sources import ImageSource
from mediar_infer.images.tiff_source import TiffSource

logger = logging.getLogger(__name__)

Opener = Callable[[Path, ReadOptions, tuple[str, ...]], ImageSource]
"""Opens a file of one format; the sentences are what is known about the file already."""


@dataclass(frozen=True, slots=True)
class Format:
    """A format that can be opened."""

    open: Opener
    """How."""
    extensions: tuple[str, ...]
    """Extensions, in lower case, by which files of a folder count as images."""


FORMATS: dict[str, Format] = {
    "TIFF": Format(
        TiffSource,
        (
            ".tif", ".tiff", ".btf", ".tf2", ".tf8", ".lsm", ".stk", ".flex",
            ".svs", ".ndpi", ".scn", ".bif", ".qptiff",
        ),
    ),
    "PNG": Format(partial(open_raster, "PNG"), (".png",)),
    "JPEG": Format(partial(open_raster, "JPEG"), (".jpg", ".jpeg", ".jpe", ".jfif")),
    "BMP": Format(partial(open_raster, "BMP"), (".bmp", ".dib")),
    "JPEG 2000": Format(
        partial(open_raster, "JPEG 2000"),
        (".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"),
    ),
    "MHA": Format(open_meta_image, (".mha",)),
}  # fmt: skip
"""Every format by the name that :func:`find_format` gives it. A new format is one more
entry, and its first bytes in ``formats.py``."""

_DEFAULTS = ReadOptions()

EXTENSIONS = {extension: name for name, known in FORMATS.items() for extension in known.extensions}
"""Expected format of every extension that counts as an image."""


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """An entry of the input folder that is not read."""

    path: Path
    """Where it is."""
    reason: str
    """Why it is skipped, for the ledger."""
    is_labels: bool = False
    """Whether it holds the labels of an image."""


def list_images(folder: Path) -> tuple[list[Path], list[SkippedFile]]:
    """List the images of a folder.

    Args:
        folder: folder whose files are listed, without sub-folders; or one file, which is
            returned alone whatever its extension.

    Returns:
        Image files in natural order (``a2`` before ``a10``), and everything else with the
        reason for skipping it; warnings name skipped files that hold an image. Unreadable files and
        broken links with an image extension count as images, so that they end as errors and not in
        silence.

    Raises:
        UsageError: if the folder does not exist or cannot be listed.
    """
    try:
        if folder.is_file():
            return [folder], []
        entries = sorted(folder.iterdir(), key=natural_key)
        skipped = [_skipped(path) for path in entries]
    except FileNotFoundError:
        raise UsageError(
            f"{folder}: found nothing there, expected a folder of images; check --input"
        ) from None
    except OSError as exc:
        raise UsageError(
            f"{folder}: found a folder that cannot be listed ({exc.strerror}), expected a readable "
            "one; check --input and its permissions"
        ) from exc
    labels = explain_label_files(
        path for path, found in zip(entries, skipped, strict=True) if found is None
    )
    images = [
        path
        for path, found in zip(entries, skipped, strict=True)
        if found is None and path not in labels
    ]
    left_out = {found.path: found for found in skipped if found is not None}
    left_out |= {path: SkippedFile(path, reason, is_labels=True) for path, reason in labels.items()}
    return images, [left_out[path] for path in entries if path in left_out]


def natural_key(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sort key of file names in natural order: ``a2`` before ``a10``."""
    parts = re.split(r"(\d+)", path.name.casefold())
    keys = [(int(part), "") if k % 2 else (-1, part) for k, part in enumerate(parts)]
    return keys, path.name


def _skipped(path: Path) -> SkippedFile | None:
    """Why an entry is not read; ``None`` for an image."""
    if path.name.startswith("."):
        return SkippedFile(path, "hidden file")
    if path.is_dir():
        return SkippedFile(path, "sub-folder: only the files of the input folder itself are read")
    if path.suffix.lower() in EXTENSIONS:
        if path.exists() and not path.is_file():
            return SkippedFile(path, "not a regular file")
        return None
    extension = path.suffix or "missing"
    found = _image_content(path)
    if found is None:
        return SkippedFile(path, f"not an image: extension {extension}")
    reason = (
        f"found {found} with the extension {extension}, expected one of {known}; rename it"
        if (known := " ".join(FORMATS[found].extensions if found in FORMATS else ()))
        else f"found {found}, expected {', '.join(sorted(FORMATS))}; convert it"
    )
    logger.warning("%s: skipped: %s", path.name, reason)
    return SkippedFile(path, reason)


def _image_content(path: Path) -> str | None:
    """The image format of a file by its content; ``None`` for all else."""
    try:
        with path.open("rb") as file:
            found = find_format(file.read(HEAD_BYTES))
    except OSError:
        return None
    return found if found in FORMATS or found in UNSUPPORTED_IMAGES else None


def open_image(path: Path, options: ReadOptions = _DEFAULTS) -> ImageSource:
    """Open an image file; it is then read by rows if its format allows (TIFF), else decoded here.

    The format is taken from the content. Whatever a user may want to know about the choice of
    planes, channels and colours is in ``warnings``.

    Args:
        path: the file.
        options: what to read of it.

    Returns:
        The source, to be closed by the caller.

    Raises:
        ImageReadError: if the file cannot be read as one 2-D image or lacks a channel.
    """
    path = Path(path)
    format_name = _format_of(path)
    with reading(path.name, f"{format_name} data"):
        return FORMATS[format_name].open(path, options, _mislabel_notes(path, format_name))


def _format_of(path: Path) -> str:
    """Format of a file by its content; raises ``ImageReadError`` for all that is no image."""
    expected = f"expected an image ({', '.join(sorted(FORMATS))})"
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageReadError(f"{path.name}: found no regular file, {expected}; remove it")
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as exc:
        raise ImageReadError(
            f"{path.name}: found a file that cannot be opened ({exc.strerror}), {expected}; "
            "check that it exists and may be read"
        ) from exc
    if not head:
        raise ImageReadError(
            f"{path.name}: found an empty file (0 bytes), {expected}; copy it again"
        )
    format_name = find_format(head)
    if format_name not in FORMATS:
        raise ImageReadError(
            f"{path.name}: found {format_name}, {expected}; convert it or remove it"
        )
    return format_name


def _mislabel_notes(path: Path, format_name: str) -> tuple[str, ...]:
    if EXTENSIONS.get(path.suffix.lower(), format_name) == format_name:
        return ()
    return (
        f"mislabelled: extension {path.suffix} but {format_name} content, read as {format_name}",
    )
