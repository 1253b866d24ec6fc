"""Candidates for training data: image and label files paired by name or by a manifest."""

import os
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

from mediar_infer.errors import DataError
from mediar_infer.labels.naming import find_marked_stem
from mediar_infer.training.data.csv_files import read_rows, write_rows
from mediar_infer.training.data.layouts import (
    IMAGE_FOLDERS,
    Layout,
    find_layouts,
    find_unread,
)
from mediar_infer.training.data.problems import (
    DUPLICATE_ID,
    LISTED_TWICE,
    MISSING_IMAGE,
    SAME_NAME,
    SECOND_LABELS,
    Problem,
)
from mediar_infer.training.data.table import ROLES, SPLITS, Role

DATA_MANIFEST_NAME: Final = "manifest.csv"
"""A folder with a file of this name is read through it."""

_REQUIRED = ("id", "image")
_MANIFEST = "a manifest: id, image and, as far as known, label, role, split, modality, source"


@dataclass(frozen=True, slots=True)
class CandidateImage:
    """An image that becomes a line of the table if its files pass the checks."""

    image_id: str
    """Name of the image, not yet unique."""
    image_path: Path
    """The image, absolute."""
    label_path: Path | None = None
    """Its label file, absolute; None if it does not exist."""
    role: Role | None = None
    """Role from the manifest, if any."""
    split: str = ""
    """``train`` or ``val`` if the manifest says so; empty if it is drawn later."""
    modality: str = ""
    """Kind of microscopy; empty if unknown."""
    source: str = ""
    """Data set; empty if unknown."""


def find_candidates(
    folder: Path, *, descends: bool = True
) -> tuple[list[CandidateImage], list[Problem]]:
    """Find the images of a folder and their labels.

    A folder with a manifest is read through it. Otherwise images are the files of ``images/`` or,
    without such a sub-folder, of the folder itself or else of its sub-folders; the labels of
    ``NAME.ext`` are ``NAME_label.tiff`` (``.tif``, ``.png``, ``.bmp``) beside it, or that or
    ``NAME.tiff`` in ``labels/``. For ``a.b.ext`` both ``a.b_label.tiff`` and the challenge's
    ``a_label.tiff`` fit, the latter if no other image is called ``a.…``. Other common names are
    also recognised, see ``layouts``.

    Args:
        folder: to look into.
        descends: look into the sub-folders of a folder that holds no image.

    Returns:
        Candidates in natural order of their names, and what is wrong with single files.

    Raises:
        UsageError: if the folder does not exist.
        DataError: if its manifest cannot be used.
    """
    folder = Path(os.path.normpath(folder.absolute()))
    if (folder / DATA_MANIFEST_NAME).is_file():
        return read_data_manifest(folder / DATA_MANIFEST_NAME), []
    layouts, problems = find_layouts(folder, descends=descends)
    candidates = []
    for layout in layouts:
        found, wrong = _pair(layout)
        candidates += found
        problems += wrong
    return candidates, problems


def _pair(layout: Layout) -> tuple[list[CandidateImage], list[Problem]]:
    problems = list(layout.problems)
    labels = _group_by_image(layout)
    # Of two images of one name up to the first dot, one would get the labels of the other.
    whole_names: defaultdict[str, set[str]] = defaultdict(set)
    for image in layout.images:
        whole_names[_short_name(image)].add(image.stem)
    candidates = []
    used: set[Path] = set()
    for image in layout.images:
        short = _short_name(image)
        names = [image.stem, short] if len(whole_names[short]) == 1 else [image.stem]
        paths = next((labels[name] for name in names if name in labels), [])
        candidates.append(CandidateImage(image.stem, image, paths[0] if paths else None))
        problems += [
            Problem(SECOND_LABELS, path, f"{paths[0].name} as well")
            for path in paths[1:]
            if path not in used
        ]
        used.update(paths)
    problems += [
        Problem(MISSING_IMAGE, path, _describe_absence(path, whole_names))
        for path in (*layout.marked, *layout.labels)
        if path not in used
    ]
    problems += find_unread([each.image_path for each in candidates if each.label_path is None])
    return candidates, problems


def _group_by_image(layout: Layout) -> dict[str, list[Path]]:
    """Name of an image → its label files, those named as labels first."""
    groups: dict[str, list[Path]] = {}
    for path in (*layout.marked, *layout.labels):
        stem = find_marked_stem(path)
        if stem is not None:
            groups.setdefault(stem, []).append(path)
    for path in layout.labels:
        groups.setdefault(path.stem, []).append(path)
    return groups


def _short_name(image: Path) -> str:
    return image.name.split(".")[0]


def _describe_absence(labels: Path, whole_names: Mapping[str, Collection[str]]) -> str:
    names = sorted(whole_names.get(find_marked_stem(labels) or labels.stem, ()))
    if not names:
        return "no image of that name"
    return f"{len(names)} images of this name up to the first dot, such as {names[0]}"


def read_data_manifest(path: Path) -> list[CandidateImage]:
    """Read a manifest.

    Args:
        path: CSV file with the columns ``id, image`` and, where known, ``label, role, split,
            modality, source`` (or ``source_repo``); image and label are relative to its folder.
            Empty cells are unknown; further columns are ignored.

    Returns:
        Its images in order.

    Raises:
        UsageError: if the file does not exist.
        DataError: if it cannot be read, lacks a column, or a value is not allowed; the message
            names file, line and column.
    """
    folder = path.absolute().parent
    return [
        _to_candidate(row, folder, place) for place, row in read_rows(path, _REQUIRED, _MANIFEST)
    ]


def _to_candidate(values: Mapping[str, str], folder: Path, place: str) -> CandidateImage:
    for column in _REQUIRED:
        if not values[column]:
            raise DataError(f"{place}, column {column}: found an empty cell, expected a value")
    for column, allowed in (("role", ROLES), ("split", SPLITS)):
        if values.get(column) and values[column] not in allowed:
            raise DataError(
                f"{place}, column {column}: found {values[column]!r}, expected one of "
                f"{', '.join(allowed)} or an empty cell"
            )
    label = values.get("label")
    return CandidateImage(
        image_id=values["id"],
        image_path=_absolute(folder, values["image"]),
        label_path=_absolute(folder, label) if label else None,
        role=cast(Role, values["role"]) if values.get("role") else None,
        split=values.get("split", ""),
        modality=values.get("modality", ""),
        source=values.get("source") or values.get("source_repo", ""),
    )


def _absolute(folder: Path, name: str) -> Path:
    return Path(os.path.normpath(folder / name))


def write_data_manifest(candidates: Sequence[CandidateImage], path: Path) -> None:
    """Write a manifest that ``read_data_manifest`` reads.

    Args:
        candidates: its lines.
        path: CSV file to create or replace; the paths in it are relative to its folder.

    Raises:
        OutputError: if it cannot be written.
    """
    folder = path.absolute().parent
    rows = []
    for candidate in candidates:
        image = os.path.relpath(candidate.image_path, folder)
        label = os.path.relpath(candidate.label_path, folder) if candidate.label_path else ""
        kind = (candidate.role or "", candidate.split, candidate.modality, candidate.source)
        rows.append((candidate.image_id, *kind, image, label))
    write_rows(path, ("id", "role", "split", "modality", "source", "image", "label"), rows)


def make_ids_unique(
    candidates: Sequence[CandidateImage],
) -> tuple[list[CandidateImage], list[Problem]]:
    """Give every candidate a unique id.

    Args:
        candidates: from any number of folders.

    Returns:
        Candidates in the same order. A file listed twice, or a second file of one name and other
        extension in a folder, is skipped; an id that also occurs in another folder is prefixed with
        its folder's name. Each case is reported as a problem.
    """
    kept: dict[str, CandidateImage] = {}
    seen: set[Path] = set()
    named: dict[tuple[Path, str], CandidateImage] = {}
    problems = []
    for candidate in candidates:
        path = candidate.image_path
        if path in seen:
            problems.append(Problem(LISTED_TWICE, path, "the same file again"))
            continue
        seen.add(path)
        other = named.setdefault((path.parent, path.stem), candidate)
        if other is not candidate and _is_same_picture(candidate, other):
            found = f"{other.image_path.name} in the same folder"
            problems.append(Problem(SAME_NAME, path, found))
            continue
        first = kept.get(candidate.image_id)
        if first:
            image_id = _free_id(candidate, kept)
            found = f"id {candidate.image_id} of {first.image_path} too, now {image_id}"
            problems.append(Problem(DUPLICATE_ID, path, found))
            candidate = replace(candidate, image_id=image_id)
        kept[candidate.image_id] = candidate
    return list(kept.values()), problems


def _is_same_picture(one: CandidateImage, other: CandidateImage) -> bool:
    """Whether two files of one name are one picture: a manifest may say that they are two."""
    has_same_labels = one.label_path is not None and one.label_path == other.label_path
    return has_same_labels or one.image_id == other.image_id


def _free_id(candidate: CandidateImage, taken: Mapping[str, CandidateImage]) -> str:
    """Prefix the names of folders, innermost first, then append a number."""
    image_id = candidate.image_id
    for folder in candidate.image_path.parents:
        if folder.name and folder.name.lower() not in IMAGE_FOLDERS:
            image_id = f"{folder.name}_{image_id}"
            if image_id not in taken:
                return image_id
    number = 2
    while f"{candidate.image_id}_{number}" in taken:
        number += 1
    return f"{candidate.image_id}_{number}"
