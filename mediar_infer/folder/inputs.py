"""The images of a run, found in folders, named alone, or listed in a text file."""

import codecs
import logging
import os
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Final

from mediar_infer.errors import UsageError
from mediar_infer.folder.run_image import OVERLAY_DIR, RunImage
from mediar_infer.folder.selection import LIST_MARK, Selection
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.listing import SkippedFile, list_images, natural_key

logger = logging.getLogger(__name__)

_DEFAULTS: Final = ReadOptions()
_HEAD_BYTES: Final = 8192


@dataclass(frozen=True, slots=True)
class RunInputs:
    """What a selection comes to."""

    images: tuple[RunImage, ...]
    """All images, those of other parts too, in natural order of their names."""
    skipped: Mapping[str, SkippedFile]
    """What is no image to be segmented, by its name."""
    unreadable: Mapping[str, str]
    """Folder below an input folder → why it cannot be listed."""
    folders: tuple[Path, ...]
    """Folders that the images are from, and the one that names are relative to."""


def find_inputs(
    selection: Selection, reading: ReadOptions = _DEFAULTS, outputs: Collection[Path] = ()
) -> RunInputs:
    """Find the images of a run.

    Names are relative to the input folder. Those of several inputs, and of listed files outside the
    folder of their list, are relative to the deepest folder that holds all of them.

    Args:
        selection: folders, images and lists.
        reading: how they are read; each scene of a file may be an image.
        outputs: folders of results, which are not searched.

    Raises:
        UsageError: if an input does not exist or cannot be read.
    """
    search = _Search(selection, outputs)
    for given in selection.inputs:
        search.add(given)
    return search.finish(reading)


def read_image_list(path: Path) -> list[Path]:
    """Read a text file with the path of one image per line.

    Args:
        path: the list. Empty lines and those that begin with ``#`` are comments; relative paths
            start from the list's folder.

    Raises:
        UsageError: if it cannot be read, or is no text.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_HEAD_BYTES)
            if b"\0" in data:
                raise UsageError(
                    f"{path}: found a binary file, expected a text file with one path per line;"
                    f" name an image without {LIST_MARK}"
                )
            data += file.read()
    except OSError as error:
        raise UsageError(
            f"{path}: found a list that cannot be read ({error.strerror or error}), expected a text"
            f" file with one path per line; check --input {LIST_MARK}{path}"
        ) from error
    lines = [line.strip() for line in data.removeprefix(codecs.BOM_UTF8).splitlines()]
    # Names may have another encoding than UTF-8.
    return [path.parent / os.fsdecode(line) for line in lines if line and line[:1] != b"#"]


def order_names(names: Iterable[str]) -> list[str]:
    """Put names of images in natural order, folder by folder."""
    return sorted(names, key=lambda n: [natural_key(Path(part)) for part in PurePosixPath(n).parts])


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name matches one of some patterns of a shell.

    Args:
        name: path with slashes.
        patterns: with ``*``, ``?`` and ``[…]``. One without a slash is for the last component, one
            with slashes for the whole path, where ``**`` is any number of folders.
    """
    parts = PurePosixPath(name).parts
    return any(
        _match_parts(parts, pattern.split("/")) if "/" in pattern
        else fnmatchcase(parts[-1], pattern)
        for pattern in patterns
    )  # fmt: skip


def _match_parts(parts: tuple[str, ...], patterns: list[str]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**":
        return any(_match_parts(parts[n:], patterns[1:]) for n in range(len(parts) + 1))
    return (
        bool(parts) and fnmatchcase(parts[0], patterns[0]) and _match_parts(parts[1:], patterns[1:])
    )


class _Search:
    """Collects the files of the inputs, then names them."""

    def __init__(self, selection: Selection, outputs: Iterable[Path]) -> None:
        self._selection = selection
        self._images: list[Path] = []
        self._skipped: list[SkippedFile] = []
        self._unreadable: dict[Path, str] = {}
        self._roots: list[Path] = []
        self._seen: dict[tuple[int, int], Path] = {}
        """Folders that are searched, by what is the same for all links to one."""
        self._outputs = {_identify(folder) for folder in outputs if folder.is_dir()}

    def add(self, given: Path) -> None:
        """Search one input."""
        if str(given).startswith(LIST_MARK):
            path = Path(str(given).removeprefix(LIST_MARK))
            files = [_without_dots(file) for file in read_image_list(path)]
            self._images += files
            self._roots.append(_root_of_list(_without_dots(path).parent, files))
        else:
            self._search(_without_dots(given))

    def _search(self, top: Path) -> None:
        images, skipped = list_images(top)
        is_image = images == [top]
        self._roots.append(top.parent if is_image else top)
        # The same path twice gives the same names, one image each.
        if not is_image and self._seen.get(_identify(top), top) != top:
            self._skip_seen(top)
            return
        self._seen.setdefault(_identify(top), top)
        folders: deque[Path] = deque()
        self._keep(images, skipped, folders)
        while folders:
            folder = folders.popleft()
            if not self._is_new(folder):
                continue
            try:
                images, skipped = list_images(folder)
            except UsageError as error:
                self._unreadable[folder] = str(error)
                continue
            self._keep(images, skipped, folders)

    def _keep(self, images: list[Path], skipped: list[SkippedFile], folders: deque[Path]) -> None:
        """Keep what a folder holds; the folders in it join those that are to be searched."""
        is_searched = self._selection.recursive
        below = [file.path for file in skipped if file.is_folder and is_searched]
        self._images += images
        self._skipped += [file for file in skipped if not (file.is_folder and is_searched)]
        # Links last, so that what they lead to is found in its own place if it is in the tree.
        folders.extendleft(path for path in reversed(below) if not path.is_symlink())
        folders.extend(path for path in below if path.is_symlink())

    def _is_new(self, folder: Path) -> bool:
        """Whether to search a folder; if not, say why."""
        try:
            identity = _identify(folder)
        except OSError:
            return True  # gone meanwhile, or out of reach: listing it says why
        if identity in self._outputs:
            self._skipped.append(SkippedFile(folder, "output folder of this run"))
            if list_images(folder)[0]:
                logger.warning("%s: found images in the output folder; they are skipped", folder)
        elif identity in self._seen:
            self._skip_seen(folder)
        else:
            self._seen[identity] = folder
            return True
        return False

    def _skip_seen(self, folder: Path) -> None:
        place = self._seen[_identify(folder)]
        self._skipped.append(SkippedFile(folder, f"the same folder as {place}, which is searched"))

    def finish(self, reading: ReadOptions) -> RunInputs:
        """Name everything."""
        root = _common_folder(self._roots)
        selection = self._selection
        named = {_relative(path, root): path for path in self._images}
        skipped = {_relative(file.path, root): file for file in self._skipped}
        if selection.recursive:
            for name in [name for name in named if is_overlay(name, root)]:
                reason = "overlay of a label file"
                skipped[name] = SkippedFile(named.pop(name), reason, is_labels=True)
        if selection.patterns:
            n_images = len(named)
            named = {n: path for n, path in named.items() if matches(n, selection.patterns)}
            logger.info("%d of %d images match --pattern", len(named), n_images)
            skipped = {n: file for n, file in skipped.items() if matches(n, selection.patterns)}
        files = [RunImage.named(named[name], name, selection.names) for name in order_names(named)]
        images = [image for file in files for image in file.split(reading, selection.names)]
        return RunInputs(
            tuple(images),
            {name: skipped[name] for name in order_names(skipped)},
            {_relative(folder, root): error for folder, error in self._unreadable.items()},
            tuple(dict.fromkeys([*self._roots, root])),
        )


def _without_dots(path: Path) -> Path:
    """Absolute path of a file, with no ``..`` in it: names are made from the text of paths.

    After a link, ``..`` leads to another folder than its text says, which may hold a file of the
    same name.
    """
    path = path.absolute()
    if ".." not in path.parts:
        return path
    # The file itself may be a link, and is named as such.
    folder, name = (path, "") if path.name == ".." else (path.parent, path.name)
    plain, real = os.path.normpath(folder), os.path.realpath(folder)
    return Path(plain if os.path.realpath(plain) == real else real, name)


def _identify(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _root_of_list(folder: Path, files: list[Path]) -> Path:
    if all(Path(os.path.normpath(file)).is_relative_to(os.path.normpath(folder)) for file in files):
        return folder
    return _common_folder([file.parent for file in files])


def _common_folder(folders: list[Path]) -> Path:
    unique = {os.path.normpath(folder) for folder in folders}
    return folders[0] if len(unique) == 1 else Path(os.path.commonpath(unique))


def _relative(path: Path, root: Path) -> str:
    return PurePosixPath(os.path.relpath(path, root)).as_posix()


def is_overlay(name: str, root: Path) -> bool:
    """Whether a picture lies where a run puts the overlay of a label file that is there."""
    path = PurePosixPath(name)
    if not name.endswith("_label.png"):
        return False
    return any(
        part == OVERLAY_DIR
        and root.joinpath(*path.parts[:n], *path.parts[n + 1 :]).with_suffix(".tiff").exists()
        for n, part in enumerate(path.parts[:-1])
    )
