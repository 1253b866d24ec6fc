"""All exports of a label file in two or three readings of it."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mediar_infer.exports.cells import Cell, index_cells, iterate_cells
from mediar_infer.exports.compiled import Int64Array, load_cell_kernels
from mediar_infer.exports.geojson import writing_geojson
from mediar_infer.exports.intensities import measure_intensities
from mediar_infer.exports.label_rows import open_label_rows
from mediar_infer.exports.measures import Columns, ShapeMeasures
from mediar_infer.exports.options import ExportOptions, roi_path, zarr_path
from mediar_infer.exports.rois import writing_rois
from mediar_infer.exports.table import check_table
from mediar_infer.exports.zarr_labels import check_zarr, write_zarr
from mediar_infer.images.sources import ImageSource


@dataclass(frozen=True, slots=True, eq=False)
class Exported:
    """What came of one label file, apart from files."""

    areas: Int64Array
    """``(n,)`` area of each cell in pixels, in no order."""
    pixel_size_um: tuple[float, float] | None
    """(y, x) size of a pixel in µm; None if unknown."""
    columns: Columns | None
    """Rows of the table, a cell each, by their labels; None unless the table is asked for."""


def check_exports(options: ExportOptions) -> None:
    """Refuse exports that this installation cannot make, before any work is done for them.

    Raises:
        ExportError: if a package or the compiled loops are missing.
    """
    load_cell_kernels()
    if options.zarr:
        check_zarr()
    if options.table is not None:
        check_table(options.table)


def export_labels(
    path: Path,
    name: str,
    options: ExportOptions,
    output_dir: Path,
    *,
    image: ImageSource | None = None,
    pixel_size_um: tuple[float, float] | None = None,
) -> Exported:
    """Export one label file.

    Memory grows with the width of the image, the height of its tallest cells and their number.

    Args:
        path: the label file.
        name: name of the image, for file names, UUIDs and the table.
        options: what to make; nothing gives the areas alone.
        output_dir: folder of all results; made if need be.
        image: the image, open, if the table has its intensities.
        pixel_size_um: (y, x) size of a pixel in µm, in place of what the label file states.

    Raises:
        ImageReadError: if labels or image are damaged.
        ShapeError: if they differ in size.
        ExportError: if a package is missing.
        OutputError: if a result cannot be written; each is then complete or absent.
    """
    with open_label_rows(path) as labels:
        pixel_size_um = pixel_size_um or labels.pixel_size_um
        index = index_cells(labels)
        shapes = None if options.table is None else ShapeMeasures(index)
        with ExitStack() as stack:
            takers: list[Callable[[Cell], None]] = []
            if options.rois:
                largest = int(index.ids.max(initial=0))
                rois = writing_rois(roi_path(output_dir, name), largest)
                takers.append(stack.enter_context(rois))
            geojson_path = options.geojson_path(output_dir, name)
            if geojson_path is not None:
                geojson = writing_geojson(geojson_path, name, pixel_size_um)
                takers.append(stack.enter_context(geojson))
            if shapes is not None:
                takers.append(shapes.add)
            for cell in iterate_cells(labels, index) if takers else ():
                for take in takers:
                    take(cell)
        if options.zarr:
            write_zarr(zarr_path(output_dir, name), labels, pixel_size_um)
        columns = None
        if shapes is not None:
            columns = dict(shapes.columns(labels.height, labels.width, pixel_size_um))
            if image is not None:
                columns |= measure_intensities(labels, index, image)
    return Exported(index.boxes[:, 4].copy(), pixel_size_um, columns)
