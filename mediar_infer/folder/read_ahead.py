"""The next image of a folder, made ready while the one before is still at work."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from mediar_infer.images.sources import ImageSource
from mediar_infer.segmenter import Prepared
from mediar_infer.stopwatch import Stopwatch


@dataclass(frozen=True, slots=True)
class ReadyImage:
    """An image that is open, and what was found out about it."""

    source: ImageSource
    """The open file."""
    prepared: Prepared
    """What its labels begin with."""

    def close(self) -> None:
        """End what was begun and close the file."""
        self.prepared.close()
        self.source.close()


class ReadAhead:
    """Makes one image ready in a thread of its own.

    What cannot be made ready, for whatever reason, is not: its error is found again when its turn
    comes.

    Args:
        read: opens an image and prepares it; adds the time of each stage.
    """

    def __init__(self, read: Callable[[Path, Stopwatch], ReadyImage]) -> None:
        self._read = read
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="read")
        self._next: tuple[Path, Stopwatch, Future[ReadyImage]] | None = None

    def begin(self, path: Path) -> None:
        """Begin to read the image that is to be taken next."""
        stopwatch = Stopwatch()
        self._next = path, stopwatch, self._pool.submit(self._read, path, stopwatch)

    def take(self, path: Path) -> tuple[ReadyImage | None, Stopwatch]:
        """Wait for an image that was begun.

        Returns:
            The image, to be closed by the caller, and its stages so far; None if it is not ready.
        """
        if self._next is None or self._next[0] != path:
            return None, Stopwatch()
        _, stopwatch, reading = self._next
        failed = reading.exception() is not None
        self._next = None
        return (None, Stopwatch()) if failed else (reading.result(), stopwatch)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        if self._next is None:
            return
        _, _, reading = self._next
        if not reading.cancelled() and reading.exception() is None:
            reading.result().close()
