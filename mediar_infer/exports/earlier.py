"""Exports of an earlier run, which show other labels than those that are about to be written."""

import shutil
from pathlib import Path
from typing import Final

from mediar_infer.exports.options import list_export_files, zarr_path
from mediar_infer.output_files import remove_result, to_output_error

_OURS: Final = {"zarr.json", "labels", "cells", ".cells.part"}
"""Everything that a group holds which was made for labels alone."""


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
    labels = group / "labels"
    if labels.is_dir():
        found = {path.name for folder in (group, labels) for path in folder.iterdir()}
        shutil.rmtree(group if found <= _OURS else labels / "cells", ignore_errors=True)
