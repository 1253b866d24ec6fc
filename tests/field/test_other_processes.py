"""What happens in a forked process, or on the way to another one: results or errors, no hang."""

import os
import pickle
import signal

import numpy as np
import pytest
from fakes import FunctionBackend, draw_cells, maps_of_labels

from mediar_infer.config import EngineConfig
from mediar_infer.errors import UsageError
from mediar_infer.labels.kernels import Frame
from mediar_infer.labels.kernels.compiled import CompiledKernels, load_library
from mediar_infer.segmenter import Segmenter

LIMIT_S = 60


def make_segmenter():
    return Segmenter([FunctionBackend(lambda inputs: inputs.clone())], EngineConfig(roi_size=64))


def in_forked_child(function):
    """What a function returns or raises in a child of this process, as text."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(LIMIT_S)
        try:
            text = repr(function())
        except UsageError as error:
            text = str(error)
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, "the child did not end by itself"
    return text


def test_use_in_a_forked_process_says_how_to_start_workers():
    segmenter = make_segmenter()
    text = in_forked_child(lambda: segmenter.segment(np.ones((9, 9), np.uint8)))
    assert text.startswith("found a process that was forked from one with a Segmenter, expected")
    assert "'spawn'" in text
    assert segmenter.segment(np.ones((9, 9), np.uint8)).n_cells == 0


def test_models_are_not_built_in_a_process_forked_from_one_that_has_them(weights_dir):
    make_segmenter()
    text = in_forked_child(lambda: Segmenter.from_weights(weights_dir))
    assert text.startswith("found a process that was forked from one with a Segmenter")


def test_pickling_says_that_each_process_loads_its_own():
    with pytest.raises(UsageError, match=r"one per process; call Segmenter\.from_weights in the"):
        pickle.dumps(make_segmenter())


def test_labels_are_made_in_a_process_forked_from_one_that_made_some(rng):
    library = load_library()
    if library is None:
        pytest.skip("the package was installed without a C compiler")
    kernels = CompiledKernels(library, n_threads=2)
    maps = maps_of_labels(draw_cells(rng, 200, 200))

    def follow():
        ends, n_tracked = kernels.track(maps[:2].copy(), maps[2] > 0, Frame(0, 0, 200, 200))
        return int(ends.sum()), n_tracked

    expected = repr(follow())
    assert in_forked_child(follow) == expected
    assert repr(follow()) == expected
