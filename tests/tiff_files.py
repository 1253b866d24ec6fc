"""TIFF files changed by hand: strips and tiles that were never written, or lie in another order."""

import struct

import tifffile

_OFFSETS, _COUNTS = (273, 324), (279, 325)
"""Tags of strips, and of tiles."""


def _tag(path, page, codes):
    with tifffile.TiffFile(path) as tif:
        tif.pages.useframes = False
        tags = tif.pages[page].tags
        return next(tags[code] for code in codes if code in tags)


def _overwrite(path, tag, values):
    code = {3: "H", 4: "I", 16: "Q"}[tag.dtype]
    data = bytearray(path.read_bytes())
    struct.pack_into(f"<{len(values)}{code}", data, tag.valueoffset, *values)
    path.write_bytes(data)


def leave_out(path, numbers=None, page=0):
    """Say of strips or tiles of a page, by default of all, that they are not stored."""
    for codes in (_OFFSETS, _COUNTS):
        tag = _tag(path, page, codes)
        left_out = range(tag.count) if numbers is None else numbers
        values = [0 if k in left_out else value for k, value in enumerate(tag.value)]
        _overwrite(path, tag, values)


def reverse_segments(path, page=0):
    """Store the uncompressed strips or tiles of a page, which follow each other, last one first."""
    offsets = _tag(path, page, _OFFSETS)
    (count, *_) = _tag(path, page, _COUNTS).value
    data = bytearray(path.read_bytes())
    parts = [bytes(data[offset : offset + count]) for offset in offsets.value]
    for offset, part in zip(offsets.value, reversed(parts), strict=True):
        data[offset : offset + count] = part
    path.write_bytes(data)
    _overwrite(path, offsets, offsets.value[::-1])
