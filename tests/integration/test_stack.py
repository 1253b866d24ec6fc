"""How many functions lie between the command line and the network."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import tifffile
from fakes import FunctionBackend

import mediar_infer
from mediar_infer.segmenter import Segmenter

MAX_FUNCTIONS = 14
PACKAGE = Path(mediar_infer.__file__).parent
COMPREHENSIONS = {"<listcomp>", "<dictcomp>", "<setcomp>"}
"""Frames of their own in some versions of Python only."""


class StackRecorder(FunctionBackend):
    """A backend that notes which functions of the package called it."""

    def __init__(self):
        super().__init__(lambda inputs: inputs.clone())
        self.functions = []

    def start(self, inputs):
        frames = reversed(inspect.stack(context=0))
        self.functions = [
            frame.frame.f_code.co_qualname
            for frame in frames
            if PACKAGE in Path(frame.filename).parents and frame.function not in COMPREHENSIONS
        ]
        return super().start(inputs)


@pytest.fixture
def functions(predict, tmp_path, monkeypatch):
    """Functions on the stack when the network starts, the command line first."""
    recorder = StackRecorder()
    monkeypatch.setattr(
        Segmenter,
        "from_pending",
        lambda loading: Segmenter([recorder], loading.config, {"fake": "0" * 64}),
    )
    (tmp_path / "in").mkdir()
    pixels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    tifffile.imwrite(tmp_path / "in" / "cells.tif", pixels)
    assert predict(tmp_path / "in", tmp_path / "out") == 0
    return [*recorder.functions, "Backend.start"]


def test_network_is_at_most_fourteen_functions_away_from_the_command_line(functions):
    assert functions[0] == "main"
    assert len(functions) <= MAX_FUNCTIONS, " → ".join(functions)


def test_labels_are_written_while_the_network_runs(functions):
    # The writer pulls: labels, maps and windows are made as the file asks for its rows.
    assert "write_labels" in functions
