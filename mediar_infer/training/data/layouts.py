"""Where the images and labels of a folder lie, whatever its sub-folders are called.

The layout of this package is ``images/NAME.ext`` with ``labels/NAME_label.tiff``, or both beside
each other. Others are read where they leave no doubt; what is seen besides is listed for the user.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mediar_infer.errors import UsageError
from mediar_infer.images.formats import EXTENSIONS, find_unread_format, is_folder_format
from mediar_infer.images.label_names import is_zarr_of_labels
from mediar_infer.images.listing import natural_key
from mediar_infer.labels.naming import LABEL_EXTENSIONS, find_marked_stem
from mediar_infer.training.data.problems import (
    FOREIGN_LABELS,
    NO_IMAGES,
    SECOND_LABEL_FOLDER,
    UNREAD_FOLDER,
    UNREAD_FORMAT,
    UNREAD_IMAGES,
    Problem,
)

IMAGE_FOLDERS: Final = ("images", "image", "imgs", "img")
"""Names of folders of images, in lower case; the first that is there is read."""
LABEL_FOLDERS: Final = ("labels", "label", "masks", "mask", "ground_truth", "groundtruth", "gt")
"""Names of folders of labels, in lower case; the first that is there is read."""

_LISTED: Final = 5
_FOREIGN: Final = {
    "_seg.npy": "Cellpose's _seg.npy; save the masks as PNG or TIFF in Cellpose (File menu)",
    ".npy": "NumPy arrays; save them with tifffile.imwrite",
    ".npz": "NumPy arrays; save them with tifffile.imwrite",
    ".mat": "MATLAB arrays; save the label matrix with imwrite",
    ".roi": "ImageJ ROIs; draw them into a label image (Fiji: plug-in LabelMap or MorphoLibJ)",
    ".zip": "an archive, perhaps ImageJ ROIs; draw them into a label image, or unpack it",
    ".json": "annotations, perhaps COCO; draw the outlines into label images",
    ".geojson": "annotations, perhaps of QuPath; export a label image from there",
    ".xml": "annotations; draw the outlines into label images",
    ".jpg": "JPEG files, which change the numbers; export PNG or TIFF",
    ".jpeg": "JPEG files, which change the numbers; export PNG or TIFF",
}
"""End of a name → what the file is, and how to make labels of it."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Files of one set of images and labels."""

    images: tuple[Path, ...]
    """Image files in natural order."""
    marked: tuple[Path, ...]
    """Files beside the images whose names say that they hold labels."""
    labels: tuple[Path, ...]
    """Files of the folder of labels, if there is one."""
    problems: tuple[Problem, ...]
    """What is there and not read."""


def find_layouts(folder: Path, *, descends: bool = True) -> tuple[list[Layout], list[Problem]]:
    """Find the images and labels of a folder.

    Args:
        folder: absolute; holds images, or ``images/`` and ``labels/`` under one of their usual
            names, or is itself ``images/`` with ``labels/`` beside it.
        descends: a folder without images is searched one level deeper.

    Returns:
        Its layouts, one per sub-folder where it descends; and what is wrong with the folder.

    Raises:
        UsageError: if the folder does not exist.
    """
    if not folder.is_dir():
        raise UsageError(
            f"{folder}: found nothing there, expected a folder of images and labels; check the path"
        )
    layout = _find_layout(folder)
    if layout is not None:
        return [layout], []
    inner = [path for path in _list_folders(folder) if not _is_label_folder(path)]
    if not descends:
        return [], []
    found = {path: _find_layout(path) for path in inner if not is_folder_format(path)}
    unread = [folder, *(path for path, layout in found.items() if layout is None)]
    problems = [problem for path in unread for problem in _find_other_formats(path)]
    layouts = [layout for layout in found.values() if layout is not None]
    if not layouts:
        problems.insert(0, Problem(NO_IMAGES, folder, _describe(folder)))
    return layouts, problems


def find_unread(images: Sequence[Path]) -> list[Problem]:
    """Look for what might be the labels of images for which none were found.

    Args:
        images: of one folder, without labels.

    Returns:
        One problem per kind of file that is not read, and per sub-folder with files of these names.
    """
    if not images:
        return []
    folder = images[0].parent
    root = folder.parent if _is_image_folder(folder) else folder
    stems = {image.stem for image in images}
    problems = []
    for place in [folder, *(path for path in _list_folders(root) if path != folder)]:
        files = _list_files(place)
        problems += _find_foreign(place, files, is_beside=place == folder)
        named = [path for path in files if (find_marked_stem(path) or path.stem) in stems]
        if place != folder and not _is_label_folder(place) and named:
            found = f"{len(named)} files named as the images, such as {named[0].name}"
            problems.append(Problem(UNREAD_FOLDER, place, found))
    return problems


def _find_layout(folder: Path) -> Layout | None:
    """Find the images of a folder itself; None if it holds none."""
    named = _choose(_list_folders(folder), IMAGE_FOLDERS)
    problems: list[Problem] = []
    if named:
        images_folder, siblings = named[0], _list_folders(folder)
        own = _list_images(folder)
        if own:
            found = f"{len(own)} images such as {own[0].name} beside {named[0].name}/"
            problems.append(Problem(UNREAD_IMAGES, folder, found))
        problems += [
            Problem(UNREAD_IMAGES, path, f"{named[0].name}/ as well") for path in named[1:]
        ]
    else:
        images_folder = folder
        has_siblings = _is_image_folder(folder)
        siblings = _list_folders(folder.parent if has_siblings else folder)
    images = _list_images(images_folder)
    marked = [path for path in _list_files(images_folder) if find_marked_stem(path) is not None]
    if not images and not marked:
        return None
    problems += _find_other_formats(images_folder)
    label_folders = _choose(siblings, LABEL_FOLDERS)
    problems += [
        Problem(SECOND_LABEL_FOLDER, path, f"{label_folders[0].name}/ as well")
        for path in label_folders[1:]
    ]
    labels = [
        path
        for path in (_list_files(label_folders[0]) if label_folders else [])
        if path.suffix.lower() in LABEL_EXTENSIONS
    ]
    return Layout(tuple(images), tuple(marked), tuple(labels), tuple(problems))


def _choose(folders: Iterable[Path], names: Sequence[str]) -> list[Path]:
    """Folders of some names that hold files, in the order of the names."""
    fitting = [path for path in folders if path.name.lower() in names and _list_files(path)]
    return sorted(fitting, key=lambda path: (names.index(path.name.lower()), path.name))


def _is_image_folder(folder: Path) -> bool:
    return folder.name.lower() in IMAGE_FOLDERS


def _is_label_folder(folder: Path) -> bool:
    return folder.name.lower() in LABEL_FOLDERS


def _list_folders(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _list_files(folder: Path) -> list[Path]:
    """Files in natural order; a broken link is one, so that it ends as an error of its image."""
    files = [
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and (path.is_file() or not path.exists())
    ]
    return sorted(files, key=natural_key)


def _list_images(folder: Path) -> list[Path]:
    return [
        path
        for path in _list_files(folder)
        if path.suffix.lower() in EXTENSIONS and find_marked_stem(path) is None
    ]


def _find_other_formats(folder: Path) -> list[Problem]:
    """Find images that ``predict`` reads or names and training does not, one problem per format."""
    forms: dict[str, list[str]] = {}
    for path in _list_files(folder):
        if name := find_unread_format(path):
            forms.setdefault(name, []).append(path.name)
    for path in _list_folders(folder):
        if is_folder_format(path) and not _holds_own_labels(path):
            forms.setdefault("OME-Zarr", []).append(path.name)
    return [
        Problem(UNREAD_FORMAT, folder, f"{len(names)} × {form} such as {names[0]}")
        for form, names in forms.items()
    ]


def _holds_own_labels(group: Path) -> bool:
    try:
        return is_zarr_of_labels(group)
    except OSError:
        return False


def _find_foreign(place: Path, files: Sequence[Path], *, is_beside: bool) -> list[Problem]:
    """Find files that hold labels or outlines in another form, one problem per form."""
    forms: dict[str, list[Path]] = {}
    for path in files:
        is_picture = path.suffix.lower() in (".jpg", ".jpeg")
        if is_picture and (is_beside or not _is_label_folder(place)):
            continue
        end = next((end for end in _FOREIGN if path.name.lower().endswith(end)), None)
        if end is not None:
            forms.setdefault(end, []).append(path)
    return [
        Problem(
            FOREIGN_LABELS, place, f"{len(paths)} files such as {paths[0].name}: {_FOREIGN[end]}"
        )
        for end, paths in forms.items()
    ]


def _describe(folder: Path) -> str:
    """Say what a folder without images holds."""
    parts = [_describe_files(path, f"{path.name}/ ") for path in _list_folders(folder)]
    parts.append(_describe_files(folder, ""))
    told = [part for part in parts if part]
    more = f" and {len(told) - _LISTED} more" if len(told) > _LISTED else ""
    return "; ".join(told[:_LISTED]) + more if told else "an empty folder"


def _describe_files(folder: Path, name: str) -> str:
    kinds = Counter(path.suffix.lower() or "no extension" for path in _list_files(folder))
    counts = ", ".join(f"{number} × {kind}" for kind, number in kinds.most_common(3))
    if counts:
        return f"{name}({counts})" if name else counts
    n_folders = len(_list_folders(folder))
    return f"{name}({n_folders} sub-folders)" if name and n_folders else ""
