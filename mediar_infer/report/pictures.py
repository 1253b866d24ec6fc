"""Small pictures for the page: the image, and the outlines of its cells as a separate layer."""

import base64
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mediar_infer.errors import ImageReadError
from mediar_infer.exports.cells import BAND_ROWS, LabelRows
from mediar_infer.exports.label_rows import open_label_rows
from mediar_infer.images.open import open_image
from mediar_infer.images.sources import ImageSource
from mediar_infer.labels.overlay import draw_outlines, draw_picture

_SIDES = (512, 400, 320, 240, 160)
_MAX_BYTES = 72_000
"""For both layers of an image together; base64 adds a third, which stays under 100 kB."""
_PICTURE_QUALITY = 80
_LOSSLESS = 101


@dataclass(frozen=True, slots=True)
class Layers:
    """Pictures of one image as ``data:`` URLs of WebP files; empty where there is none."""

    picture: str = ""
    """The image, contrast-stretched."""
    outlines: str = ""
    """Coloured outlines on a transparent background, of the same size."""


def draw_files(image: Path | None, labels: Path | None) -> Layers:
    """Draw both layers of an image as large as the limit allows.

    Args:
        image: the image; without a readable one, its picture is omitted.
        labels: the label file; without a readable one, the outlines are omitted.

    Returns:
        The layers, at most 100 kB together unless even the smallest size needs more.
    """
    pixels = cells = None
    # Not readable, not 2-D or not integers: a finding says so.
    with suppress(ImageReadError):
        if image is not None:
            with open_image(image) as source:
                pixels = read_reduced(source, _SIDES[0])
    with suppress(ImageReadError):
        if labels is not None:
            with open_label_rows(labels) as rows:
                cells = read_sampled(rows, _SIDES[0])
    return _draw(pixels, cells)


def draw_layers(image: ImageSource, labels: LabelRows) -> Layers:
    """Draw both layers of an image that is open.

    Memory grows with the width of the image, not with its height.

    Args:
        image: the image.
        labels: its labels.

    Returns:
        As ``draw_files``.

    Raises:
        ImageReadError: if one of them is damaged.
    """
    return _draw(read_reduced(image, _SIDES[0]), read_sampled(labels, _SIDES[0]))


def _draw(pixels: npt.NDArray[Any] | None, cells: npt.NDArray[np.integer[Any]] | None) -> Layers:
    encoded: list[bytes] = []
    for side in _SIDES:
        encoded = [
            b"" if pixels is None else _encode_picture(draw_picture(pixels, max_side=side)),
            b"" if cells is None else _encode_outlines(draw_outlines(cells, max_side=side)),
        ]
        if sum(map(len, encoded)) <= _MAX_BYTES:
            break
    return Layers(*map(_to_data_url, encoded))


def read_sampled(labels: LabelRows, side: int) -> npt.NDArray[np.uint32]:
    """Read some pixels of a label image in bands: a whole slide is never in memory.

    Args:
        labels: the label image.
        side: a length in pixels.

    Returns:
        ``(h, w)`` uint32: the unchanged labels if their longer side is at most ``side``, else every
        so many rows and columns of them (nearest neighbour), so that it has that length.
    """
    scale = min(1.0, side / max(labels.height, labels.width))
    height, width = (max(1, round(n * scale)) for n in (labels.height, labels.width))
    wanted = ((np.arange(height) + 0.5) * labels.height / height).astype(np.intp)
    columns = ((np.arange(width) + 0.5) * labels.width / width).astype(np.intp)
    sampled = np.empty((height, width), np.uint32)
    for top in range(0, labels.height, BAND_ROWS):
        first, last = np.searchsorted(wanted, (top, top + BAND_ROWS))
        if first < last:
            band = labels.read(top, min(top + BAND_ROWS, labels.height))
            sampled[first:last] = band[wanted[first:last] - top][:, columns]
    return sampled


def read_reduced(source: ImageSource, side: int) -> npt.NDArray[Any]:
    """Read an image in bands, each reduced immediately: a whole slide is never in memory.

    Args:
        source: the image.
        side: a length in pixels.

    Returns:
        ``(h, w, 3)``: the unchanged image in its dtype if its longer side is below twice ``side``,
        else reduced by a whole factor to between once and twice that, as float32.
    """
    factor = max(source.height, source.width) // side
    if factor < 2:
        return source.read_rows(0, source.height)
    width = max(1, source.width // factor)
    n_rows = max(1, 256 // factor) * factor
    bands = []
    for top in range(0, source.height, n_rows):
        band = source.read_rows(top, min(top + n_rows, source.height)).astype(np.float32)
        size = (width, max(1, len(band) // factor))
        bands.append(cv2.resize(band, size, interpolation=cv2.INTER_AREA))
    return np.concatenate(bands)


def _encode_picture(picture: npt.NDArray[np.uint8]) -> bytes:
    options = [cv2.IMWRITE_WEBP_QUALITY, _PICTURE_QUALITY]
    _, encoded = cv2.imencode(".webp", picture[..., ::-1], options)
    return encoded.tobytes()


def _encode_outlines(outlines: npt.NDArray[np.uint8]) -> bytes:
    options = [cv2.IMWRITE_WEBP_QUALITY, _LOSSLESS]
    _, encoded = cv2.imencode(".webp", outlines[..., [2, 1, 0, 3]], options)
    return encoded.tobytes()


def _to_data_url(data: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(data).decode('ascii')}" if data else ""
