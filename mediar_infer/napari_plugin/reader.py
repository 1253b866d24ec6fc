"""Label files as Labels layers, with the size of a pixel and the table of cells."""

import csv
import logging
from collections.abc import Callable, Sequence
from glob import escape
from pathlib import Path
from typing import Any, Final

from mediar_infer.errors import MediarError
from mediar_infer.exports.label_rows import open_label_rows
from mediar_infer.images.label_names import explain_label_files
from mediar_infer.labels.files import read_label_header
from mediar_infer.labels.naming import find_marked_stem
from mediar_infer.labels.plausibility import find_label_fault
from mediar_infer.labels.reading import read_labels

logger = logging.getLogger(__name__)

TABLE_NAME: Final = "cells.csv"
"""Table of cells that is looked for beside a label file."""
_UM: Final = "um"

LayerReader = Callable[[str | Sequence[str]], list[tuple[Any, dict[str, Any], str]]]
"""Path → array, settings and kind of each layer, as napari takes them."""


def get_label_reader(path: str | Sequence[str]) -> LayerReader | None:
    """Say whether a file is a label file, as napari asks before it opens one.

    ``NAME_label.tiff`` is one if ``NAME.…`` lies beside it, if this package wrote it, or if its
    numbers are those of cells: an image of a dye may have such a name too.

    Args:
        path: the file, or several for a stack.

    Returns:
        The reader; None leaves the file to other readers.
    """
    paths = [path] if isinstance(path, str) else list(path)
    if len(paths) != 1:
        return None
    return read_label_layer if _is_label_file(Path(paths[0])) else None


def _is_label_file(path: Path) -> bool:
    stem = find_marked_stem(path)
    if stem is None or not path.is_file():
        return False
    first = stem.partition(".")[0]
    if path in explain_label_files([*path.parent.glob(f"{escape(first)}.*"), path]):
        return True
    try:
        return find_label_fault(read_labels(path)) is None
    except MediarError:
        return False


def read_label_layer(path: str | Sequence[str]) -> list[tuple[Any, dict[str, Any], str]]:
    """Read a label file as a Labels layer.

    Args:
        path: the file.

    Returns:
        One layer: ``(H, W)`` uint32, with its scale in µm where the file states one, the columns of
        ``cells.csv`` as features, and the provenance of the labels as metadata.

    Raises:
        ImageReadError: if the file is damaged.
    """
    file = Path(path if isinstance(path, str) else path[0])
    with open_label_rows(file) as rows:
        labels, size_um = rows.read(0, rows.height), rows.pixel_size_um
    settings: dict[str, Any] = {"name": file.stem}
    if size_um is not None:
        settings |= {"scale": size_um, "units": (_UM, _UM)}
    header = read_label_header(file)
    if header is not None and header.facts:
        settings["metadata"] = {"mediar_infer": dict(header.facts)}
    features = _read_features(file.with_name(TABLE_NAME), find_marked_stem(file) or file.stem)
    if features:
        settings["features"] = features
    return [(labels, settings, "labels")]


def _read_features(path: Path, image_name: str) -> dict[str, list[Any]]:
    """Columns of the rows of one image; napari finds a cell's row by the column ``index``."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("image") == image_name]
            columns = {
                name: [_to_value(row[name]) for row in rows]
                for name in (rows[0] if rows else ())
                if name != "image"
            }
            return {"index": [int(label) for label in columns["label"]], **columns} if rows else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        logger.warning(
            "%s: found no table of cells (%s), expected that of mediar-infer export --table; the"
            " labels are shown without it",
            path,
            error,
        )
        return {}


def _to_value(text: str) -> float | bool | str:
    if text in ("True", "False"):
        return text == "True"
    try:
        return float(text) if text else float("nan")
    except ValueError:
        return text
