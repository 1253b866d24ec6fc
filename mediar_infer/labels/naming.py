"""Names of label files: what that of an image is called, and which image one belongs to."""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

LabelNames = Literal["challenge", "full"]
"""What is kept of an image's name: all before the first dot, or all but the extension."""
LABEL_EXTENSIONS: Final = frozenset({".tiff", ".tif", ".png", ".bmp"})
"""Extensions of label files, in lower case."""
LABEL_FOLDER: Final = "one of NAME_label.tiff files"
"""What a folder of labels should be, for errors."""

_OME: Final = re.compile(r"\.ome$", re.IGNORECASE)
_LABEL: Final = re.compile(r"(?P<stem>.+)_label", re.IGNORECASE)
_OTHER_MARKS: Final = re.compile(r"(?P<stem>.+?)_(labels|mask|masks|cp_masks)", re.IGNORECASE)


def label_path(
    output_dir: Path,
    image_path: Path,
    scene: int | None = None,
    names: LabelNames = "challenge",
) -> Path:
    """Path of an image's label file: what is kept of its name, then ``_label.tiff``.

    Args:
        output_dir: folder of the results.
        image_path: the image; only its name matters.
        scene: which image of the file it is, if each of several has a label file.
        names: ``challenge`` keeps the name up to the first dot, as the challenge's scorer expects;
            ``full`` drops the extension only, such as ``.tif`` or ``.ome.tif``.
    """
    is_full = names == "full"
    stem = _OME.sub("", image_path.stem) if is_full else image_path.name.split(".")[0]
    mark = "" if scene is None else f"_s{scene:02d}"
    return output_dir / f"{stem}{mark}_label.tiff"


def check_collisions(paths: Iterable[Path]) -> dict[Path, list[Path]]:
    """Find inputs that share an output name, such as ``a.b.tif`` and ``a.c.tif``.

    Args:
        paths: the input files.

    Returns:
        Output name → its inputs in the given order, for names with more than one input.
    """
    inputs: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        inputs[label_path(Path(), path)].append(path)
    return {name: found for name, found in inputs.items() if len(found) > 1}


def find_marked_stem(path: Path) -> str | None:
    """Name of the image whose labels a file holds, without its extension.

    Args:
        path: a file; only its name counts. ``NAME_label.ext`` is this package's layout; others
            write ``NAME_labels``, ``NAME_mask``, ``NAME_masks`` and ``NAME_cp_masks``.

    Returns:
        ``NAME``; None if the name does not say that the file holds labels.
    """
    if path.suffix.lower() not in LABEL_EXTENSIONS:
        return None
    match = _LABEL.fullmatch(path.stem) or _OTHER_MARKS.fullmatch(path.stem)
    return match["stem"] if match else None


def group_label_files(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Group the files of a folder of labels by image.

    Files named ``NAME_label.ext`` count; without any, those of another mark; without any of these
    either, every file is taken for the labels of an image of its own name.

    Args:
        paths: files of one folder; other extensions and hidden files are ignored.

    Returns:
        Name of the image, without its extension → its label files, in the order given.
    """
    files = [
        path
        for path in paths
        if path.suffix.lower() in LABEL_EXTENSIONS and not path.name.startswith(".")
    ]
    ours = [path for path in files if _LABEL.fullmatch(path.stem)]
    marked = ours or [path for path in files if find_marked_stem(path) is not None]
    groups: dict[str, list[Path]] = {}
    for path in marked or files:
        groups.setdefault(find_marked_stem(path) or path.stem, []).append(path)
    return groups
