"""Labelled images: manifest → records → samples in memory, and how often each is drawn.

The manifest is a CSV file with the columns ``id, split, modality, source_repo, image, label``
(paths relative to its folder); further columns are ignored.
"""

import csv
import logging
import os
import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import tifffile

from mediar_infer.errors import ImageReadError, ShapeError, UsageError
from mediar_infer.flows import compute_unit_flow
from mediar_infer.preprocess import normalise_image
from mediar_infer.training.generated import KINDS, draw_scene
from mediar_infer.types import LabelArray

logger = logging.getLogger(__name__)

PUBLIC_SOURCES = frozenset({"dsb", "bbbc039", "omnipose", "yeastvision"})
"""Sources (id up to the first underscore) that stand for the paper's public data sets."""

_COLUMNS = ("id", "split", "modality", "source_repo", "image", "label")

Uint8Image = npt.NDArray[np.uint8]
Float16Array = npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One line of the manifest."""

    image_id: str
    """Unique name; its part before the first underscore names the source."""
    split: str
    """``train`` or ``val``."""
    modality: str
    """Kind of microscopy, e.g. ``phase_contrast``."""
    source_repo: str
    """Where the image was published."""
    image_path: Path
    """8-bit image, grey or RGB."""
    label_path: Path
    """Instance labels, 0 = background."""

    @property
    def role(self) -> str:
        """``public`` for the stand-ins of the paper's public data, ``generated``, or ``target``."""
        source = self.image_id.split("_")[0]
        if source in PUBLIC_SOURCES:
            return "public"
        return "generated" if source == "generated" else "target"


@dataclass(frozen=True, slots=True)
class Sample:
    """One image in memory, with everything that training needs of it."""

    record: ImageRecord
    """Where it comes from."""
    image: Uint8Image
    """``(H, W, 3)`` uint8, normalised as at inference; divided by 255 it is the network's input."""
    labels: LabelArray
    """``(H, W)`` int32 instance labels, 0 = background."""
    unit_flow: Float16Array
    """``(2, H, W)`` float16, (dy, dx), unit length inside cells and 0 outside."""


def read_manifest(folder: Path, split: str) -> list[ImageRecord]:
    """Read the records of one split.

    Args:
        folder: holds ``manifest.csv`` and the files that it names.
        split: value of the column ``split`` to keep.

    Returns:
        Records in the order of the manifest.

    Raises:
        UsageError: if the manifest is missing, lacks a column or has no image of that split.
    """
    path = folder / "manifest.csv"
    if not path.is_file():
        raise UsageError(f"{path}: no such file; expected the manifest of the training images")
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise UsageError(f"{path}: columns {missing} are missing; expected {list(_COLUMNS)}")
        records = [
            ImageRecord(
                image_id=row["id"],
                split=row["split"],
                modality=row["modality"],
                source_repo=row["source_repo"],
                image_path=folder / row["image"],
                label_path=folder / row["label"],
            )
            for row in reader
            if row["split"] == split
        ]
    if not records:
        raise UsageError(f"{path}: no image of split {split!r}; see its column 'split'")
    return records


def compute_sampling_weights(records: Sequence[ImageRecord]) -> npt.NDArray[np.float64]:
    """Balance the modalities: each image is drawn in proportion to (images of its kind)^-1/2.

    A kind is a modality of one source, so that three images of a rare source are not drowned by
    seventy of a common one that happens to share the name of the modality.

    Args:
        records: images to draw from, at least one.

    Returns:
        ``(n,)`` float64 probabilities, summing to 1.
    """
    kinds = [(record.modality, record.source_repo) for record in records]
    counts = Counter(kinds)
    weights = np.array([counts[kind] ** -0.5 for kind in kinds])
    weights /= weights.sum()
    return weights


def load_samples(records: Sequence[ImageRecord], cache_dir: Path) -> list[Sample]:
    """Load images, labels and unit flows into memory (about 11 bytes per pixel).

    Unit flows are slow to compute, so they are kept in ``cache_dir``.

    Args:
        records: images to load.
        cache_dir: folder of the cached flows; made if absent.

    Returns:
        One sample per record, in the same order.

    Raises:
        ImageReadError: if an image or label file cannot be read.
        ShapeError: if an image and its labels differ in size.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        samples = list(pool.map(lambda record: _load_sample(record, cache_dir), records))
    n_pixels = sum(sample.labels.size for sample in samples)
    logger.info("loaded %d images, %.1f megapixels", len(samples), n_pixels / 1e6)
    return samples


def _load_sample(record: ImageRecord, cache_dir: Path) -> Sample:
    image = cv2.imread(str(record.image_path), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ImageReadError(f"{record.image_path}: not a readable PNG or JPEG image")
    try:
        labels = tifffile.imread(record.label_path)
    except (OSError, tifffile.TiffFileError) as error:
        raise ImageReadError(f"{record.label_path}: not a readable TIFF ({error})") from error
    if labels.shape != image.shape[:2]:
        raise ShapeError(
            f"{record.label_path}: labels are {labels.shape}, the image is {image.shape[:2]}; "
            "expected the same height and width"
        )
    labels = labels.astype(np.int32)
    return Sample(
        record=record,
        image=normalise_image(image, record.image_path.name),
        labels=labels,
        unit_flow=load_unit_flow(record.image_id, labels, cache_dir),
    )


def load_unit_flow(name: str, labels: LabelArray, cache_dir: Path) -> Float16Array:
    """Compute the unit flow of labels, or read it from the cache.

    The cached file's name holds a checksum of the labels: changed labels are never served an old
    flow.

    Args:
        name: of the image.
        labels: ``(H, W)`` int32 instance labels.
        cache_dir: folder of the cached flows; made if absent.

    Returns:
        ``(2, H, W)`` float16, (dy, dx).
    """
    path = cache_dir / f"{name}-{zlib.crc32(labels.tobytes()):08x}.npy"
    if path.is_file():
        cached: Float16Array = np.load(path)
        return cached
    unit_flow = compute_unit_flow(labels).astype(np.float16)
    cache_dir.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    with unfinished.open("wb") as file:
        np.save(file, unit_flow)
    unfinished.replace(path)
    return unit_flow


def make_generated_samples(n_samples: int, seed: int, cache_dir: Path) -> list[Sample]:
    """Draw images of 384 × 384 pixels, their labels and flows.

    Args:
        n_samples: how many; the kinds of layout take turns.
        seed: image ``i`` depends on ``(seed, i)`` only.
        cache_dir: folder of the cached flows; made if absent.

    Returns:
        Samples of the role ``generated``.
    """
    samples = []
    for i in range(n_samples):
        kind = KINDS[i % len(KINDS)]
        name = f"generated_{seed}_{i}"
        image, labels = draw_scene(kind, np.random.default_rng((seed, i)))
        record = ImageRecord(name, "train", kind, "generated", Path(name), Path(name))
        samples.append(
            Sample(
                record=record,
                image=normalise_image(image, name),
                labels=labels,
                unit_flow=load_unit_flow(name, labels, cache_dir),
            )
        )
    logger.info("generated %d images", len(samples))
    return samples
