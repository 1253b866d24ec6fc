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
from mediar_infer.exports.measures import Columns, ShapeMeasures, confidence_columns
from mediar_infer.exports.options import ExportOptions, roi_path, zarr_path
from mediar_infer.exports.rois import writing_rois
from mediar_infer.exports.table import check_table
from mediar_infer.exports.zarr_labels import check_zarr, write_zarr
from mediar_infer.images.sources import ImageSource
from mediar_infer.labels.confidence import CellConfidence
from mediar_infer.output_files import to_output_error


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
    confidence: CellConfidence | None = None,
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
        confidence: of the cells, if the table has it; known only where the labels are made.
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
            writers: list[tuple[Path, Callable[[Cell], None]]] = []
            if options.rois:
                rois_at, largest = roi_path(output_dir, name), int(index.ids.max(initial=0))
                writers.append((rois_at, stack.enter_context(writing_rois(rois_at, largest))))
            geojson_at = options.geojson_path(output_dir, name)
            if geojson_at is not None:
                geojson = writing_geojson(geojson_at, name, pixel_size_um)
                writers.append((geojson_at, stack.enter_context(geojson)))
            for cell in iterate_cells(labels, index) if writers or shapes else ():
                if shapes is not None:
                    shapes.add(cell)
                for result, write in writers:
                    try:
                        write(cell)
                    except OSError as error:
                        # All results are open: only here it is known which of them failed.
                        raise to_output_error(result, error) from error
        if options.zarr:
            write_zarr(zarr_path(output_dir, name), labels, pixel_size_um)
        columns = None
        if shapes is not None:
            columns = dict(shapes.columns(labels.height, labels.width, pixel_size_um))
            if confidence is not None:
                columns |= confidence_columns(columns["label"], confidence)
            if image is not None:
                columns |= measure_intensities(labels, index, image)
    return Exported(index.boxes[:, 4].copy(), pixel_size_um, columns)
