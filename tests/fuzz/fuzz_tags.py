"""TIFF files of random tags: every combination that no writer would write."""

import struct
import zlib

import imagecodecs
import numpy as np

_COMPRESSIONS = (
    1, 1, 1, 1, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9, 32_773, 32_809, 32_946, 33_003, 33_004, 33_005,
    33_007, 34_661, 34_676, 34_677, 34_712, 34_887, 34_892, 34_925, 34_926, 50_000, 50_001,
    50_002, 52_546, 48_124, 65_000, 0, 12_345,
)  # fmt: skip
_PHOTOMETRICS = (0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 8, 9, 10, 32_803, 32_844, 34_892, 7, 65_535)
_TEXTS = (
    "ImageJ=1.54f\nimages=1\nmin=0.0\nmax=255.0\n", "ImageJ=1.54f\nimages=5\nslices=5\n",
    "ImageJ=\nimages=x\nchannels=-1\n", '{"shape": [8, 8]}', '{"shape": [2, 8, 8], "axes": "CYX"}',
    '{"shape": "x"}', '<?xml version="1.0"?><OME><Image><Pixels SizeX="8"/></Image></OME>',
    "<OME xmlns='http://www.openmicroscopy.org/Schemas/OME/2016-06'><Image><Pixels "
    "DimensionOrder='XYZCT' Type='uint8' SizeX='8' SizeY='8' SizeZ='3' SizeC='2' SizeT='1'>"
    "<TiffData/></Pixels></Image></OME>", "Aperio Image Library v1\n8x8 [0,0] |AppMag = 20",
    "SCANIMAGE", "<MetaData>", "x", "\0", "é\xff",
)  # fmt: skip
_SIZES = {1: "B", 2: "B", 3: "H", 4: "I", 5: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 16: "Q"}
_LIMITS = {"B": 2**8, "H": 2**16, "I": 2**32, "Q": 2**64}


def _tags(rng):
    """Code → values of a small image, most of them plausible."""
    width, height = rng.choice((1, 7, 8, 16, 20)), rng.choice((1, 5, 8, 16, 33))
    samples = rng.choice((1, 1, 1, 2, 3, 3, 4, 5, 0))
    bits = rng.choice((1, 2, 4, 6, *[8] * 8, 12, *[16] * 4, 24, 32, 32, 64, 128, 0))
    usual = {1: (0, 1, 1, 3), 3: (2, 2, 6), 4: (2, 5)}.get(samples, (1, 2))
    photometric = rng.choice(usual if rng.random() < 0.7 else _PHOTOMETRICS)
    tags = {
        256: [width], 257: [height], 258: [bits] * max(1, rng.choice((samples, samples, 1))),
        259: [rng.choice(_COMPRESSIONS)], 262: [photometric], 277: [samples],
    }  # fmt: skip
    if rng.random() < 0.1:
        tags[258] = [rng.choice((1, 8, 16, 32)) for _ in range(max(1, samples))]
    optional = {
        254: [rng.choice((0, 1, 2, 4, 9))], 266: [rng.choice((1, 2))],
        270: rng.choice(_TEXTS), 274: [rng.randrange(10)], 284: [rng.choice((1, 2, 0, 3))],
        305: rng.choice(("SIS", "tifffile.py", "MicroManager", "Adobe")),
        317: [rng.choice((1, 2, 3, 5, 34_892, 34_895))],
        320: [rng.randrange(65_536) for _ in range(3 * rng.choice((1, 2, 16, 256, 300)))],
        330: [rng.choice((0, 8, 10**6))], 332: [rng.choice((1, 2))],
        338: [rng.randrange(4) for _ in range(rng.randrange(1, 5))],
        339: [rng.choice((1, 1, 2, 3, 4, 5, 6))] * rng.choice((1, max(1, samples))),
        347: list(rng.randbytes(rng.choice((2, 20)))), 529: [1, 3, 1, 9, 1, 9],
        530: [rng.choice((1, 2, 4)), rng.choice((1, 2, 4))], 531: [rng.choice((1, 2))],
        32_997: [rng.choice((1, 1, 2, 5))], 33_550: [1.0, 1.0, 0.0],
        34_412: list(rng.randbytes(40)),
        42_113: rng.choice(("0", "-9999", "nan", "x", "1e400")), 33_628: [1, 2], 33_629: [1, 2, 3],
        50_838: [12, 8], 50_839: list(rng.randbytes(20)), 51_123: list(b"{}"), 65_420: [1],
    }  # fmt: skip
    return tags | {code: values for code, values in optional.items() if rng.random() < 0.1}


def _segments(rng, tags):
    """Layout tags and the bytes of strips or tiles, deflated and packed where that is asked for."""
    (width,), (height,), (samples,) = tags[256], tags[257], tags[277]
    is_planar = tags.get(284) == [2]
    if rng.random() < 0.3:
        tile = rng.choice(((16, 16), (32, 16), (7, 5)))
        layout = {322: [tile[0]], 323: [tile[1]]}
        rows, columns = tile[1], tile[0]
        n = -(-height // tile[1]) * -(-width // tile[0])
    else:
        rows, columns = rng.choice((1, 4, height, height, 2**32 - 1)), width
        layout = {278: [rows]}
        n = -(-height // rows)
    n *= max(1, samples) if is_planar else 1
    rows = min(rows, height) if 278 in layout else rows
    per_pixel = (sum(tags[258]) if len(tags[258]) > 1 else tags[258][0] * max(1, samples)) / 8
    n_bytes = (
        int(-(-columns * (per_pixel / max(1, samples) if is_planar else per_pixel) // 1)) * rows
    )
    raw = bytes(rng.randbytes(min(n_bytes, 20_000)))
    encode = {
        8: zlib.compress, 32_946: zlib.compress, 5: imagecodecs.lzw_encode,
        32_773: imagecodecs.packbits_encode, 50_000: imagecodecs.zstd_encode,
        34_925: imagecodecs.lzma_encode,
        7: lambda _: imagecodecs.jpeg8_encode(np.zeros((rows, columns), np.uint8) + 9),
        34_712: lambda _: imagecodecs.jpeg2k_encode(np.zeros((rows, columns), np.uint8) + 9),
        50_001: lambda _: imagecodecs.webp_encode(np.zeros((rows, columns, 3), np.uint8)),
    }.get(tags[259][0], bytes)  # fmt: skip
    data = bytes(encode(raw)) if rng.random() < 0.9 else raw
    return layout, [data] * n


def random_tiff(rng):
    """A file whose tags contradict each other now and then."""
    order, is_big = rng.choice("<>"), rng.random() < 0.2
    tags = _tags(rng)
    layout, segments = _segments(rng, tags)
    tags |= layout
    offset, counts, offsets = 16 if is_big else 8, [], []
    for segment in segments[:64]:
        offsets.append(offset)
        counts.append(len(segment))
        offset += len(segment)
    places = (324, 325) if 322 in layout else (273, 279)
    tags |= dict(zip(places, (offsets, counts), strict=True))
    for code in list(tags):
        if rng.random() < 0.02:
            del tags[code]
    body = b"".join(segments[:64])
    return _assemble(rng, order, is_big, tags, body)


def _assemble(rng, order, is_big, tags, body):
    layout, room, size = ("Q", 8, 20) if is_big else ("I", 4, 12)
    head = 16 if is_big else 8
    start = head + len(body)
    extra_at = start + (8 if is_big else 2) + size * len(tags) + room
    entries, extra = b"", b""
    for code, values in sorted(tags.items()):
        kind, packed, count = _pack(rng, order, code, values)
        if rng.random() < 0.02:
            kind, count = rng.choice(list(_SIZES)), rng.choice((0, 1, 2, count, 1000, 2**31))
        entries += struct.pack(f"{order}HH{layout}", code, kind, count)
        if len(packed) <= room:
            entries += packed.ljust(room, b"\0")
        else:
            entries += struct.pack(order + layout, extra_at + len(extra))
            extra += packed
    number = struct.pack(order + ("Q" if is_big else "H"), len(tags))
    magic = b"II" if order == "<" else b"MM"
    if is_big:
        magic += struct.pack(f"{order}HHHQ", 43, 8, 0, start)
    else:
        magic += struct.pack(f"{order}HI", 42, start)
    following = struct.pack(order + layout, start if rng.random() < 0.03 else 0)
    return magic + body + number + entries + following + extra


def _pack(rng, order, code, values):
    """Type, bytes and count of a tag's values."""
    if isinstance(values, str):
        data = values.encode("latin-1", "replace") + b"\0"
        return 2, data, len(data)
    if any(isinstance(value, float) for value in values):
        return 12, struct.pack(f"{order}{len(values)}d", *values), len(values)
    kind = rng.choice((3, 4)) if max(values, default=0) < 65_536 else 4
    if code in (347, 34_412, 50_839, 51_123):
        kind = 1
    limit = _LIMITS[_SIZES[kind]]
    packed = struct.pack(f"{order}{len(values)}{_SIZES[kind]}", *(v % limit for v in values))
    return kind, packed, len(values)
