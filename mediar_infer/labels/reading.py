"""Label images from any program as arrays of whole numbers."""

import io
import logging
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import tifffile

from mediar_infer.arrays import AnyArray
from mediar_infer.errors import ImageReadError
from mediar_infer.images.formats import HEAD_BYTES, find_format
from mediar_infer.images.raster import decode, read_header
from mediar_infer.images.tiff_compressions import find_lossy_compression
from mediar_infer.images.tiff_directories import tiff_file
from mediar_infer.images.tiff_segments import count_missing_of_page, stated_pages

logger = logging.getLogger(__name__)

_RASTERS: Final = ("PNG", "BMP")
_MAX_WHOLE: Final = 2**53
"""Larger floats may stand for several whole numbers."""
_OTHER_FORMATS: Final = {
    "JPEG": "JPEG, which changes the numbers",
    "ZIP": "a ZIP archive (ImageJ saves sets of ROIs so)",
    "text": "text (outlines or annotations, perhaps)",
}


def read_labels(path: Path) -> npt.NDArray[np.integer[Any]]:
    """Read a label image from TIFF, PNG or BMP.

    Cells keep the numbers that the file stores: those of an indexed file are its indices, not the
    colours of its table. Axes of length 1, three equal colours, and opacity that is the same
    everywhere are dropped. Of several images in a TIFF the largest is read, so that a preview
    never takes its place.

    Args:
        path: one image of whole numbers; floats are accepted if they are whole.

    Returns:
        ``(H, W)`` in the integer type of the file (int64 for floats, uint8 for bool).

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
        labels = _read_tiff(path)
    elif format_name in _RASTERS:
        labels = _read_raster(path, format_name)
    else:
        raise ImageReadError(
            f"{path.name}: found {_OTHER_FORMATS.get(format_name, format_name)}, expected a label "
            "image; save the number of each pixel's cell as grey TIFF or PNG"
        )
    return _whole_numbers(path.name, _drop_equal_channels(labels), labels.shape)


def _read_tiff(path: Path) -> AnyArray:
    with tiff_file(path, "label image") as tif:
        series = _choose_series(tif, path.name)
        _check_series(path.name, series)
        labels: AnyArray = series.asarray()
        axes = series.axes.upper()
        has_named_axes = {"Y", "X"} <= set(axes)
        shape = [
            size
            for letter, size in zip(axes, labels.shape, strict=True)
            if size > 1 or (has_named_axes and letter in "YX")
        ]
    return labels.reshape([1] * (2 - len(shape)) + shape)


def _choose_series(tif: tifffile.TiffFile, name: str) -> Any:  # noqa: ANN401 (tifffile is untyped)
    """Choose the largest image at full resolution; previews and further ones are not read."""
    full = [series for series in tif.series if not series.keyframe.is_reduced] or list(tif.series)
    if not full:
        raise ImageReadError(f"{name}: found a TIFF without an image, expected labels")
    areas = [int(series.keyframe.imagelength * series.keyframe.imagewidth) for series in full]
    largest = [series for series, area in zip(full, areas, strict=True) if area == max(areas)]
    if len(largest) > 1:
        raise ImageReadError(
            f"{name}: found {len(largest)} images of {largest[0].keyframe.imagelength} × "
            f"{largest[0].keyframe.imagewidth} pixels, expected the labels alone; save them as a "
            "file of their own"
        )
    if len(full) > 1:
        logger.warning(
            "%s: found %d images, of which the largest is read as labels", name, len(full)
        )
    return largest[0]


def _check_series(name: str, series: Any) -> None:  # noqa: ANN401
    """Refuse numbers that are not as saved; tifffile reads strips without data as background."""
    lossy = find_lossy_compression(series.keyframe)
    if lossy is not None:
        raise ImageReadError(
            f"{name}: found {lossy} compression, which changes the numbers, expected labels as"
            " they were; save them again without loss, such as with deflate"
        )
    pages = [page for page in stated_pages(series) if page is not None]
    n_missing = sum(count_missing_of_page(name, page) for page in pages)
    if n_missing:
        logger.warning("%s: %d tiles are not stored and read as background", name, n_missing)


def _read_raster(path: Path, format_name: str) -> AnyArray:
    data = path.read_bytes()
    header = read_header(path.name, format_name, data)
    indices = _read_indices(data)
    return decode(path.name, format_name, data, header) if indices is None else indices


def _read_indices(data: bytes) -> AnyArray | None:
    """Indices of an indexed PNG or BMP file; None if it is not indexed, or damaged."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_RASTERS) as image:
                return np.array(image) if image.mode == "P" else None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None  # the decoder of images says what is wrong


def _drop_equal_channels(labels: AnyArray) -> AnyArray:
    """Drop opacity that is the same everywhere, and two of three equal colours."""
    if labels.ndim != 3:
        return labels
    if labels.shape[2] in (2, 4) and (labels[..., -1] == labels[0, 0, -1]).all():
        labels = labels[..., :-1]
    is_grey = labels.shape[2] == 1 or (labels.shape[2] == 3 and (labels == labels[..., :1]).all())
    return np.ascontiguousarray(labels[..., 0]) if is_grey else labels


def _whole_numbers(
    name: str, labels: AnyArray, shape: tuple[int, ...]
) -> npt.NDArray[np.integer[Any]]:
    if labels.ndim == 2 and labels.dtype.kind == "f":
        is_whole = (np.abs(labels) <= _MAX_WHOLE).all() and (labels == np.trunc(labels)).all()
        if is_whole:
            return labels.astype(np.int64)
    if labels.ndim != 2 or labels.dtype.kind not in "iub":
        raise ImageReadError(
            f"{name}: found an array of shape {shape} and type {labels.dtype}, expected one "
            "(H, W) image of whole numbers; export the labels as grey TIFF or PNG"
        )
    return labels.astype(np.uint8) if labels.dtype.kind == "b" else labels
