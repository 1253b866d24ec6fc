"""What tells the content of one image file from that of another, without a look at its pixels."""

import hashlib
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

WHOLE_BYTES: Final = 64 * 2**20
"""Larger files are read in places only: a folder of slides would take hours."""
_PLACES: Final = 64
_FILES: Final = 256
"""So many files of a folder that is an image are read, spread over all."""


def count_bytes(path: Path) -> int:
    """Size of an image file; of a folder that is an image, of all files in it.

    Raises:
        OSError: if it does not exist.
    """
    return sum(size for _, size in _list_files(path))


def compute_fingerprint(path: Path) -> str:
    """Digest of the content of an image file; of a folder that is an image, of its files.

    Files of up to ``WHOLE_BYTES`` count byte by byte. Of larger ones as many bytes count, at
    places spread evenly over the file; of folders the names and sizes of all files, and the content
    of ``_FILES`` of them.

    Args:
        path: the file.

    Returns:
        32 hexadecimal digits (BLAKE2b).

    Raises:
        OSError: if it does not exist or cannot be read.
    """
    status = path.stat()
    return _compute(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=16)
def _compute(path: Path, _changed_ns: int, _size: int) -> str:
    """The same, once for all scenes of a file."""
    digest = hashlib.blake2b(digest_size=16)
    files = list(_list_files(path))
    for file, size in files:
        name = "" if file == path else file.relative_to(path).as_posix()
        digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
    read = files if len(files) <= _FILES else files[:: -(-len(files) // _FILES)]
    most = max(WHOLE_BYTES // max(len(read), 1), 1)
    for file, size in read:
        for block in _read_places(file, size, most):
            digest.update(block)
    return digest.hexdigest()


def _list_files(path: Path) -> Iterator[tuple[Path, int]]:
    """An image's files, in one order on every machine, and their sizes."""
    if not path.is_dir():
        yield path, path.stat().st_size
        return
    for file in sorted(path.rglob("*"), key=os.fsencode):
        if file.is_file():
            yield file, file.stat().st_size


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
