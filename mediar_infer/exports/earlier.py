"""Exports of an earlier run, which show other labels than those that are about to be written."""

import shutil
from pathlib import Path

from mediar_infer.exports.options import ZARR_LABELS, list_export_files, zarr_path
from mediar_infer.images.label_names import is_zarr_of_labels
from mediar_infer.output_files import remove_result, to_output_error


def remove_exports(folder: Path, name: str) -> None:
    """Remove what an earlier run exported of an image. Its rows in a table stay.

    Args:
        folder: of the results.
        name: of the image.

    Raises:
        OutputError: if something cannot be removed.
    """
    for path in list_export_files(folder, name):
        remove_result(path)
    group = zarr_path(folder, name)
    try:
        _remove_zarr(group)
    except OSError as error:
        raise to_output_error(group, error) from error


def _remove_zarr(group: Path) -> None:
    """Remove labels; a group that holds an image too, or anything else, stays."""
    cells = group / "labels" / ZARR_LABELS
    if is_zarr_of_labels(group):
        shutil.rmtree(group)
    elif cells.exists():
        shutil.rmtree(cells)
