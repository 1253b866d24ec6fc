"""Errors of reading: what is wrong with a file, said with its name and a remedy."""

from collections.abc import Iterator
from contextlib import contextmanager

from mediar_infer.errors import ImageReadError, MediarError

_MAX_DETAIL = 300
"""Longest message of a library that is passed on; some quote the file."""


class DamagedFile(Exception):
    """What is wrong with the bytes of a file; its reader adds the name."""


@contextmanager
def reading(name: str, what: str) -> Iterator[None]:
    """Turn whatever a library raises on the bytes of a file into an ``ImageReadError``.

    The decoders have no common base class and raise nearly everything on damaged bytes, so every
    reader runs inside this one block. Errors of this package pass unchanged.

    Args:
        name: file name, for messages.
        what: what is being read, such as ``"TIFF structure"``.

    Raises:
        ImageReadError: for every other error.
    """
    try:
        yield
    except MediarError:
        raise
    except DamagedFile as exc:
        raise damaged(name, what, str(exc)) from exc
    except MemoryError as exc:
        raise ImageReadError(
            f"{name}: found {what} that needs more memory than there is, expected an image that"
            " fits; save it as tiled TIFF, or use a machine with more memory"
        ) from exc
    except OSError as exc:
        detail = exc.strerror or str(exc)
        raise ImageReadError(
            f"{name}: {what} cannot be read ({_shortened(detail)}), expected a readable, complete"
            " file; copy or export it again"
        ) from exc
    except Exception as exc:
        raise damaged(name, what, f"{type(exc).__name__}: {exc}") from exc


def damaged(name: str, what: str, detail: str) -> ImageReadError:
    """The error for bytes that are not what the format asks for.

    Args:
        name: file name.
        what: the part that was read, such as ``"PNG data"``.
        detail: what is wrong with it.

    Returns:
        The error, to be raised by the caller.
    """
    return ImageReadError(
        f"{name}: found truncated, damaged or unsupported {what} ({_shortened(detail)}), expected a"
        " complete file; copy or export it again"
    )


def _shortened(detail: str) -> str:
    text = " ".join(detail.split())
    return text if len(text) <= _MAX_DETAIL else f"{text[:_MAX_DETAIL]} …"
