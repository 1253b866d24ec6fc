"""Images and their labels in memory, loaded on demand."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from mediar_infer.arrays import LabelArray
from mediar_infer.engine.preprocess import compute_scaling
from mediar_infer.errors import ShapeError
from mediar_infer.images.open import open_image
from mediar_infer.labels.reading import read_labels
from mediar_infer.training.data.table import TrainingImage

Uint8Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Sample:
    """One image in memory, as the network sees it."""

    record: TrainingImage
    """Where it comes from."""
    image: Uint8Image
    """``(H, W, 3)`` uint8, normalised as at inference; divided by 255 it is the network's input."""
    labels: LabelArray
    """``(H, W)`` int32 instance labels with the ids of the file, 0 = background; all zero for
    images without labels."""
    has_labels: bool = True
    """False for images without labels: their labels are zero without meaning."""


def load_sample(record: TrainingImage, label_path: Path | None = None) -> Sample:
    """Read an image and its labels.

    Args:
        record: the image.
        label_path: read these labels instead of the record's; None reads the record's.

    Returns:
        The sample; its arrays are read-only, because they are shared between threads.

    Raises:
        ImageReadError: if a file cannot be read.
        ShapeError: if image and labels differ in size.
    """
    with open_image(record.image_path) as source:
        scaling = compute_scaling(source)
        image = scaling.apply(source.read_rows(0, source.height))
    path = label_path or record.label_path
    if path is None:
        labels = np.zeros(image.shape[:2], np.int32)
    else:
        labels = read_labels(path).astype(np.int32)
    if labels.shape != image.shape[:2]:
        raise ShapeError(
            f"{path}: found labels of {labels.shape}, expected {image.shape[:2]} like "
            f"{record.image_path.name}; rebuild the data table with 'index'"
        )
    for array in (image, labels):
        array.flags.writeable = False
    return Sample(record, image, labels, has_labels=path is not None)


class SampleStore(Sequence[Sample]):
    """Samples loaded on demand and cached while there is room.

    Safe for several threads. A pickled copy, as sent to worker processes, starts with an empty
    cache of its own: ``cache_bytes`` is per process.
    """

    records: Sequence[TrainingImage]
    """What the store holds, in order."""

    def __init__(
        self,
        records: Sequence[TrainingImage],
        *,
        cache_bytes: int = 4 * 2**30,
        label_paths: Mapping[str, Path] | None = None,
    ) -> None:
        """Prepare to load samples; nothing is read yet.

        Args:
            records: the images.
            cache_bytes: maximum number of cached bytes (7 per pixel); the least recently used go
                first. 0 keeps nothing.
            label_paths: image id → label file that is read instead of the record's, for relabelled
                images and for pseudo-labels of images that have none.
        """
        self.records = tuple(records)
        self._cache_bytes = cache_bytes
        self._label_paths = dict(label_paths or {})
        self._start_empty()

    def _start_empty(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Sample] = OrderedDict()
        self._kept_bytes = 0

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """Get one sample, or a list of them for a slice.

        Raises:
            IndexError: if there is no such sample.
            ImageReadError: if a file cannot be read.
            ShapeError: if an image and its labels differ in size.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        with self._lock:
            sample = self._kept.get(index)
            if sample is not None:
                self._kept.move_to_end(index)
                return sample
        record = self.records[index]
        # Outside the lock: two threads may load one image twice, but none waits for another.
        sample = load_sample(record, self._label_paths.get(record.image_id))
        with self._lock:
            self._keep(index, sample)
        return sample

    def _keep(self, index: int, sample: Sample) -> None:
        n_bytes = _n_bytes(sample)
        if index in self._kept or n_bytes > self._cache_bytes:
            return
        self._kept[index] = sample
        self._kept_bytes += n_bytes
        while self._kept_bytes > self._cache_bytes:
            self._kept_bytes -= _n_bytes(self._kept.popitem(last=False)[1])

    def __getstate__(self) -> dict[str, Any]:
        return {
            "records": self.records,
            "_cache_bytes": self._cache_bytes,
            "_label_paths": self._label_paths,
        }

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_empty()


def _n_bytes(sample: Sample) -> int:
    return sample.image.nbytes + sample.labels.nbytes
