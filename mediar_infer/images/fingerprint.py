"""What tells the content of one image file from that of another, without a look at its pixels."""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

WHOLE_BYTES: Final = 64 * 2**20
"""Larger files are read in places only: a folder of slides would take hours."""
_PLACES: Final = 64
_FILES: Final = 256
"""So many files of a folder that is an image are read, spread over all."""
_VMS_FILE: Final = re.compile(
    rb"^\s*(?:\w*File|MacroImage)(?:\([0-9, ]*\))?\s*=\s*(?P<name>[^\r\n]+?)\s*$", re.MULTILINE
)
"""Lines of a VMS slide that name its other files."""
_VMS_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True)
class FileState:
    """An image file as it lies on the disk at one time; equal as long as nobody changes it."""

    path: Path
    """The file that stands for the image."""
    n_bytes: int
    """Size of the image, with all files that hold its pixels."""
    stamp: str
    """Digest of places, sizes and times of these files, but not of their content."""


def read_state(path: Path) -> FileState:
    """Look at the files of an image, without reading them.

    Args:
        path: the file, or the folder that is an image; of slides in several files the one that
            stands for them.

    Raises:
        OSError: if it does not exist.
    """
    digest, n_bytes = hashlib.blake2b(digest_size=16), 0
    for name, file in _list_files(path):
        status = file.stat()
        n_bytes += status.st_size
        facts = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
        digest.update(f"{name}\0{facts}\0".encode(errors="surrogateescape"))
    return FileState(path, n_bytes, digest.hexdigest())


# The same for all scenes of a file.
@lru_cache(maxsize=16)
def compute_fingerprint(state: FileState) -> str:
    """Digest of the content of an image: of its file, or of all files that hold its pixels.

    Files of up to ``WHOLE_BYTES`` count byte by byte. Of larger ones as many bytes count, at
    places spread evenly over the file; of several the names and sizes of all, and the content of
    ``_FILES`` of them.

    Args:
        state: the image as it lies on the disk.

    Returns:
        32 hexadecimal digits (BLAKE2b).

    Raises:
        OSError: if it does not exist or cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    files = [(name, file, file.stat().st_size) for name, file in _list_files(state.path)]
    for name, _, size in files:
        digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
    read = files if len(files) <= _FILES else files[:: -(-len(files) // _FILES)]
    most = max(WHOLE_BYTES // max(len(read), 1), 1)
    for _, file, size in read:
        for block in _read_places(file, size, most):
            digest.update(block)
    return digest.hexdigest()


def _list_files(path: Path) -> Iterator[tuple[str, Path]]:
    """An image's files, in one order on every machine; each with its name in the image."""
    if path.is_dir():
        # Labels in an OME-Zarr are no part of its image: an export may have put them there.
        files = _list_folder(path)
        yield from ((name, file) for name, file in files if not name.startswith("labels/"))
        return
    yield "", path
    match path.suffix.lower():
        case ".mrxs":
            yield from _list_folder(path.with_suffix(""))
        case ".vms":
            yield from _list_named(path)
        case ".dcm":
            # OpenSlide opens those of the same series; their names do not tell which.
            beside = (file for file in path.parent.iterdir() if file.suffix.lower() == ".dcm")
            for file in sorted(beside, key=os.fsencode):
                if file.name != path.name and file.is_file():
                    yield file.name, file


def _list_folder(folder: Path) -> Iterator[tuple[str, Path]]:
    for file in sorted(folder.rglob("*"), key=os.fsencode):
        if file.is_file():
            yield file.relative_to(folder).as_posix(), file


def _list_named(path: Path) -> Iterator[tuple[str, Path]]:
    """Files beside a VMS slide that its text names."""
    with path.open("rb") as file:
        found = _VMS_FILE.finditer(file.read(_VMS_BYTES))
    for name in sorted({os.fsdecode(match["name"]) for match in found}):
        beside = path.parent / name
        if os.path.isfile(beside):  # noqa: PTH113 (no error for what is no name)
            yield name, beside


def _read_places(path: Path, size: int, most: int) -> Iterator[bytes]:
    """Read a whole file, or so many bytes of it: beginning, end, and places between."""
    with path.open("rb") as file:
        if size <= most:
            while block := file.read(1 << 20):
                yield block
            return
        length = max(most // _PLACES, 1)
        for place in range(_PLACES):
            file.seek((size - length) * place // (_PLACES - 1))
            yield file.read(length)
