"""An image is judged in a folder of its own; one that cannot be put there stops no other."""

import errno
import shutil

import pytest
import tifffile
from folder_helpers import noise

from mediar_infer.challenge import protocol
from mediar_infer.challenge.launchers import RunOutcome
from mediar_infer.challenge.protocol import LABELS_DIR, judge_image


class Recorder:
    """Stands in for a launcher: notes what the input folder holds, and makes nothing."""

    def __init__(self):
        self.inputs = []

    def describe(self):
        return {}

    def run(self, work):
        files = (path for path in (work / "inputs").rglob("*") if path.is_file())
        self.inputs += [path.relative_to(work / "inputs").as_posix() for path in files]
        return RunOutcome(exit_code=0, wall_s=0.1)


@pytest.fixture
def judge(tmp_path):
    """Judge an image: ``judge(path) -> (record, files that its run was given)``."""
    (tmp_path / "out" / LABELS_DIR).mkdir(parents=True)

    def call(path):
        launcher = Recorder()
        record = judge_image(path, launcher, tmp_path / "out", memory_limit_bytes=2**30)
        return record, sorted(launcher.inputs)

    return call


def write_folder_image(path):
    for name in ("zarr.json", "s0/c/0"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("{}")
    return path


def test_image_that_is_a_folder_is_copied_whole(judge, tmp_path):
    path = write_folder_image(tmp_path / "a.zarr")
    assert judge(path)[1] == ["a.zarr/s0/c/0", "a.zarr/zarr.json"]


def test_broken_link_is_a_finding_and_nothing_is_run(judge, tmp_path):
    (tmp_path / "a.tif").symlink_to(tmp_path / "nowhere.tif")
    record, given = judge(tmp_path / "a.tif")
    assert (given, record.breached, record.outcome.exit_code) == ([], "image", None)
    assert "a.tif: image: found a file that cannot be opened" in str(record.findings[0])


def test_copy_that_fails_is_a_finding(judge, tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", noise(30, 40))

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(protocol.os, "link", refuse)
    monkeypatch.setattr(shutil, "copyfile", refuse)
    record, given = judge(tmp_path / "a.tif")
    assert (given, len(record.findings), record.size) == ([], 1, (30, 40))
    assert str(record.findings[0]) == (
        "a.tif: image: found one that cannot be copied for its run (No space left on device),"
        " expected a readable image and space in the output folder"
    )
    assert record.to_dict()["exit_code"] is None


def test_folder_with_files_that_cannot_be_copied_is_a_finding(judge, tmp_path, monkeypatch):
    path = write_folder_image(tmp_path / "a.zarr")
    (path / "s0" / "c" / "1").symlink_to("nowhere")
    monkeypatch.setattr(protocol, "read_size", lambda _: ((30, 40), []))
    record, given = judge(path)
    assert given == []
    assert "copied for its run (1 of its files), expected" in str(record.findings[0])
