"""All exports of a label file in two or three readings of it."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

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
            largest_id = int(index.ids.max(initial=0))
            writers = _open_writers(stack, name, options, output_dir, largest_id, pixel_size_um)
            if writers or shapes is not None:
                _visit_cells(iterate_cells(labels, index), writers, shapes)
        if options.zarr:
            write_zarr(zarr_path(output_dir, name), labels, pixel_size_um)
        columns: dict[str, npt.NDArray[Any]] | None = None
        if shapes is not None:
            columns = dict(shapes.columns(labels.height, labels.width, pixel_size_um))
            if confidence is not None:
                columns |= confidence_columns(columns["label"], confidence)
            if image is not None:
                columns |= measure_intensities(labels, index, image)
    return Exported(index.boxes[:, 4].copy(), pixel_size_um, columns)


def _open_writers(
    stack: ExitStack,
    name: str,
    options: ExportOptions,
    output_dir: Path,
    largest_id: int,
    pixel_size_um: tuple[float, float] | None,
) -> dict[Path, Callable[[Cell], None]]:
    """Open the files that get one cell after the other: file → what writes a cell to it."""
    writers = {}
    if options.rois:
        path = roi_path(output_dir, name)
        writers[path] = stack.enter_context(writing_rois(path, largest_id))
    geojson = options.geojson_path(output_dir, name)
    if geojson is not None:
        writers[geojson] = stack.enter_context(writing_geojson(geojson, name, pixel_size_um))
    return writers


def _visit_cells(
    cells: Iterable[Cell],
    writers: Mapping[Path, Callable[[Cell], None]],
    shapes: ShapeMeasures | None,
) -> None:
    """Measure each cell if there is a table, and write it to all open files."""
    for cell in cells:
        if shapes is not None:
            shapes.add(cell)
        for path, write in writers.items():
            try:
                write(cell)
            except OSError as error:
                # All files are open: only here it is known which of them failed.
                raise to_output_error(path, error) from error
