"""What cameras note in small TIFFs: the orientation, and how many pictures a file holds."""

import struct
from collections.abc import Iterator

from mediar_infer.arrays import AnyArray

_ORDERS = {b"II": "<", b"MM": ">"}
_ORIENTATION, _PICTURES = 0x0112, 0xB002
_PICTURE_BYTES = 16
_KIND, _REDUCED = 0x00FF0000, 0x00010000
"""Part of a picture's attributes that says what it is: a reduced copy, or anything else."""


def exif_orientation(exif: bytes) -> int:
    """The orientation tag of an EXIF block (a small TIFF).

    Args:
        exif: the block without its marker.

    Returns:
        1 … 8; 1 (upright) if it has none or is damaged.
    """
    for tag, _, _, value in _read_tags(exif):
        if tag == _ORIENTATION:
            (orientation,) = struct.unpack_from(f"{_ORDERS[exif[:2]]}H", value)
            return int(orientation) if 1 <= orientation <= 8 else 1
    return 1


def count_pictures(index: bytes) -> int:
    """Count the pictures of a multi-picture file (MPO), without reduced copies of the first.

    Args:
        index: the index of the format (a small TIFF) without its marker.

    Returns:
        1 or more; 1 if the index is damaged.
    """
    for tag, _, n_bytes, value in _read_tags(index):
        if tag == _PICTURES:
            order = _ORDERS[index[:2]]
            (start,) = struct.unpack_from(f"{order}I", value)
            entries = index[start : start + n_bytes]
            places = range(0, len(entries) - _PICTURE_BYTES + 1, _PICTURE_BYTES)
            kinds = [int(struct.unpack_from(f"{order}I", entries, place)[0]) for place in places]
            return max(1, sum((kind & _KIND) != _REDUCED for kind in kinds))
    return 1


def _read_tags(block: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Number, type, count and value of the tags of the first directory, as far as it is there."""
    order = _ORDERS.get(block[:2])
    if order is None:
        return
    try:
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (n_tags,) = struct.unpack_from(f"{order}H", block, start)
        for k in range(n_tags):
            yield struct.unpack_from(f"{order}HHI4s", block, start + 2 + 12 * k)
    except struct.error:
        return


def turn_upright(image: AnyArray, orientation: int) -> AnyArray:
    """Undo an EXIF orientation (5 … 8 exchange height and width).

    Args:
        image: ``(H, W)`` or ``(H, W, C)`` as stored.
        orientation: 1 … 8.

    Returns:
        A view.
    """
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image
