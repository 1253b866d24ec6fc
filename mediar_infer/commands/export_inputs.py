"""What ``export`` works on: label files, in a folder or a tree of folders, and their images."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from mediar_infer.errors import DataError, ImageReadError, UsageError
from mediar_infer.folder.inputs import find_inputs, is_overlay, order_names
from mediar_infer.folder.selection import Selection
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.listing import list_images
from mediar_infer.images.open import open_image
from mediar_infer.images.scenes import list_scenes
from mediar_infer.images.sources import ImageSource
from mediar_infer.labels.files import read_label_header
from mediar_infer.labels.naming import (
    LabelNames,
    find_marked_stem,
    group_label_files,
    label_path,
)
from mediar_infer.labels.scoring import list_label_files

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LabelFiles:
    """Label files that are to be exported."""

    files: Sequence[tuple[str, Path]]
    """Name of the image, with the folders that its labels lie in, and the label file."""
    unreadable: Sequence[str] = ()
    """What cannot be listed, and why."""


def find_label_inputs(labels: Path, *, recursive: bool, output_dir: Path) -> LabelFiles:
    """Find the label files of a folder, or take the one that is given.

    Args:
        labels: the folder, or a label file.
        recursive: folders below are searched, too.
        output_dir: folder of results, which is not searched.

    Raises:
        UsageError: if there is nothing there.
        DataError: if an image has several label files.
    """
    if labels.is_file():
        (name,) = group_label_files([labels]) or [labels.stem]
        return LabelFiles([(name, labels)])
    if not labels.exists():
        raise UsageError(f"{labels}: found nothing there, expected label files; check the path")
    if not recursive:
        return LabelFiles([*_only_files(labels, list_label_files(labels))])
    unreadable: list[str] = []
    paths = list(_walk(labels, output_dir, unreadable))
    paths = [path for path in paths if find_marked_stem(path) is not None] or paths
    folders: dict[Path, list[Path]] = {}
    for path in paths:
        folders.setdefault(path.parent, []).append(path)
    found = {
        _join(folder.relative_to(labels), name): path
        for folder, files in folders.items()
        for name, path in _only_files(folder, group_label_files(sorted(files)))
    }
    return LabelFiles([(name, found[name]) for name in order_names(found)], unreadable)


def _walk(top: Path, output_dir: Path, unreadable: list[str]) -> Iterator[Path]:
    """Files of a tree, except overlays of label files and what lies in an OME-Zarr."""

    def note(error: OSError) -> None:
        unreadable.append(
            f"{error.filename}: found a folder that cannot be listed ({error.strerror}), expected"
            " label files; check its permissions"
        )

    output = output_dir.absolute()
    for name, folders, files in os.walk(top, onerror=note):
        folder = Path(name)
        folders[:] = [
            each
            for each in folders
            if not (each.startswith(".") or each.lower().endswith(".zarr"))
            and (folder / each).absolute() != output
        ]
        for each in files:
            path = folder / each
            if not is_overlay(path.relative_to(top).as_posix(), top):
                yield path


def _only_files(folder: Path, groups: Mapping[str, list[Path]]) -> Iterator[tuple[str, Path]]:
    for name, paths in groups.items():
        if len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            raise DataError(f"{folder}: found {names}, expected one label file per image; move one")
        yield name, paths[0]


def _join(folder: Path, name: str) -> str:
    return (PurePosixPath(folder.as_posix()) / name).as_posix()


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Images whose intensities are measured; none if no folder of images is given."""

    is_given: bool = False
    """Whether there is a folder of images."""
    images: Mapping[str, Mapping[Path, ReadOptions]] = field(default_factory=dict)
    """Name in the label file → images that it may be of, and how each is read."""

    @classmethod
    def find(
        cls, folder: Path | None, *, recursive: bool, reading: ReadOptions | None = None
    ) -> "LabelledImages":
        """Name the images of a folder, or the one that is given, as their labels are named.

        An image's labels may be named by either rule.

        Args:
            folder: the folder, or an image.
            recursive: folders below are searched, too.
            reading: how images are read where their label files do not say it.
        """
        if folder is None:
            return cls()
        given = replace(reading or ReadOptions(), all_channels=True)
        found: dict[str, dict[Path, ReadOptions]] = {}
        for parent, path in _list_images(folder, recursive=recursive):
            for scene in (None, *range(_count_scenes(path))):
                chosen = given if scene is None else replace(given, scene=scene)
                for names in get_args(LabelNames):
                    (name,) = group_label_files([label_path(Path(), path, scene, names)])
                    found.setdefault(_join(parent, name), {})[path] = chosen
        return cls(is_given=True, images=found)

    def open(self, name: str, labels: Path) -> AbstractContextManager[ImageSource | None]:
        """The image of a label file, read as for its labels; nothing where no images are given.

        Args:
            name: name of the image.
            labels: the label file, which may say which scene or plane of the image it is of.

        Raises:
            DataError: if there is no image of that name, or more than one.
            ImageReadError: if it cannot be read.
        """
        if not self.is_given:
            return nullcontext()
        if name not in self.images:
            raise DataError(
                f"{name}: found labels without an image, expected an image of that name in --images"
            )
        if len(self.images[name]) > 1:
            paths = " and ".join(path.name for path in self.images[name])
            raise DataError(
                f"{name}: found labels for {paths}, expected one image of that name; move one"
            )
        [(path, reading)] = self.images[name].items()
        return open_image(path, _as_labelled(reading, labels))


def _list_images(folder: Path, *, recursive: bool) -> list[tuple[Path, Path]]:
    """Folder relative to the one that is given, and path, of each image."""
    if not recursive:
        return [(Path(), path) for path in list_images(folder)[0]]
    images = find_inputs(Selection((folder,), recursive=True)).images
    return [(Path(image.name).parent, image.path) for image in images]


def _count_scenes(path: Path) -> int:
    """Scenes of a file that has several; 0 of a plain image, and of one that cannot be read."""
    try:
        n_scenes = len(list_scenes(path))
    except ImageReadError:  # said when labels ask for it
        return 0
    return n_scenes if n_scenes > 1 else 0


def _as_labelled(reading: ReadOptions, labels: Path) -> ReadOptions:
    """Choose scene, planes and orientation as the run did that wrote the labels, if it says so."""
    header = read_label_header(labels)
    plan = header.facts.get("plan") if header is not None and header.facts else None
    if not isinstance(plan, Mapping):
        return reading
    chosen: dict[str, Any] = {
        name: plan[name] for name in ("plane", "scene") if isinstance(plan.get(name), int)
    }
    if plan.get("project") == "max":
        chosen["project"] = "max"
    if plan.get("apply_orientation") is True:
        chosen["apply_orientation"] = True
    return replace(reading, **{"plane": None, "project": None, **chosen})
