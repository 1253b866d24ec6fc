"""Images of a data set as downloaded, and the folder of images and labels made from them."""

import logging
import os
import re
import shutil
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from mediar_infer.errors import ImageReadError, MediarError, ShapeError, UsageError
from mediar_infer.images.open import open_image
from mediar_infer.labels.files import write_labels
from mediar_infer.labels.naming import label_path
from mediar_infer.output_files import to_output_error, write_bytes
from mediar_infer.training.data.candidates import (
    DATA_MANIFEST_NAME,
    CandidateImage,
    write_data_manifest,
)
from mediar_infer.training.data.problems import (
    SAME_NAME,
    UNREADABLE_IMAGE,
    UNREADABLE_LABELS,
    Problem,
)
from mediar_infer.training.data.table import Role

logger = logging.getLogger(__name__)

LabelMaker = Callable[[], npt.NDArray[np.integer[Any]]]


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image of a downloaded data set."""

    image_id: str
    """Unique name: the set, then the path in it; letters, digits, ``-`` and ``_`` only."""
    image_path: Path
    """The image as downloaded."""
    label_path: Path | None
    """The file that holds its labels in any form; ``None`` without labels."""
    make_labels: LabelMaker | None = None
    """Reads the labels, ``(H, W)`` integers; None if ``label_path`` is a finished label file."""
    becomes_grey: bool = False
    """Whether the image is converted to greyscale."""
    role: Role = "public"
    """What the image is for."""
    modality: str = ""
    """Kind of microscopy; empty if unknown."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a converter found in a downloaded data set."""

    images: list[SourceImage]
    """Images to convert."""
    problems: list[Problem] = field(default_factory=list)
    """What is wrong with single files."""
    n_left_out: int = 0
    """Number of images that the paper excludes, too."""


def list_files(folder: Path, pattern: str) -> list[Path]:
    """List files below a folder, in a fixed order, without the extra files of macOS archives.

    Raises:
        UsageError: if the folder does not exist.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: found no such folder, expected the unpacked data set")
    return sorted(
        path
        for path in folder.rglob(pattern)
        if path.is_file() and "__MACOSX" not in path.parts and not path.name.startswith(".")
    )


def make_id(set_name: str, place: PurePath) -> str:
    """Build an id from the name of a set and a path in it, without ``images`` and the extension."""
    parts = [part for part in place.with_suffix("").parts if part != "images"]
    return "_".join([set_name, *(re.sub(r"[^A-Za-z0-9-]+", "_", part) for part in parts)])


def exclude_images(images: Sequence[SourceImage], names: Collection[str]) -> list[SourceImage]:
    """Exclude the images of a list.

    Args:
        images: what was found.
        names: ids, or file names with or without extension and any number of folders before it
            (``train/000_img.png``).

    Returns:
        The others, in the same order.

    Raises:
        UsageError: if a name fits no image, so a typing error is noticed.
    """
    left = set(names)
    kept = []
    for image in images:
        fitting = {name for name in names if _fits(image, name)}
        left -= fitting
        if not fitting:
            kept.append(image)
    if left:
        raise UsageError(
            f"found no image named {', '.join(sorted(left)[:5])}, expected names such as "
            f"{', '.join(image.image_path.name for image in images[:3])}"
        )
    return kept


def _fits(image: SourceImage, name: str) -> bool:
    wanted = PurePath(name).parts
    places = (image.image_path.parts, image.image_path.with_suffix("").parts, (image.image_id,))
    return any(place[-len(wanted) :] == wanted for place in places)


def write_converted(
    images: Sequence[SourceImage], folder: Path, source: str
) -> tuple[list[CandidateImage], list[Problem]]:
    """Write images, labels and the manifest that ``index`` reads.

    Files that need no change are linked, or copied where the file system has no hard links. The
    manifest leaves the split open, because the paper also trains on the published test images.

    Args:
        images: what to convert.
        folder: gets ``images/``, ``labels/`` and ``manifest.csv``; created if absent.
        source: name of the data set for the manifest.

    Returns:
        The lines of the manifest, and the problems of the images that are not in it.

    Raises:
        OutputError: if the folder cannot be written.
    """
    problems = []
    lines: dict[str, CandidateImage] = {}
    for image in tqdm(images, desc=source, unit="image", disable=None):
        if image.image_id in lines:
            found = f"{image.image_id}, the id of another image of the set"
            problems.append(Problem(SAME_NAME, image.image_path, found))
            continue
        converted = _convert(image, folder, source)
        if isinstance(converted, Problem):
            problems.append(converted)
        else:
            lines[image.image_id] = converted
    if lines:
        write_data_manifest(list(lines.values()), folder / DATA_MANIFEST_NAME)
    return list(lines.values()), problems


def _convert(image: SourceImage, folder: Path, source: str) -> CandidateImage | Problem:
    """Read everything first, so that a problem leaves no half of a pair behind."""
    try:
        grey = _read_grey(image.image_path) if image.becomes_grey else None
    except (MediarError, OSError) as error:
        return Problem(UNREADABLE_IMAGE, image.image_path, str(error))
    labels = None
    if image.label_path and image.make_labels:
        try:
            labels = _checked_labels(image.make_labels(), image.label_path)
        except (ImageReadError, ShapeError) as error:
            return Problem(UNREADABLE_LABELS, image.label_path, str(error))
    suffix = ".png" if image.becomes_grey else image.image_path.suffix.lower()
    image_path = folder / "images" / f"{image.image_id}{suffix}"
    labels_path = label_path(folder / "labels", image_path) if image.label_path else None
    if grey is None:
        _place_file(image.image_path, image_path)
    else:
        write_bytes(image_path, cv2.imencode(".png", grey)[1].tobytes())
    if labels_path and labels is not None:
        write_labels(labels_path, [labels], height=labels.shape[0], width=labels.shape[1])
    elif labels_path and image.label_path:
        _place_file(image.label_path, labels_path)
    return CandidateImage(
        image_id=image.image_id,
        image_path=image_path,
        label_path=labels_path,
        role=image.role,
        modality=image.modality,
        source=source,
    )


def _checked_labels(
    labels: npt.NDArray[np.integer[Any]], path: Path
) -> npt.NDArray[np.integer[Any]]:
    if labels.min() < 0:
        raise ImageReadError(
            f"{path.name}: found negative labels down to {labels.min()}, expected 0 or more"
        )
    return labels


def _place_file(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        with suppress(OSError):  # another file system, or one without hard links
            os.link(source.resolve(), target)
            return
        shutil.copyfile(source, target)
    except OSError as error:
        raise to_output_error(target, error) from error


def _read_grey(path: Path) -> npt.NDArray[np.uint8]:
    """Convert to greyscale with the weights of ITU-R 601; the paper does not say how."""
    with open_image(path) as source:
        rows = source.read_rows(0, source.height)
        if rows.dtype != np.uint8:
            raise ImageReadError(f"{path.name}: found {rows.dtype}, expected 8 bits per channel")
    grey: npt.NDArray[np.uint8] = cv2.cvtColor(rows, cv2.COLOR_RGB2GRAY)
    return grey
