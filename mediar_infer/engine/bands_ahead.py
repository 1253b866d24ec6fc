"""Bands of maps that an accelerator predicts while labels are made from earlier bands."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Condition

from mediar_infer.arrays import Float32Array
from mediar_infer.image_trace import Trace

MAX_WAITING_BYTES = 128 * 2**20
"""Limit for bands that wait to be labelled; a single band is accepted whatever its size."""


class BandsAhead:
    """An iterator that runs in a thread of its own, some bands ahead of its consumer.

    Args:
        bands: the iterator to run; its errors are raised where the bands are taken.
        pool: the thread; iterators that share it run one after the other.
        trace: gains the stage ``wait``: the time that the consumer waits for a band.
    """

    def __init__(
        self, bands: Iterator[Float32Array], pool: ThreadPoolExecutor, trace: Trace
    ) -> None:
        self._trace = trace
        self._changed = Condition()
        self._waiting: deque[Float32Array] = deque()
        self._n_bytes = 0
        self._is_closed = False
        self._run = pool.submit(self._take_all, bands)
        self._run.add_done_callback(self._wake)

    def __iter__(self) -> Iterator[Float32Array]:
        """Yield the bands in their order."""
        while (band := self._next()) is not None:
            yield band

    def _next(self) -> Float32Array | None:
        with self._trace.stage("wait"), self._changed:
            self._changed.wait_for(lambda: self._waiting or self._run.done())
            if not self._waiting:
                self._run.result()  # raises what went wrong
                return None
            band = self._waiting.popleft()
            self._n_bytes -= band.nbytes
            self._changed.notify_all()
            return band

    def _take_all(self, bands: Iterator[Float32Array]) -> None:
        for band in bands:
            with self._changed:
                while not self._has_room(band.nbytes):
                    self._changed.wait()
                if self._is_closed:
                    return
                self._waiting.append(band)
                self._n_bytes += band.nbytes
                self._changed.notify_all()

    def _has_room(self, n_bytes: int) -> bool:
        is_empty = not self._waiting
        return self._is_closed or is_empty or self._n_bytes + n_bytes <= MAX_WAITING_BYTES

    def _wake(self, _: object) -> None:
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Stop the iterator, and wait for the band in progress."""
        if self._run.cancel():
            return
        with self._changed:
            self._is_closed = True
            self._waiting.clear()
            self._changed.notify_all()
        wait([self._run])
