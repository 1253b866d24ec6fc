"""The bytes of a file for readers of parts of it."""

import io
import os
import threading
from pathlib import Path

from mediar_infer.errors import ImageReadError


class FileBytes:
    """Exact reads from a file by several threads."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._file = io.FileIO(path)
        self._lock = threading.Lock()
        self.size = os.fstat(self._file.fileno()).st_size

    def read(self, offset: int, count: int) -> bytearray:
        """Read ``count`` bytes from ``offset``; a shorter file is an ``ImageReadError``."""
        self.check_range(offset, count)
        data = bytearray(count)
        view = memoryview(data)
        with self._lock:
            self._file.seek(offset)
            while view and (n_read := self._file.readinto(view)):
                view = view[n_read:]
        if view:
            raise self._truncated(offset + count - len(view), offset + count)
        return data

    def check_range(self, offset: int, count: int) -> None:
        """Raise ``ImageReadError`` if the bytes reach past the end of the file."""
        if offset + count > self.size:
            raise self._truncated(self.size, offset + count)

    def _truncated(self, found: int, expected: int) -> ImageReadError:
        return ImageReadError(
            f"{self.name}: found {found:,} bytes, expected at least {expected:,}: "
            "the file is truncated; copy or export it again"
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()
