"""Input folders: which of their files are images, and why the others are not read."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mediar_infer.errors import ImageReadError, UsageError
from mediar_infer.images.formats import (
    HEAD_BYTES,
    IMAGE_FORMATS,
    UNREAD_FORMATS,
    find_extension,
    find_format,
    is_folder_format,
    recognise_file,
)
from mediar_infer.images.label_names import SOFTWARE, explain_label_files, is_zarr_of_labels


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """An entry of the input folder that is not read."""

    path: Path
    """Where it is."""
    reason: str
    """Why it is skipped, for the ledger."""
    is_labels: bool = False
    """Whether it holds the labels of an image."""
    is_image: bool = False
    """Whether it holds an image, by its content."""
    is_folder: bool = False
    """Whether it is a folder, which may hold images."""


def list_images(folder: Path) -> tuple[list[Path], list[SkippedFile]]:
    """List the images of a folder.

    Args:
        folder: folder whose files are listed, without sub-folders; or one file, which is
            returned alone whatever its extension.

    Returns:
        Image files in natural order (``a2`` before ``a10``), and everything else with the
        reason for skipping it. Unreadable files, broken links and formats that are not read count
        as images by their extension, so that they end as errors and not in silence.

    Raises:
        UsageError: if the folder does not exist or cannot be listed.
    """
    try:
        if folder.is_file() or (folder.is_dir() and is_folder_format(folder)):
            return [folder], []
        entries = sorted(folder.iterdir(), key=natural_key)
        skipped = [_explain_entry(path) for path in entries]
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


def list_entries(folder: Path, expected: str) -> list[Path]:
    """List everything in a folder, in plain order.

    Args:
        folder: the folder.
        expected: what it should be, for the error.

    Raises:
        UsageError: if it does not exist or cannot be listed.
    """
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{folder}: found no folder, expected {expected}") from None
    except OSError as error:
        raise UsageError(
            f"{folder}: found a folder that cannot be listed ({error.strerror or error}), expected"
            f" {expected}; check its permissions"
        ) from error


def find_unreadable(images: Iterable[Path]) -> Mapping[Path, str] | None:
    """Find out in no time whether there is an image to read, without importing a reader.

    Args:
        images: image files.

    Returns:
        Image → why it cannot be read, if that is true of all; ``None`` if there is one to read.
    """
    errors = {}
    for path in images:
        try:
            recognise_file(path)
        except ImageReadError as error:
            errors[path] = str(error)
        else:
            return None
    return errors


def natural_key(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sort key of file names in natural order: ``a2`` before ``a10``."""
    parts = re.split(r"(\d+)", path.name.casefold())
    keys = [(int(part), "") if k % 2 else (-1, part) for k, part in enumerate(parts)]
    return keys, path.name


def _explain_entry(path: Path) -> SkippedFile | None:
    """Why an entry is not read; ``None`` for an image.

    What cannot be looked at is an image by its name alone, so that it ends as an error.
    """
    try:
        return _skipped(path)
    except OSError as error:  # a link into a folder of others, or to a name that is too long
        if find_extension(path) is not None:
            return None
        reason = error.strerror or error
        return SkippedFile(path, f"found a link that cannot be followed ({reason})")


def _skipped(path: Path) -> SkippedFile | None:
    """Why an entry is not read; ``None`` for an image.

    Raises:
        OSError: if it cannot be looked at.
    """
    if path.name.startswith("."):
        return SkippedFile(path, "hidden folder" if path.is_dir() else "hidden file")
    if path.is_dir():
        if is_folder_format(path):
            if is_zarr_of_labels(path):
                return SkippedFile(path, f"labels that {SOFTWARE} exported", is_labels=True)
            return None
        return SkippedFile(path, "sub-folder: searched with --recursive only", is_folder=True)
    # Before any of it is read: a pipe would keep its reader waiting.
    if path.exists() and not path.is_file():
        return SkippedFile(path, "not a regular file")
    if find_extension(path) is not None:
        return None
    extension = path.suffix or "missing"
    extensions = _extensions_by_content(path)
    if not extensions:
        return SkippedFile(path, f"not an image: extension {extension}")
    found, known = extensions
    reason = f"found {found} with the extension {extension}, expected one of {known}; rename it"
    return SkippedFile(path, reason, is_image=True)


def _extensions_by_content(path: Path) -> tuple[str, str] | None:
    """The image format of a file by its content, and its extensions; ``None`` for all else."""
    try:
        with path.open("rb") as file:
            found = find_format(file.read(HEAD_BYTES))
    except OSError:
        return None
    if found in UNREAD_FORMATS:
        return found, " ".join(UNREAD_FORMATS[found].extensions)
    return (found, " ".join(IMAGE_FORMATS[found])) if found in IMAGE_FORMATS else None
