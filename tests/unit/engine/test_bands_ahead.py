"""Bands that are predicted ahead arrive in order, within their room, and end on either side."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mediar_infer.engine import bands_ahead
from mediar_infer.engine.bands_ahead import BandsAhead
from mediar_infer.image_trace import Trace

LIMIT_S = 20


@pytest.fixture
def pool():
    with ThreadPoolExecutor(1) as pool:
        yield pool


def band(top, rows=2):
    return np.full((3, rows, 4), top, dtype=np.float32)


def tops_of(bands):
    return [band[0, 0, 0] for band in bands]


def test_bands_arrive_in_their_order(pool):
    assert tops_of(BandsAhead((band(top) for top in range(9)), pool, Trace())) == list(range(9))


def test_no_bands_at_all_is_an_end(pool):
    assert tops_of(BandsAhead(iter(()), pool, Trace())) == []


def test_iterators_of_one_thread_run_one_after_the_other(pool):
    seen = []

    def noted(name):
        for top in range(3):
            seen.append(name)
            yield band(top)

    first, second = BandsAhead(noted("a"), pool, Trace()), BandsAhead(noted("b"), pool, Trace())
    assert tops_of(second) == tops_of(first) == [0, 1, 2]
    assert seen == list("aaabbb")


def test_errors_are_raised_behind_the_bands_before_them(pool):
    def broken():
        yield band(0)
        raise MemoryError("full")

    bands = iter(BandsAhead(broken(), pool, Trace()))
    assert next(bands)[0, 0, 0] == 0
    with pytest.raises(MemoryError, match="full"):
        next(bands)


@pytest.mark.parametrize(("room", "n_ahead"), [(0, 1), (1, 1), (2, 2), (3, 3)])
def test_as_many_bands_wait_as_there_is_room_for(pool, monkeypatch, room, n_ahead):
    monkeypatch.setattr(bands_ahead, "MAX_WAITING_BYTES", room * band(0).nbytes)
    made, reached = [], threading.Event()

    def noted():
        for top in range(8):
            made.append(top)
            if top == n_ahead:  # this one is made, and waits for room
                reached.set()
            yield band(top)

    bands = BandsAhead(noted(), pool, Trace())
    assert reached.wait(LIMIT_S)
    assert made == list(range(n_ahead + 1))
    assert tops_of(bands) == list(range(8))


def test_closing_frees_the_thread_that_waits_for_room(pool, monkeypatch):
    monkeypatch.setattr(bands_ahead, "MAX_WAITING_BYTES", 0)
    bands = BandsAhead((band(top) for top in range(8)), pool, Trace())
    assert next(iter(bands))[0, 0, 0] == 0
    bands.close()
    bands.close()
    assert pool.submit(lambda: "free").result(LIMIT_S) == "free"


def test_closing_what_was_not_begun_drops_it(pool, monkeypatch):
    monkeypatch.setattr(bands_ahead, "MAX_WAITING_BYTES", 0)
    begun = []
    first = BandsAhead((band(top) for top in range(8)), pool, Trace())
    second = BandsAhead((begun.append(top) or band(top) for top in range(8)), pool, Trace())
    second.close()
    first.close()
    pool.submit(lambda: None).result(LIMIT_S)
    assert begun == []
