"""Images are begun in their order, the next one ahead; each is closed, whatever happens."""

from contextlib import closing

import numpy as np
import pytest
from folder_helpers import noise, write_image

from mediar_infer.errors import ImageReadError
from mediar_infer.folder import image_task
from mediar_infer.folder.at_work import AtWork
from mediar_infer.folder.image_task import ImageTask, begin_in_order
from mediar_infer.folder.options import RunOptions
from mediar_infer.folder.run_image import RunImage
from mediar_infer.folder.selection import Selection

WAIT_S = 20


class Work:
    """Stands in for the work on an image."""

    def __init__(self):
        self.n_closed = 0

    def close(self):
        self.n_closed += 1


class Recorder:
    """Stands in for a segmenter: notes which images are begun; fails as often as it is told to."""

    def __init__(self, n_failures=0):
        self.names, self.works, self.stages = [], [], []
        self.n_failures = n_failures

    def begin(self, source, trace, *, later_stages=()):
        self.names.append(source.name)
        self.stages.append(list(later_stages))
        with trace.stage("preprocess"):
            if self.n_failures:
                self.n_failures -= 1
                raise MemoryError(source.name)
        self.works.append(Work())
        return self.works[-1]


def run_image(path):
    return RunImage.named(path, path.name)


@pytest.fixture
def images(tmp_path):
    return [run_image(write_image(tmp_path / f"{name}.png", noise(8, 9))) for name in "abc"]


@pytest.fixture
def options(tmp_path):
    return RunOptions(Selection((tmp_path,)), tmp_path / "out")


def test_task_opens_and_begins_once(images, options):
    segmenter = Recorder()
    with closing(ImageTask(images[0], options)) as task:
        assert task.source is None
        assert task.begin(segmenter) is task.begin(segmenter)
        assert task.open() is task.source
        assert list(task.trace.stages_s) == ["open", "preprocess"]
    assert segmenter.names == ["a.png"]
    assert segmenter.stages == [["write"]]
    assert segmenter.works[0].n_closed == 1


def test_overlay_is_a_later_stage(images, tmp_path):
    segmenter = Recorder()
    task = ImageTask(images[0], RunOptions(Selection((tmp_path,)), tmp_path / "out", overlays=True))
    task.begin(segmenter)
    assert segmenter.stages == [["write", "overlay"]]


def test_warnings_of_the_reader_go_into_the_trace(tmp_path, options):
    path = write_image(tmp_path / "d.png", noise(8, 9)).rename(tmp_path / "d.tif")
    with closing(ImageTask(run_image(path), options)) as task:
        task.open()
        assert task.trace.warnings == task.source.warnings
        assert "mislabelled" in task.trace.warnings[0]


def test_error_of_an_image_is_found_once_and_raised_again(tmp_path, options):
    path, segmenter = write_image(tmp_path / "d.png", noise(8, 9)), Recorder(n_failures=1)
    task = ImageTask(run_image(path), options)
    for _ in range(2):
        with pytest.raises(MemoryError, match=r"d\.png"):
            task.begin(segmenter)
    assert segmenter.names == ["d.png"]


def test_images_are_begun_in_their_order_and_closed_before_the_next_is_taken(images, options):
    segmenter, seen = Recorder(), []
    for task in begin_in_order(images, segmenter, options, AtWork(None)):
        assert all(work.n_closed for work in segmenter.works[: len(seen)])
        seen.append(task.image.name)
        assert not task.begin(segmenter).n_closed
    assert seen == segmenter.names == ["a.png", "b.png", "c.png"]
    assert [work.n_closed for work in segmenter.works] == [1, 1, 1]


def test_image_that_failed_ahead_is_tried_again_in_its_turn_with_a_fresh_trace(images, options):
    segmenter = Recorder(n_failures=2)
    tasks = begin_in_order(images, segmenter, options, AtWork(None))
    first, second = next(tasks), None
    with pytest.raises(MemoryError):
        first.begin(segmenter)
    second = next(tasks)
    assert not second.begin(segmenter).n_closed
    assert list(second.trace.stages_s) == ["open", "preprocess"]
    assert segmenter.names[:3] == ["a.png", "b.png", "b.png"]
    tasks.close()


def test_large_images_are_begun_in_their_turn_only(images, options, monkeypatch):
    monkeypatch.setattr(image_task, "LARGE_IMAGE_PIXELS", 10)
    segmenter = Recorder()
    for number, task in enumerate(
        begin_in_order(images, segmenter, options, AtWork(None)), start=1
    ):
        task.begin(segmenter)
        assert len(segmenter.names) == number
    assert number == len(images)


def test_damaged_image_is_an_error_of_its_own(images, options):
    images[1].path.write_bytes(b"\x89PNG\r\n\x1a\n")
    segmenter = Recorder()
    for task in begin_in_order(images, segmenter, options, AtWork(None)):
        if task.image == images[1]:
            with pytest.raises(ImageReadError, match=r"b\.png"):
                task.begin(segmenter)
    assert segmenter.names == ["a.png", "c.png"]


def test_image_that_no_one_took_is_closed(images, options):
    segmenter = Recorder()
    tasks = begin_in_order(images, segmenter, options, AtWork(None))
    next(tasks)
    tasks.close()
    assert all(work.n_closed for work in segmenter.works)
    assert np.isin(segmenter.names, ["a.png", "b.png"]).all()
