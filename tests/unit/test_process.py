"""Memory that is freed leaves the process, or stays in it, as a command wants."""

import subprocess
import sys

import pytest

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
