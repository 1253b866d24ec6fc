"""Stages and warnings of an image."""

import threading

import pytest
from fakes import Clock

from mediar_infer.image_trace import Trace


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def trace(clock):
    return Trace(clock=clock)


def test_inner_stage_is_not_counted_in_the_outer(trace, clock):
    with trace.stage("outer"):
        clock.pass_s(1)
        with trace.stage("inner"):
            clock.pass_s(10)
        clock.pass_s(2)
    clock.pass_s(100)
    assert trace.stages_s == {"outer": 3, "inner": 10}


def test_stage_within_itself_is_counted_once(trace, clock):
    with trace.stage("read"):
        clock.pass_s(1)
        with trace.stage("read"):
            clock.pass_s(2)
    assert trace.stages_s == {"read": 3}


def test_open_stage_counts_up_to_now(trace, clock):
    with trace.stage("network"):
        clock.pass_s(4)
        assert trace.stages_s == {"network": 4}
        clock.pass_s(1)
    assert trace.stages_s == {"network": 5}


def test_failing_stage_is_counted_and_closed(trace, clock):
    def fail():
        with trace.stage("read"):
            clock.pass_s(2)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    clock.pass_s(5)
    assert trace.stages_s == {"read": 2}


def test_stage_of_a_generator_is_exclusive_of_its_consumer(trace, clock):
    def bands():
        for _ in range(3):
            with trace.stage("network"):
                clock.pass_s(10)
            yield

    with trace.stage("write"):
        for _ in bands():
            clock.pass_s(1)
    assert trace.stages_s == {"write": 3, "network": 30}


def test_items_are_passed_on_and_only_making_them_counts(trace, clock):
    def bands():
        for top in range(3):
            clock.pass_s(10)
            yield top
        clock.pass_s(5)

    with trace.stage("write"):
        tops = []
        for top in trace.time_items("labels", bands()):
            clock.pass_s(1)
            tops.append(top)
    assert tops == [0, 1, 2]
    assert trace.stages_s == {"write": 3, "labels": 35}


def test_stage_held_open_across_a_yield_may_end_last(trace, clock):
    def bands():
        with trace.stage("network"):
            clock.pass_s(10)
            yield
            clock.pass_s(5)

    generator = bands()
    with trace.stage("write"):
        clock.pass_s(1)
        next(generator)
    clock.pass_s(2)
    next(generator, None)
    clock.pass_s(100)
    assert trace.stages_s == {"write": 1, "network": 17}


def test_generator_closed_by_another_thread_ends_its_stage(trace, clock):
    def bands():
        with trace.stage("network"):
            yield

    generator = bands()
    next(generator)
    clock.pass_s(3)
    closer = threading.Thread(target=generator.close)
    closer.start()
    closer.join()
    clock.pass_s(100)
    assert trace.stages_s == {"network": 3}


def test_threads_nest_apart_and_add_to_the_same_totals(trace, clock):
    entered, leave = threading.Event(), threading.Event()

    def work():
        with trace.stage("write"):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=work)
    with trace.stage("network"):
        thread.start()
        entered.wait(10)
        clock.pass_s(5)
        leave.set()
        thread.join()
    assert trace.stages_s == {"network": 5, "write": 5}


def test_many_threads_lose_no_time():
    ticks = iter(range(10**9))
    trace = Trace(clock=lambda: float(next(ticks)))

    def work():
        for _ in range(200):
            with trace.stage("stage"):
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Every block sees the clock move by one reading at least.
    assert trace.stages_s["stage"] >= 800


def test_wall_time_starts_with_the_trace(clock):
    clock.pass_s(3)
    trace = Trace(clock=clock)
    clock.pass_s(4)
    assert trace.now() - trace.started_s == 4


def test_warnings_are_kept_in_order_and_not_repeated():
    trace = Trace(["from the file"])
    trace.warn("device memory is full", "from the file")
    trace.warn()
    trace.warn("device memory is full")
    assert trace.warnings == ("from the file", "device memory is full")
