"""Which image a label file belongs to, told from its name."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

LABEL_EXTENSIONS: Final = frozenset({".tiff", ".tif", ".png", ".bmp"})
"""Extensions of label files, in lower case."""

_LABEL: Final = re.compile(r"(?P<stem>.+)_label", re.IGNORECASE)
_OTHER_MARKS: Final = re.compile(r"(?P<stem>.+?)_(labels|mask|masks|cp_masks)", re.IGNORECASE)


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
