"""Small result files that exist only when they are complete."""

import os
from pathlib import Path

from mediar_infer.errors import OutputError


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file at once: under a temporary name in the same folder, synced, then renamed.

    Args:
        path: file to make or replace; its folder is made if need be.
        data: the whole content.

    Raises:
        OutputError: if the folder cannot be written or is full; no partial file is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise to_output_error(path, error) from error


def to_output_error(path: Path, error: OSError) -> OutputError:
    """Say which file could not be written, why, and what to do."""
    return OutputError(
        f"{path}: cannot be written ({error.strerror or error}); expected a writable folder with "
        "free space; free some space or choose another output folder"
    )
