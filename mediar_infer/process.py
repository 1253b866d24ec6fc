"""How this process holds memory on the host."""

import ctypes
import sys
from collections.abc import Mapping
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_MMAP_MAX: Final = -4
_LARGE_BYTES: Final = 1 << 20
_NEVER: Final = -1


def return_large_blocks() -> None:
    """Let freed arrays of a megabyte or more go back to the system at once, on Linux.

    glibc learns from large arrays that come and go to keep up to 32 MB of them in its heap, where
    they are cut up by what is allocated between them: a slide's bands then take up to twice the
    memory that they need. A command of its own may change this; a library must not.
    """
    _set_options({_M_MMAP_THRESHOLD: _LARGE_BYTES})


def keep_large_blocks() -> None:
    """Let freed arrays stay in the process for the next ones, whatever their size, on Linux.

    A training step allocates the arrays of the step before: taken from the system anew, their pages
    are zeroed and mapped one by one, which is a sixth to a quarter of the step's time on a CPU.
    """
    _set_options({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _NEVER})


def _set_options(options: Mapping[int, int]) -> None:
    if not sys.platform.startswith("linux"):
        return
    try:
        for option, value in options.items():
            ctypes.CDLL(None).mallopt(option, value)
    except (OSError, AttributeError):
        return  # another C library
