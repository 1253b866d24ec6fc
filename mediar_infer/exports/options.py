"""What to make of label files, and where each result lies: the options that commands share."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from mediar_infer.errors import UsageError

ROI_DIR: Final = "rois"
GEOJSON_DIR: Final = "geojson"
ZARR_DIR: Final = "zarr"
ZARR_LABELS: Final = "cells"
"""Name of the labels in the group ``labels`` of an OME-Zarr."""
CSV: Final = ".csv"
PARQUET: Final = ".parquet"
"""Suffixes of tables."""


def roi_path(folder: Path, name: str) -> Path:
    """Where the ROIs of an image go.

    Args:
        folder: of the results.
        name: of the image, as in the name of its label file.
    """
    return folder / ROI_DIR / f"{name}_rois.zip"


def geojson_path(folder: Path, name: str, *, is_packed: bool) -> Path:
    """Where the GeoJSON of an image goes, plain or compressed."""
    suffix = ".geojson.gz" if is_packed else ".geojson"
    return folder / GEOJSON_DIR / f"{name}{suffix}"


def zarr_path(folder: Path, name: str) -> Path:
    """Where the OME-Zarr of an image goes."""
    return folder / ZARR_DIR / f"{name}.ome.zarr"


def list_export_files(folder: Path, name: str) -> list[Path]:
    """Files that an image may have been exported to; its OME-Zarr is a folder."""
    packed = (geojson_path(folder, name, is_packed=is_packed) for is_packed in (False, True))
    return [roi_path(folder, name), *packed]


def _has_zarr_labels(folder: Path, name: str) -> bool:
    """Whether an OME-Zarr has the labels, and lists them: readers do not see others."""
    labels = zarr_path(folder, name) / "labels"
    if not (labels / ZARR_LABELS).is_dir():
        return False
    try:
        listed = json.loads((labels / "zarr.json").read_bytes())["attributes"]["ome"]["labels"]
        return ZARR_LABELS in listed
    except (OSError, ValueError, KeyError, TypeError):
        return False


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to make of label files."""

    rois: bool = False
    """Write ImageJ ROIs, one a cell: rois/NAME_rois.zip."""
    geojson: bool = False
    """Write QuPath detections: geojson/NAME.geojson."""
    gzip: bool = False
    """Write QuPath detections compressed: geojson/NAME.geojson.gz, in place of --geojson."""
    zarr: bool = False
    """Write OME-Zarr 0.5 labels: zarr/NAME.ome.zarr (needs the package zarr)."""
    table: Path | None = None
    """Write one row a cell: a file .csv, or .parquet (needs the package pyarrow); a relative name
    lies in the output folder."""

    def __post_init__(self) -> None:
        if self.table is not None and self.table.suffix.lower() not in (CSV, PARQUET):
            # Any other name may be that of an image or a label file, which it would replace.
            raise UsageError(
                f"{self.table}: found a table without the suffix {CSV} or {PARQUET}, expected one"
                f" of them; name it {self.table.stem or 'cells'}{CSV}"
            )

    def __bool__(self) -> bool:
        return bool(self.rois or self.geojson or self.gzip or self.zarr or self.table)

    def geojson_path(self, folder: Path, name: str) -> Path | None:
        """Where the GeoJSON of an image goes; None if it is not asked for."""
        if not (self.geojson or self.gzip):
            return None
        return geojson_path(folder, name, is_packed=self.gzip)

    def table_path(self, folder: Path) -> Path | None:
        """Where the table goes; None if it is not asked for."""
        return self.table and folder / self.table  # an absolute name stays

    def without_files(self, folder: Path, name: str) -> "ExportOptions":
        """What is left to do for an image: everything but the files that are there."""
        geojson = self.geojson_path(folder, name)
        lacks_geojson = geojson is not None and not geojson.is_file()
        return replace(
            self,
            rois=self.rois and not roi_path(folder, name).is_file(),
            geojson=self.geojson and lacks_geojson,
            gzip=self.gzip and lacks_geojson,
            zarr=self.zarr and not _has_zarr_labels(folder, name),
        )
