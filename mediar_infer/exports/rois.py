"""Cells as ImageJ ROIs in one zip file, for ImageJ, Fiji and whatever reads their ROI sets."""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from mediar_infer.exports.cells import Cell, Part
from mediar_infer.output_files import writing_output

if TYPE_CHECKING:
    from roifile import ImagejRoi

_LARGEST_INTEGER: Final = 2**15 - 1
"""ImageJ stores coordinates as 16-bit integers; beyond, they are stored as floats too."""
_MOVE, _LINE, _CLOSE = 0.0, 1.0, 4.0
_ZIP_DATE: Final = (1980, 1, 1, 0, 0, 0)
"""The earliest that a zip file knows: equal labels give equal files."""


@contextmanager
def writing_rois(path: Path, largest_id: int) -> Iterator[Callable[[Cell], None]]:
    """Open a zip file that gets one ROI a cell, named after its id (``0001``).

    A ROI runs along the corners of pixels, so that it covers exactly the pixels of its cell. A cell
    in several parts or with holes is one composite ROI.

    Args:
        path: the zip file; complete after the ``with`` block, absent after an error.
        largest_id: decides how many digits the names have, four at least.

    Yields:
        A function that writes the ROI of a cell.

    Raises:
        OutputError: if the file cannot be written.
    """
    n_digits = max(4, len(str(largest_id)))
    with writing_output(path) as file, zipfile.ZipFile(file, "w") as archive:

        def add(cell: Cell) -> None:
            name = str(cell.id).zfill(n_digits)
            entry = zipfile.ZipInfo(f"{name}.roi", _ZIP_DATE)
            archive.writestr(entry, to_roi(cell.parts, name).tobytes(), zipfile.ZIP_DEFLATED, 1)

        yield add


def to_roi(parts: tuple[Part, ...], name: str) -> "ImagejRoi":
    """Make the ROI of a cell.

    Args:
        parts: its parts.
        name: what ImageJ's ROI manager shows.

    Returns:
        A traced ROI for a single part without holes, else a composite one.
    """
    from roifile import ROI_OPTIONS, ROI_TYPE, ImagejRoi

    if len(parts) == 1 and not parts[0].holes:
        points: npt.NDArray[Any] = parts[0].shell
        if points.max() > _LARGEST_INTEGER:
            points = points.astype(np.float32)
        roi = ImagejRoi.frompoints(points, name=name)
        roi.roitype = ROI_TYPE.TRACED
        return roi
    rings = [ring for part in parts for ring in (part.shell, *part.holes)]
    corners = np.concatenate(rings)
    left, top = corners.min(axis=0).tolist()
    right, bottom = corners.max(axis=0).tolist()
    path = np.concatenate([_to_path(ring) for ring in rings])
    roi = ImagejRoi()
    roi.name = name
    roi.roitype = ROI_TYPE.RECT
    roi.options = ROI_OPTIONS.OVERLAY_BACKGROUNDS | ROI_OPTIONS.OVERLAY_LABELS
    roi.left, roi.top, roi.right, roi.bottom = left, top, right, bottom
    roi.multi_coordinates = path
    roi.shape_roi_size = len(path)
    return roi


def _to_path(ring: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """A ring as commands of a path: move, lines, close."""
    lines = np.empty((len(ring), 3), np.float32)
    lines[:, 0] = _LINE
    lines[0, 0] = _MOVE
    lines[:, 1:] = ring
    return np.append(lines.ravel(), np.float32(_CLOSE))
