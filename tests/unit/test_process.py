"""When the process started, what it has used, and whether freed memory leaves it."""

import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mediar_infer import process

SCRIPT = """
import numpy as np
from mediar_infer.process import return_large_blocks
def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
return_large_blocks()
before = resident()
kept = []
for _ in range(20):
    large = [np.ones(20 << 20, np.uint8) for _ in range(4)]
    kept.append(np.ones(1 << 10))
    del large
print(resident() - before)
"""


KEEPING = """
import resource
import numpy as np
from mediar_infer.process import keep_large_blocks
keep_large_blocks()
def use():
    large = [np.ones(40 << 20, np.uint8) for _ in range(4)]
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_large_arrays_go_back_to_the_system():
    output = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True)
    assert int(output.stdout) < 20_000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_large_arrays_stay_for_the_next_ones():
    output = subprocess.run([sys.executable, "-c", KEEPING], capture_output=True, check=True)
    assert int(output.stdout) < 2_000  # pages; 20,000 and more otherwise


def test_process_start_lies_before_imports():
    code = "import time; time.sleep(0.3); from mediar_infer import process as b; "
    code += "print(time.perf_counter() - b.process_start_s())"
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.3 <= float(done.stdout) <= time.perf_counter() - begin + 0.05


def test_process_start_falls_back_to_the_import(monkeypatch):
    monkeypatch.setattr(process.sys, "platform", "darwin")
    assert process.process_start_s.__wrapped__() <= time.perf_counter()


def test_process_start_is_always_the_same():
    assert process.process_start_s() == process.process_start_s()


def test_peak_memory_keeps_what_was_given_back():
    code = "from mediar_infer.process import peak_memory_bytes as peak; print(peak()['host']); "
    code += "block = bytes(1) * 300_000_000; del block; print(peak()['host'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    # A fresh interpreter: nothing of the test run's own peak.
    assert 5_000_000 < before < 200_000_000
    assert 290_000_000 < after - before < 400_000_000


def test_peak_memory_of_the_accelerator_is_reported_when_given():
    assert set(process.peak_memory_bytes()) == {"host"}
    assert process.peak_memory_bytes(7)["gpu"] == 7


def test_pools_of_the_package_are_not_busy_when_their_work_is_done(monkeypatch):
    started_before = set(threading.enumerate()) - {threading.current_thread()}
    enumerate_all = threading.enumerate
    monkeypatch.setattr(
        threading, "enumerate", lambda: [t for t in enumerate_all() if t not in started_before]
    )
    assert not process.has_busy_threads()
    with ThreadPoolExecutor(1, thread_name_prefix=process.POOL_PREFIX + "x") as pool:
        pool.submit(int).result()
        assert not process.has_busy_threads()
        with ThreadPoolExecutor(1) as other:
            other.submit(int).result()
            assert process.has_busy_threads()


def test_objects_are_kept_only_in_a_process_that_ends_without_freeing():
    unfreed, kept = process.Unfreed(), []
    for is_on in (False, True):
        value = np.zeros(1)
        kept.append(weakref.ref(value))
        if is_on:
            unfreed.turn_on()
        unfreed.keep(value)
        del value
    assert [each() is None for each in kept] == [True, False]
    unfreed.free()
    unfreed.keep(kept_no_more := np.zeros(1))
    assert sys.getrefcount(kept_no_more) == 2
    assert kept[1]() is None
