"""All exports of a label file in two or three readings of it."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mediar_infer.exports.cells import Cell, index_cells, iterate_cells
from mediar_infer.exports.geojson import writing_geojson
from mediar_infer.exports.intensities import measure_intensities
from mediar_infer.exports.label_rows import OpenLabelRows
from mediar_infer.exports.rois import writing_rois
from mediar_infer.exports.table import measure_cell
from mediar_infer.exports.zarr_labels import write_zarr
from mediar_infer.images.sources import ImageSource

ROI_DIR: Final = "rois"
GEOJSON_DIR: Final = "geojson"
ZARR_DIR: Final = "zarr"


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to make of a label file, and where."""

    output_dir: Path
    """Folder of all results; made if need be."""
    rois: bool = False
    """Write ImageJ ROIs, one a cell: rois/NAME_rois.zip."""
    geojson: bool = False
    """Write QuPath detections: geojson/NAME.geojson."""
    gzip: bool = False
    """Compress GeoJSON: NAME.geojson.gz."""
    zarr: bool = False
    """Write OME-Zarr 0.5 labels: zarr/NAME.ome.zarr (needs the package zarr)."""
    table: Path | None = None
    """Write one row a cell: a file .csv, or .parquet (needs the package pyarrow); a relative name
    lies in the output folder."""
    images: Path | None = None
    """Folder of the images, or one image: the table gets mean and largest intensity of every
    channel."""
    pixel_size_um: tuple[float, float] | None = None
    """(y, x) size of a pixel in µm, in place of what the label file states."""

    def roi_path(self, name: str) -> Path:
        """Where the ROIs of an image go."""
        return self.output_dir / ROI_DIR / f"{name}_rois.zip"

    def geojson_path(self, name: str) -> Path:
        """Where the GeoJSON of an image goes."""
        suffix = ".geojson.gz" if self.gzip else ".geojson"
        return self.output_dir / GEOJSON_DIR / f"{name}{suffix}"

    def zarr_path(self, name: str) -> Path:
        """Where the OME-Zarr of an image goes."""
        return self.output_dir / ZARR_DIR / f"{name}.ome.zarr"


@dataclass(frozen=True, slots=True)
class Exported:
    """What came of one label file."""

    n_cells: int
    """Number of different labels."""
    rows: list[dict[str, Any]]
    """A row of the table for each cell, by label; empty unless the table is asked for."""


def export_labels(
    path: Path, name: str, options: ExportOptions, image: ImageSource | None = None
) -> Exported:
    """Export one label file.

    Memory grows with the width of the image, the height of its tallest cells and, for the table,
    their number.

    Args:
        path: the label file.
        name: name of the image, for file names, UUIDs and the table.
        options: what to make.
        image: the image, open, if the table has its intensities.

    Raises:
        ImageReadError: if labels or image are damaged.
        ShapeError: if they differ in size.
        ExportError: if a package is missing.
        OutputError: if a result cannot be written.
    """
    with OpenLabelRows(path) as labels:
        pixel_size_um = options.pixel_size_um or labels.pixel_size_um
        index = index_cells(labels)
        intensities = None if image is None else measure_intensities(labels, index, image)
        rows: list[dict[str, Any]] = []

        def measure(cell: Cell) -> None:
            row = measure_cell(cell, labels.height, labels.width, pixel_size_um)
            if intensities is not None:
                row |= intensities.columns(cell)
            rows.append({"image": name, **row})

        with ExitStack() as stack:
            takers: list[Callable[[Cell], None]] = []
            if options.rois:
                largest = int(index.ids.max(initial=0))
                takers.append(stack.enter_context(writing_rois(options.roi_path(name), largest)))
            if options.geojson:
                geojson = writing_geojson(options.geojson_path(name), name, pixel_size_um)
                takers.append(stack.enter_context(geojson))
            if options.table is not None:
                takers.append(measure)
            for cell in iterate_cells(labels, index) if takers else ():
                for take in takers:
                    take(cell)
        if options.zarr:
            write_zarr(options.zarr_path(name), labels, pixel_size_um)
    rows.sort(key=lambda row: int(row["label"]))
    return Exported(len(index.ids), rows)
