"""TIFF files opened safely: their chain of pages ends."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tifffile

from mediar_infer.images.faults import DamagedFile, reading


@contextmanager
def tiff_file(path: Path, what: str) -> Iterator[tifffile.TiffFile]:
    """Open a file for reading; errors of tifffile in the block become ``ImageReadError``.

    Args:
        path: the file.
        what: what is read from it, for messages.

    Raises:
        ImageReadError: for every error in the block that is not one of this package.
    """
    with reading(path.name, what), tifffile.TiffFile(path, _multifile=False) as tif:
        check_directories(tif)
        yield tif


def check_directories(tif: tifffile.TiffFile) -> None:
    """Check that the chain of pages has an end: tifffile follows an endless one for ever.

    Args:
        tif: an open file, whose position changes.

    Raises:
        DamagedFile: if a page is its own successor, or that of one before it.
    """
    form, file = tif.tiff, tif.filehandle
    seen: set[int] = set()
    position = tif.pages.first.offset
    while position:
        if position in seen:
            raise DamagedFile(f"the chain of pages returns to byte {position:,}")
        seen.add(position)
        try:
            file.seek(position)
            (n_tags,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
            file.seek(position + form.tagnosize + n_tags * form.tagsize)
            (position,) = struct.unpack(form.offsetformat, file.read(form.offsetsize))
        except (struct.error, OSError):
            return  # tifffile ends the chain here too
