"""How this process holds memory on the host."""

import ctypes
import sys
from typing import Final

_M_MMAP_THRESHOLD: Final = -3
_LARGE_BYTES: Final = 1 << 20


def return_large_blocks() -> None:
    """Let freed arrays of a megabyte or more go back to the system at once, on Linux.

    glibc learns from large arrays that come and go to keep up to 32 MB of them in its heap, where
    they are cut up by what is allocated between them: a slide's bands then take up to twice the
    memory that they need. A command of its own may change this; a library must not.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
    except (OSError, AttributeError):
        return  # another C library
