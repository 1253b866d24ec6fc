"""Digests of image and label files, by which a later run sees that they changed."""

import hashlib
from pathlib import Path

from mediar_infer.errors import ImageReadError


def digest_file(path: Path) -> str:
    """SHA-256 of the bytes of an image or label file, in hexadecimal.

    Raises:
        ImageReadError: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageReadError(
            f"{path}: found a file that cannot be read ({error.strerror}), expected one of the data"
            " table; check that it exists, or rebuild the table with 'index'"
        ) from error
