"""A few hundred damaged files of every kind: each is read or refused in the package's words."""

import pytest
from fuzz_run import MEMORY_BYTES, TARGETS, run_process

COUNTS = {"images": 500, "tags": 500, "labels": 200, "weights": 100, "recipes": 100, "inputs": 200}


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_files_end_as_images_or_as_errors_of_the_package(tmp_path, target):
    found = run_process(target, 0, 0, COUNTS[target], tmp_path)
    assert found["foreign"] == []
    assert found["crashes"] == []
    assert found["read"] + found["refused"] == COUNTS[target]
    assert found["read"] > 0
    assert found["refused"] > 0
    assert found["peak_bytes"] < MEMORY_BYTES
