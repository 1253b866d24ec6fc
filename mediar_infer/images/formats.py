"""File formats recognised by their first bytes."""

_MAGIC: dict[bytes, str] = {
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"ObjectType": "MHA",
    b"Comment =": "MHA",
    b"NDims": "MHA",
    b"GIF8": "GIF",
    b"RIFF": "RIFF (WebP or AVI)",
    b"%PDF": "PDF",
    b"PK\x03\x04": "ZIP",
    b"\x1f\x8b": "gzip",
    b"\x89HDF": "HDF5",
    b"ZISRAWFILE": "Zeiss CZI",
    b"\xda\xce\xbe\x0a": "Nikon ND2",
    b"\xd0\xcf\x11\xe0": "OLE container (OIB, ZVI)",
}
UNSUPPORTED_IMAGES = frozenset(
    {"GIF", "RIFF (WebP or AVI)", "Zeiss CZI", "Nikon ND2", "OLE container (OIB, ZVI)"}
)
"""Formats of images that are recognised but not read."""
HEAD_BYTES = 32
"""How much of a file ``find_format`` wants to see."""


def find_format(head: bytes) -> str:
    """Name the format of a file by its first bytes.

    Args:
        head: the first ``HEAD_BYTES`` bytes, fewer if the file is shorter.

    Returns:
        The name of a format, or a description of what else was found.
    """
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    if not head.strip(b"\0"):
        return "zero bytes"
    if all(byte in b"\t\n\r\f" or byte >= 32 for byte in head) and b"\x7f" not in head:
        return "text"
    return f"unknown content (first bytes {head[:8].hex(' ')})"
