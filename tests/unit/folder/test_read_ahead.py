"""The next image is ready when its turn comes, or is read then."""

from pathlib import Path

import numpy as np

from mediar_infer.engine.preprocess import Scaling
from mediar_infer.errors import ImageReadError
from mediar_infer.folder.read_ahead import ReadAhead, ReadyImage
from mediar_infer.images.sources import ArraySource
from mediar_infer.segmenter import Prepared

A, B = Path("a.png"), Path("b.png")


class Source(ArraySource):
    def __init__(self, name):
        super().__init__(np.ones((4, 5), np.uint8), name)
        self.is_closed = False

    def close(self):
        self.is_closed = True


class Reader:
    """Stands in for opening and preparing a file; ``b.png`` may be damaged."""

    def __init__(self, *, is_damaged=False):
        self.is_damaged, self.sources = is_damaged, []

    def __call__(self, path, stopwatch):
        with stopwatch("open"):
            if self.is_damaged:
                raise ImageReadError(f"{path}: damaged")
        self.sources.append(Source(path.name))
        return ReadyImage(self.sources[-1], Prepared(Scaling(0, 1, None), None))


def test_image_that_was_begun_is_ready_with_its_times():
    with ReadAhead(Reader()) as ahead:
        ahead.begin(A)
        ready, stopwatch = ahead.take(A)
    assert ready.source.name == "a.png"
    assert list(stopwatch.seconds) == ["open"]
    assert not ready.source.is_closed


def test_image_that_was_not_begun_is_not_ready():
    with ReadAhead(Reader()) as ahead:
        ready, stopwatch = ahead.take(A)
        assert (ready, stopwatch.seconds) == (None, {})


def test_image_is_ready_once():
    with ReadAhead(Reader()) as ahead:
        ahead.begin(A)
        ahead.take(A)
        assert ahead.take(A)[0] is None


def test_image_that_cannot_be_read_is_not_ready_and_leaves_no_times():
    with ReadAhead(Reader(is_damaged=True)) as ahead:
        ahead.begin(B)
        ready, stopwatch = ahead.take(B)
        assert (ready, stopwatch.seconds) == (None, {})


def test_image_that_nobody_took_is_closed():
    reader = Reader()
    with ReadAhead(reader) as ahead:
        ahead.begin(A)
        ahead.take(A)
        ahead.begin(B)
    assert [(s.name, s.is_closed) for s in reader.sources] in (
        [("a.png", False), ("b.png", True)],
        [("a.png", False)],  # not begun before the end
    )
