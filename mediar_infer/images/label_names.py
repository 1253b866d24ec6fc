"""Labels among input files: recognised by name and image beside them, or by what made them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from mediar_infer.errors import ImageReadError
from mediar_infer.images.faults import reading

SOFTWARE: Final = "mediar-infer"
"""Software tag of the TIFF files that this package writes."""

_SUFFIX: Final = "_label"
_OF_LABELS: Final = {"zarr.json", "labels", "cells", ".cells.part"}
"""Everything that an OME-Zarr holds which this package made for labels alone."""


def explain_label_files(paths: Iterable[Path]) -> Mapping[Path, str]:
    """Find label files in a folder of images.

    A file ``NAME_label.…`` is one if an image ``NAME.…`` lies beside it, or if it is a TIFF that
    this package wrote. An image of such a name, of a dye perhaps, stays one.

    Args:
        paths: files of the folder that count as images.

    Returns:
        Label file → why it is taken for one.
    """
    listed = list(paths)
    images = {path.name.partition(".")[0]: path.name for path in listed}
    images |= {path.stem: path.name for path in listed}  # names with dots, kept in full
    reasons: dict[Path, str] = {}
    for path in listed:
        name = path.stem.partition(".")[0] if path.stem.endswith(_SUFFIX) else None
        if name is None:
            continue
        image = images.get(path.stem.removesuffix(_SUFFIX), images.get(name.removesuffix(_SUFFIX)))
        if image is not None and image != path.name:
            reasons[path] = f"label file of {image} by its name; rename it to segment it"
        elif _is_own_work(path):
            reasons[path] = f"label file that {SOFTWARE} wrote"
    return reasons


def is_zarr_of_labels(group: Path) -> bool:
    """Whether an OME-Zarr holds the labels that this package exports, and nothing else.

    Raises:
        OSError: if it cannot be listed.
    """
    labels = group / "labels"
    if not labels.is_dir():
        return False
    return {path.name for folder in (group, labels) for path in folder.iterdir()} <= _OF_LABELS


def _is_own_work(path: Path) -> bool:
    import tifffile  # takes time, and few folders hold such a name

    try:
        with reading(path.name, "Software tag"), tifffile.TiffFile(path) as tif:
            return bool(tif.pages.first.software == SOFTWARE)
    except ImageReadError:
        return False  # another format, or damaged, which is reported when it is read
