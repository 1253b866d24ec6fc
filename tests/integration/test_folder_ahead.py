"""Images that are read, and by an accelerator predicted, ahead: the same results in the same order.

A fake network stands for the accelerator.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from fakes import FunctionBackend
from folder_helpers import names_of, read_ledger, slide, write_image
from slides import decode_scene

from mediar_infer.config import PLANS, EngineConfig
from mediar_infer.engine import bands_ahead
from mediar_infer.errors import OutputError
from mediar_infer.folder.ledger import Ledger
from mediar_infer.folder.options import RunOptions
from mediar_infer.folder.runner import run_folder
from mediar_infer.folder.selection import Selection
from mediar_infer.image_work import ImageWork
from mediar_infer.labels.reading import read_labels
from mediar_infer.segmenter import Segmenter

CONFIG = EngineConfig(plan=PLANS["single"], roi_size=64)


def decode_or_fail(inputs):
    logits = decode_scene(inputs)
    # A white corner, which no slide has, makes the network fail.
    logits[(inputs[:, :, 0, 0] == 1).all(dim=1)] = np.nan
    return logits


@pytest.fixture
def inputs(tmp_path):
    """Eight files: two that cannot be read, one whose network fails, one of one colour."""
    folder = tmp_path / "in"
    for number in range(4):
        write_image(folder / f"{number}.png", slide(number)[0])
    (folder / "0b.png").write_bytes(b"")
    (folder / "1b.tif").write_bytes(b"II*\0damaged")
    write_image(folder / "2b.png", np.zeros((70, 80), np.uint8))
    write_image(folder / "3b.png", np.repeat(np.uint8([[255, 9]]), 90, axis=1).repeat(80, axis=0))
    return folder


def make_segmenter(*, is_apart):
    segmenter = Segmenter([FunctionBackend(decode_or_fail)], CONFIG, {"fake": "0" * 64})
    if is_apart:
        segmenter._pool = ThreadPoolExecutor(1)
    return segmenter


def run(inputs, output, *, is_apart):
    options = RunOptions(Selection((inputs,)), output, ledger_dir=output, overlays=True)
    return run_folder(make_segmenter(is_apart=is_apart), options)


@pytest.mark.parametrize("room", [0, bands_ahead.MAX_WAITING_BYTES])
def test_network_ahead_gives_the_same_files_and_records(inputs, tmp_path, monkeypatch, room):
    monkeypatch.setattr(bands_ahead, "MAX_WAITING_BYTES", room)
    plain = run(inputs, tmp_path / "plain", is_apart=False)
    ahead = run(inputs, tmp_path / "ahead", is_apart=True)
    for one, other in zip(plain, ahead, strict=True):
        assert (one.file, one.status, one.error) == (other.file, other.status, other.error)
        assert (one.n_cells, one.warnings, one.height) == (
            other.n_cells, other.warnings, other.height
        )  # fmt: skip
    statuses = {record.file: record.status for record in ahead}
    failed = [name for name, status in statuses.items() if status == "failed"]
    assert failed == ["0b.png", "1b.tif", "3b.png"]
    assert [record["file"] for record in read_ledger(tmp_path / "ahead")] == list(statuses)
    assert names_of(tmp_path / "ahead") == names_of(tmp_path / "plain")
    assert names_of(tmp_path / "ahead" / "overlays") == names_of(tmp_path / "plain" / "overlays")
    for path in (tmp_path / "plain").glob("*.tiff"):
        assert path.read_bytes() == (tmp_path / "ahead" / path.name).read_bytes()
        assert read_labels(path).max() > 0 or path.name == "2b_label.tiff"


def test_labels_that_fail_free_the_network_for_the_next_image(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(bands_ahead, "MAX_WAITING_BYTES", 0)
    plain = ImageWork.labels

    def labels(self, **_):
        if self._source.name == "1.png":
            raise MemoryError("labels")
        return plain(self)

    monkeypatch.setattr(ImageWork, "labels", labels)
    records = run(inputs, tmp_path / "out", is_apart=True)
    done = [record.file for record in records if record.status == "done"]
    assert done == ["0.png", "2.png", "2b.png", "3.png"]


@pytest.mark.parametrize("is_apart", [False, True])
def test_stop_in_the_middle_ends_all_threads(inputs, tmp_path, monkeypatch, is_apart):
    monkeypatch.setattr(bands_ahead, "MAX_WAITING_BYTES", 0)
    segmenter = make_segmenter(is_apart=is_apart)
    plain = Ledger.append

    def append(self, record):
        if record.file == "1.png":
            raise OutputError("ledger: cannot be written")
        plain(self, record)

    monkeypatch.setattr(Ledger, "append", append)
    with pytest.raises(OutputError):
        run_folder(
            segmenter,
            RunOptions(Selection((inputs,)), tmp_path / "out", ledger_dir=tmp_path / "out"),
        )
    if is_apart:
        assert segmenter._pool.submit(lambda: "free").result(20) == "free"
    assert [record["file"] for record in read_ledger(tmp_path / "out")] == ["0.png", "0b.png"]


def test_large_images_are_not_read_ahead_but_done(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr("mediar_infer.folder.image_task.LARGE_IMAGE_PIXELS", 10_000)
    expected = run(inputs, tmp_path / "plain", is_apart=False)
    found = run(inputs, tmp_path / "ahead", is_apart=True)
    assert [record.status for record in found] == [record.status for record in expected]


def test_time_budget_keeps_the_machine_for_one_image():
    config = replace(CONFIG, fit_budget=0.85)
    assert Segmenter([FunctionBackend(decode_or_fail)], config)._pool is None
