"""Input files: which ones a folder holds, and how each is opened as a readable source."""

import re
import stat
from dataclasses import dataclass
from pathlib import Path

from mediar_infer.errors import ImageReadError, UsageError
from mediar_infer.images.mha import open_meta_image
from mediar_infer.images.raster import HEAD_BYTES, READABLE, decode, find_format, read_header
from mediar_infer.images.sources import (
    ArraySource,
    ImageSource,
    check_n_pixels,
    choose_plane,
)
from mediar_infer.images.tiff_source import TiffSource

MAX_PIXELS = 2**34
"""Default limit of height × width for TIFF, which is read by rows: 131,072 × 131,072."""
MAX_DECODED_PIXELS = 10**9
"""Default limit of pixels decoded at once: whole files other than TIFF, one TIFF strip."""

_FORMATS = {
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".btf": "TIFF",
    ".tf2": "TIFF",
    ".tf8": "TIFF",
    ".svs": "TIFF",
    ".ndpi": "TIFF",
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".bmp": "BMP",
    ".jp2": "JPEG 2000",
    ".j2k": "JPEG 2000",
    ".mha": "MHA",
}
"""Expected format of every extension that counts as an image."""


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """An entry of the input folder that is not read."""

    path: Path
    """Where it is."""
    reason: str
    """Why it is skipped, for the ledger."""


def list_images(folder: Path) -> tuple[list[Path], list[SkippedFile]]:
    """List the images of a folder.

    Args:
        folder: folder whose files are listed, without sub-folders; or one file, which is
            returned alone whatever its extension.

    Returns:
        Image files in natural order (``a2`` before ``a10``), and everything else with the
        reason for skipping it. Unreadable files and broken links with an image extension count
        as images, so that they end as errors and not in silence.

    Raises:
        UsageError: if the folder does not exist or cannot be listed.
    """
    try:
        if folder.is_file():
            return [folder], []
        entries = sorted(folder.iterdir(), key=_natural_key)
        reasons = [_reason_to_skip(path) for path in entries]
    except FileNotFoundError:
        raise UsageError(
            f"{folder}: found nothing there, expected a folder of images; check --input"
        ) from None
    except OSError as exc:
        raise UsageError(
            f"{folder}: found a folder that cannot be listed ({exc.strerror}), expected a readable "
            "one; check --input and its permissions"
        ) from exc
    images: list[Path] = []
    skipped: list[SkippedFile] = []
    for path, reason in zip(entries, reasons, strict=True):
        if reason is None:
            images.append(path)
        else:
            skipped.append(SkippedFile(path, reason))
    return images, skipped


def _natural_key(path: Path) -> tuple[list[tuple[int, str]], str]:
    parts = re.split(r"(\d+)", path.name.casefold())
    keys = [(int(part), "") if k % 2 else (-1, part) for k, part in enumerate(parts)]
    return keys, path.name


def _reason_to_skip(path: Path) -> str | None:
    if path.name.startswith("."):
        return "hidden file"
    if path.is_dir():
        return "sub-folder: only the files of the input folder itself are read"
    if path.suffix.lower() not in _FORMATS:
        return f"not an image: extension {path.suffix or 'missing'}"
    if path.exists() and not path.is_file():
        return "not a regular file"
    return None


def open_image(
    path: Path, *, plane: int | None = None, max_pixels: int | None = None
) -> ImageSource:
    """Open an image file; TIFF is then read lazily, other formats are decoded here.

    The format is taken from the content. Palettes become RGB, EXIF orientations are applied,
    opacity is dropped; whatever a user may want to know about that is in ``warnings``.

    Args:
        path: the file.
        plane: for stacks: index along the flattened axes that are not Y, X or channels, from 0.
        max_pixels: largest accepted height × width, also for what must be decoded at once;
            ``None`` means ``MAX_PIXELS`` and ``MAX_DECODED_PIXELS``.

    Returns:
        The source, to be closed by the caller.

    Raises:
        ImageReadError: if the file cannot be read as one 2-D image.
    """
    path = Path(path)
    if plane is not None and plane < 0:
        raise UsageError(f"found --plane {plane}, expected 0 or more")
    max_decoded_pixels = MAX_DECODED_PIXELS if max_pixels is None else max_pixels
    format_name = _format_of(path)
    notes = _mislabel_notes(path, format_name)
    if format_name == "TIFF":
        source: ImageSource = TiffSource(
            path,
            plane=plane,
            max_pixels=MAX_PIXELS if max_pixels is None else max_pixels,
            max_decoded_pixels=max_decoded_pixels,
        )
        source.warnings[:0] = notes
        return source
    if format_name == "MHA":
        return open_meta_image(path, plane=plane, max_pixels=max_decoded_pixels, notes=notes)
    notes += choose_plane(path.name, "", 1, plane)[1]
    return _decode_raster(path, format_name, notes, max_decoded_pixels)


def _format_of(path: Path) -> str:
    """Format of a file by its content; raises ``ImageReadError`` for all that is no image."""
    expected = f"expected an image ({', '.join(sorted(READABLE))})"
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
    if format_name not in READABLE:
        raise ImageReadError(
            f"{path.name}: found {format_name}, {expected}; convert it or remove it"
        )
    return format_name


def _mislabel_notes(path: Path, format_name: str) -> list[str]:
    expected = _FORMATS.get(path.suffix.lower(), format_name)
    if expected == format_name:
        return []
    return [
        f"mislabelled: extension {path.suffix} but {format_name} content, read as {format_name}"
    ]


def _decode_raster(path: Path, format_name: str, notes: list[str], max_pixels: int) -> ArraySource:
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise ImageReadError(
            f"{path.name}: reading failed ({exc.strerror}), expected a readable file; copy it again"
        ) from exc
    header = read_header(path.name, format_name, data)
    check_n_pixels(path.name, header.height, header.width, max_pixels)
    if header.orientation != 1:
        notes.append(f"EXIF orientation {header.orientation} is applied")
    image = decode(path.name, format_name, data, header)
    return ArraySource(image, path.name, has_alpha=header.has_alpha, warnings=notes)
