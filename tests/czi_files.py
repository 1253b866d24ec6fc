"""Small CZI files made by hand, tile by tile, for readers to be tried on."""

import struct
from dataclasses import dataclass, field

import numpy as np

PIXEL_TYPES = {
    ("u1", 1): 0, ("u2", 1): 1, ("f4", 1): 2, ("u1", 3): 3, ("u2", 3): 4, ("f4", 3): 8,
    ("u1", 4): 9, ("u4", 1): 12, ("f8", 1): 13,
}  # fmt: skip
UNCOMPRESSED, JPEG, LZW, JPEG_XR, ZSTD, ZSTD_WITH_HEADER = 0, 1, 2, 4, 5, 6


@dataclass
class Tile:
    """A tile: its pixels as stored, and where they belong."""

    pixels: np.ndarray
    y: int = 0
    x: int = 0
    index: dict = field(default_factory=dict)
    compression: int = UNCOMPRESSED
    data: bytes | None = None
    size: tuple[int, int] | None = None  # what it covers, where that is not its own size
    part: int = 0

    def entry(self, position):
        n_samples = self.pixels.shape[2] if self.pixels.ndim == 3 else 1
        pixel_type = PIXEL_TYPES[self.pixels.dtype.str[1:], n_samples]
        height, width = self.pixels.shape[:2]
        covered = self.size or (height, width)
        axes = [("X", self.x, covered[1], width), ("Y", self.y, covered[0], height)]
        axes += [(letter, start, 1, 0) for letter, start in self.index.items()]
        fixed = struct.pack(
            "<2siqiib5xi", b"DV", pixel_type, position, self.part, self.compression, 0, len(axes)
        )
        return fixed + b"".join(
            struct.pack("<4siifi", letter.encode(), start, size, start, stored)
            for letter, start, size, stored in axes
        )


def _segment(kind, data):
    return struct.pack("<16sqq", kind, len(data), len(data)) + data


def czi_bytes(tiles, xml=""):
    """A CZI file of some tiles; three samples are blue, green, red."""
    body, entries = bytearray(bytes(32 + 512)), []
    for tile in tiles:
        entry = tile.entry(len(body))
        data = tile.pixels.tobytes() if tile.data is None else tile.data
        header = struct.pack("<iiq", 0, 0, len(data)) + entry
        body += _segment(b"ZISRAWSUBBLOCK", header.ljust(256, b"\0") + data)
        entries.append(entry)
    directory = len(body)
    body += _segment(
        b"ZISRAWDIRECTORY", struct.pack("<i", len(entries)).ljust(128, b"\0") + b"".join(entries)
    )
    metadata = len(body)
    text = xml.encode()
    body += _segment(b"ZISRAWMETADATA", struct.pack("<i", len(text)).ljust(256, b"\0") + text)
    fields = struct.pack("<4i32siqq", 1, 0, 0, 0, b"", 0, directory, metadata)
    body[:544] = _segment(b"ZISRAWFILE", fields.ljust(512, b"\0"))
    return bytes(body)


def czi_metadata(channels=(), scenes=(), pixel_um=None):
    """Metadata with names and the size (y, x) of a pixel."""
    names = "".join(f'<Channel Id="Channel:{k}" Name="{c}"/>' for k, c in enumerate(channels))
    titles = "".join(f'<Scene Index="{k}" Name="{title}"/>' for k, title in enumerate(scenes))
    distances = "".join(
        f'<Distance Id="{letter}"><Value>{um * 1e-6}</Value></Distance>'
        for letter, um in zip("YX", pixel_um or (), strict=False)
    )
    return (
        "<ImageDocument><Metadata><Information><Image><Dimensions>"
        f"<Channels>{names}</Channels><S><Scenes>{titles}</Scenes></S>"
        "</Dimensions></Image></Information>"
        f"<Scaling><Items>{distances}</Items></Scaling></Metadata></ImageDocument>"
    )
