import threading

import pytest
from fakes import Clock

from mediar_infer.stopwatch import Stopwatch


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def stopwatch(clock):
    return Stopwatch(clock)


def test_inner_stage_is_not_counted_in_the_outer(stopwatch, clock):
    with stopwatch("outer"):
        clock.pass_s(1)
        with stopwatch("inner"):
            clock.pass_s(10)
        clock.pass_s(2)
    clock.pass_s(100)
    assert stopwatch.seconds == {"outer": 3, "inner": 10}


def test_stage_within_itself_is_counted_once(stopwatch, clock):
    with stopwatch("read"):
        clock.pass_s(1)
        with stopwatch("read"):
            clock.pass_s(2)
    assert stopwatch.seconds == {"read": 3}


def test_open_stage_counts_up_to_now(stopwatch, clock):
    with stopwatch("network"):
        clock.pass_s(4)
        assert stopwatch.seconds == {"network": 4}
        clock.pass_s(1)
    assert stopwatch.seconds == {"network": 5}


def test_failing_stage_is_counted_and_closed(stopwatch, clock):
    def fail():
        with stopwatch("read"):
            clock.pass_s(2)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    clock.pass_s(5)
    assert stopwatch.seconds == {"read": 2}


def test_stage_of_a_generator_is_exclusive_of_its_consumer(stopwatch, clock):
    def bands():
        for _ in range(3):
            with stopwatch("network"):
                clock.pass_s(10)
            yield

    with stopwatch("write"):
        for _ in bands():
            clock.pass_s(1)
    assert stopwatch.seconds == {"write": 3, "network": 30}


def test_items_are_passed_on_and_only_making_them_counts(stopwatch, clock):
    def bands():
        for top in range(3):
            clock.pass_s(10)
            yield top
        clock.pass_s(5)

    with stopwatch("write"):
        tops = []
        for top in stopwatch.each("labels", bands()):
            clock.pass_s(1)
            tops.append(top)
    assert tops == [0, 1, 2]
    assert stopwatch.seconds == {"write": 3, "labels": 35}


def test_stage_held_open_across_a_yield_may_end_last(stopwatch, clock):
    def bands():
        with stopwatch("network"):
            clock.pass_s(10)
            yield
            clock.pass_s(5)

    generator = bands()
    with stopwatch("write"):
        clock.pass_s(1)
        next(generator)
    clock.pass_s(2)
    next(generator, None)
    clock.pass_s(100)
    assert stopwatch.seconds == {"write": 1, "network": 17}


def test_generator_closed_by_another_thread_ends_its_stage(stopwatch, clock):
    def bands():
        with stopwatch("network"):
            yield

    generator = bands()
    next(generator)
    clock.pass_s(3)
    closer = threading.Thread(target=generator.close)
    closer.start()
    closer.join()
    clock.pass_s(100)
    assert stopwatch.seconds == {"network": 3}


def test_threads_nest_apart_and_add_to_the_same_totals(stopwatch, clock):
    entered, leave = threading.Event(), threading.Event()

    def work():
        with stopwatch("write"):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=work)
    with stopwatch("network"):
        thread.start()
        entered.wait(10)
        clock.pass_s(5)
        leave.set()
        thread.join()
    assert stopwatch.seconds == {"network": 5, "write": 5}


def test_many_threads_lose_no_time():
    ticks = iter(range(10**9))
    stopwatch = Stopwatch(lambda: float(next(ticks)))

    def work():
        for _ in range(200):
            with stopwatch("stage"):
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Every block sees the clock move by one reading at least.
    assert stopwatch.seconds["stage"] >= 800
