"""Label images of any origin as arrays of whole numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from mediar_infer.errors import ImageReadError
from mediar_infer.images.raster import HEAD_BYTES, decode, find_format, read_header
from mediar_infer.images.sources import AnyArray
from mediar_infer.images.tiff_rows import reading_tiff


def read_labels(path: Path) -> npt.NDArray[np.integer[Any]]:
    """Read a label image from TIFF, PNG or BMP.

    Args:
        path: one grey image; floats are accepted if all are whole numbers.

    Returns:
        ``(H, W)`` in the integer type of the file (int64 for floats).

    Raises:
        ImageReadError: if the file is damaged or not one 2-D image of whole numbers.
    """
    try:
        with path.open("rb") as file:
            format_name = find_format(file.read(HEAD_BYTES))
    except OSError as exc:
        raise ImageReadError(
            f"{path.name}: found a file that cannot be opened ({exc.strerror}), expected labels; "
            "check that it exists and may be read"
        ) from exc
    if format_name == "TIFF":
        with reading_tiff(path.name, "the label image"), tifffile.TiffFile(path) as tif:
            labels = tif.series[0].asarray()
            shape = labels.shape
            if labels.size == np.prod(shape[-2:]):  # leading axes of length 1
                labels = labels.reshape(shape[-2:])
    elif format_name in ("PNG", "BMP"):
        data = path.read_bytes()
        labels = decode(path.name, format_name, data, read_header(path.name, format_name, data))
        shape = labels.shape
    else:
        raise ImageReadError(
            f"{path.name}: found {format_name}, expected labels in a lossless format; "
            "save them as TIFF or PNG"
        )
    return _whole_numbers(path.name, labels, shape)


def _whole_numbers(
    name: str, labels: AnyArray, shape: tuple[int, ...]
) -> npt.NDArray[np.integer[Any]]:
    if labels.ndim == 2 and labels.dtype.kind == "f" and (labels == np.trunc(labels)).all():
        return labels.astype(np.int64)
    if labels.ndim != 2 or labels.dtype.kind not in "iub":
        raise ImageReadError(
            f"{name}: found an array of shape {shape} and type {labels.dtype}, expected one "
            "(H, W) image of whole numbers; export the labels as grey TIFF or PNG"
        )
    return labels.astype(np.uint8) if labels.dtype.kind == "b" else labels
