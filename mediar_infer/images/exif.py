"""EXIF orientations of cameras."""

import struct

from mediar_infer.arrays import AnyArray


def exif_orientation(exif: bytes) -> int:
    """The orientation tag of an EXIF block (a small TIFF).

    Args:
        exif: the block without its marker.

    Returns:
        1 … 8; 1 (upright) if it has none or is damaged.
    """
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (n_tags,) = struct.unpack_from(f"{order}H", exif, start)
        for k in range(n_tags):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, start + 2 + 12 * k)
            if tag == 0x0112:
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


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
