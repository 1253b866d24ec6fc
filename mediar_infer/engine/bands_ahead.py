"""Bands of maps that an accelerator predicts while the labels of earlier ones are made."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Condition

from mediar_infer.engine.bands import MapBand

MAX_WAITING_BYTES = 128 * 2**20
"""Room for bands that wait to be labelled; one is let in however large it is."""


class BandsAhead:
    """An iterator that runs in a thread of its own, some bands ahead of who takes them.

    Args:
        bands: what is run; its errors are raised where the bands are taken.
        pool: the thread; iterators that share it run one after the other.
    """

    def __init__(self, bands: Iterator[MapBand], pool: ThreadPoolExecutor) -> None:
        self._changed = Condition()
        self._waiting: deque[MapBand] = deque()
        self._n_bytes = 0
        self._is_closed = False
        self._run = pool.submit(self._take_all, bands)
        self._run.add_done_callback(self._wake)

    def __iter__(self) -> Iterator[MapBand]:
        """The bands in their order."""
        while (band := self._next()) is not None:
            yield band

    def _next(self) -> MapBand | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._run.done())
            if not self._waiting:
                self._run.result()  # raises what went wrong
                return None
            band = self._waiting.popleft()
            self._n_bytes -= band.maps.nbytes
            self._changed.notify_all()
            return band

    def _take_all(self, bands: Iterator[MapBand]) -> None:
        for band in bands:
            with self._changed:
                while not self._has_room(band.maps.nbytes):
                    self._changed.wait()
                if self._is_closed:
                    return
                self._waiting.append(band)
                self._n_bytes += band.maps.nbytes
                self._changed.notify_all()

    def _has_room(self, n_bytes: int) -> bool:
        is_empty = not self._waiting
        return self._is_closed or is_empty or self._n_bytes + n_bytes <= MAX_WAITING_BYTES

    def _wake(self, _: object) -> None:
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Take no more, and wait until the thread has done with the band that it is at."""
        if self._run.cancel():
            return
        with self._changed:
            self._is_closed = True
            self._waiting.clear()
            self._changed.notify_all()
        wait([self._run])
