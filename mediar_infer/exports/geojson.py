"""Cells as GeoJSON, in the form that QuPath imports as detections."""

import gzip
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import IO, Any, Final, cast

import numpy as np

from mediar_infer.exports.cells import Cell, Part
from mediar_infer.exports.compiled import Int32Array
from mediar_infer.exports.text_names import to_text
from mediar_infer.output_files import writing_output

_GZIP_LEVEL: Final = 4


@contextmanager
def writing_geojson(
    path: Path, image: str, pixel_size_um: tuple[float, float] | None = None
) -> Iterator[Callable[[Cell], None]]:
    """Open a FeatureCollection that gets one Feature a cell; a name in ``.gz`` compresses it.

    Coordinates are pixels of the full resolution, (x, y) from the upper left corner of the image.
    Outer rings are counter-clockwise in that plane, as RFC 7946 asks.

    Args:
        path: the file; complete after the ``with`` block, absent after an error.
        image: name of the image; a cell's UUID depends on it and on its label alone.
        pixel_size_um: (y, x) size of a pixel in µm, for the areas; None if unknown.

    Yields:
        A function that writes a cell.

    Raises:
        OutputError: if the file cannot be written.
    """
    image = to_text(image)
    separators = chain(["\n"], repeat(",\n"))
    encode = json.JSONEncoder(
        ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
    ).encode
    with writing_output(path) as file, _compressing(file, path) as stream:

        def add(cell: Cell) -> None:
            feature = to_feature(cell, image, pixel_size_um)
            stream.write((next(separators) + encode(feature)).encode("utf-8"))

        stream.write(b'{"type":"FeatureCollection","features":[')
        yield add
        stream.write(b"\n]}\n")


@contextmanager
def _compressing(file: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    if path.suffix.lower() != ".gz":
        yield file
        return
    # No name and no time inside: equal labels give equal files.
    with gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as stream:
        yield cast("IO[bytes]", stream)


def to_feature(cell: Cell, image: str, pixel_size_um: tuple[float, float] | None) -> dict[str, Any]:
    """Make the Feature of a cell: a detection with its area.

    Args:
        cell: the cell.
        image: name of the image.
        pixel_size_um: (y, x) size of a pixel in µm; None if unknown.

    Returns:
        A Feature with a Polygon, or a MultiPolygon for a cell in several parts.
    """
    polygons = [_to_polygon(part) for part in cell.parts]
    geometry: dict[str, Any] = {"type": "Polygon", "coordinates": polygons[0]}
    if len(polygons) > 1:
        geometry = {"type": "MultiPolygon", "coordinates": polygons}
    measurements: dict[str, float] = {"Label": cell.id, "Area px^2": cell.area}
    if pixel_size_um is not None:
        measurements["Area µm^2"] = cell.area * pixel_size_um[0] * pixel_size_um[1]
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{image}#{cell.id}")),
        "geometry": geometry,
        "properties": {
            "objectType": "detection",
            "name": str(cell.id),
            "measurements": measurements,
        },
    }


def _to_polygon(part: Part) -> list[list[list[int]]]:
    return [_to_ring(ring) for ring in (part.shell, *part.holes)]


def _to_ring(ring: Int32Array) -> list[list[int]]:
    closed: list[list[int]] = np.concatenate([ring, ring[:1]]).tolist()
    return closed
