"""Damage to files: random, and at the places where headers keep their numbers."""

import struct
import zlib

NUMBERS = (
    0, 1, 2, 3, 7, 255, 4095, 65_535, 65_536, 100_000, 2**20, 2**24 + 1, 2**31 - 1, 2**31,
    2**32 - 1, 2**40, 2**63,
)  # fmt: skip
"""Numbers that headers do not expect."""
_TIFF_CODES = (254, 256, 257, 258, 259, 262, 277, 278, 284, 317, 320, 322, 325, 330, 338, 339, 347)
_WORDS = (
    "", "0", "-1", "7", "0 0", "-1 -1", "64 48 7", "100000 100000", "4294967295 4294967295",
    "99999999999999999999", "nan nan", "1e9 1e9", "inf", "True", "False", "maybe", "MET_DOUBLE",
    "MET_LONG", "MET_FOO", "LIST", "/etc/passwd", "x" * 5000,
)  # fmt: skip


def mutate(rng, name, data):
    """A damaged copy.

    Args:
        rng: ``random.Random``.
        name: of the file; its extension tells where the header is.
        data: a valid file.
    """
    kinds = [_flip, _flip, _truncate, _block, _zeros, _repeat, _swap]
    header = _HEADERS.get(name.rpartition(".")[2])
    if header is not None:
        kinds += [header] * 5
    return rng.choice(kinds)(rng, data)


def _flip(rng, data):
    copy = bytearray(data)
    for _ in range(rng.choice((1, 3, 10, 60))):
        copy[rng.randrange(len(copy))] ^= 1 << rng.randrange(8)
    return bytes(copy)


def _truncate(rng, data):
    n = len(data)
    return data[: rng.choice((0, 1, 4, 8, 20, 60, n // 2, n - 1, rng.randrange(n)))]


def _block(rng, data):
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(64) + data[at + 64 :]


def _zeros(rng, data):
    at, n = rng.randrange(len(data)), rng.choice((8, 40, 600))
    return data[:at] + bytes(n) + data[at + n :]


def _repeat(rng, data):
    at = rng.randrange(len(data))
    return data[:at] + data[: rng.randrange(1, 400)] + data[at:]


def _swap(rng, data):
    a, b = sorted(rng.sample(range(len(data)), 2))
    return data[:a] + data[b : b + 8] + data[a + 8 : b] + data[a : a + 8] + data[b + 8 :]


def _patched(data, at, layout, value):
    size = struct.calcsize(layout)
    return data[:at] + struct.pack(layout, value % (1 << 8 * size)) + data[at + size :]


def _tiff(rng, data):
    order = "<" if data[:2] == b"II" else ">"
    is_big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    layout, step = ("Q", 20) if is_big else ("I", 12)
    (at,) = struct.unpack_from(order + layout, data, 8 if is_big else 4)
    (n,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, at)
    entry = at + (8 if is_big else 2) + step * rng.randrange(n)
    place = rng.choice((0, 2, 4, 4, "value", "value", "value"))
    if place == "value":
        kind = struct.unpack_from(f"{order}H", data, entry + 2)[0]
        value_layout = {1: "B", 2: "B", 3: "H", 4: "I", 16: "Q"}.get(kind, "I")
        at = entry + (12 if is_big else 8)
        return _patched(data, at, order + value_layout, rng.choice(NUMBERS))
    value_layout = "H" if place < 4 else layout
    return _patched(data, entry + place, order + value_layout, rng.choice(NUMBERS + _TIFF_CODES))


def _png(rng, data):
    at = rng.choice((16, 20, 24, 25, 28))
    layout = ">I" if at < 24 else "B"
    data = _patched(data, at, layout, rng.choice(NUMBERS))
    return data[:29] + struct.pack(">I", zlib.crc32(data[12:29])) + data[33:]


def _jpeg(rng, data):
    frame = data.find(b"\xff\xc0")
    at = rng.choice((2, 4, 5, 7, 9, 10, 11, 12))
    layout = ">H" if at in (2, 5, 7) else "B"
    return _patched(data, frame + at, layout, rng.choice(NUMBERS))


def _bmp(rng, data):
    at = rng.choice((2, 10, 14, 18, 22, 26, 28, 30, 34, 46))
    return _patched(data, at, "<I", rng.choice((*NUMBERS, 2**32 - 48)))


def _jpeg2000(rng, data):
    size = data.find(b"\xff\x51")
    places = [size + 6 + k for k in (0, 4, 8, 12, 16, 20, 24, 28, 32, 34)]
    box = data.find(b"ihdr")
    places += [box + 4, box + 8, box + 12] if box > 0 else []
    return _patched(data, rng.choice(places), ">I", rng.choice(NUMBERS))


def _mha(rng, data):
    head, key, pixels = data.partition(b"ElementDataFile")
    lines = head.decode().splitlines()
    number = rng.randrange(len(lines))
    field = lines[number].split("=")[0].strip()
    choice = rng.random()
    if choice < 0.7:
        lines[number] = f"{field} = {rng.choice(_WORDS)}"
    elif choice < 0.8:
        del lines[number]
    elif choice < 0.9:
        fields = ("HeaderSize", "ElementNumberOfChannels", "CompressedDataSize", "ElementSize")
        lines.append(f"{rng.choice(fields)} = {rng.choice(_WORDS)}")
    else:
        pixels = f" = {rng.choice(_WORDS)}\n".encode() + pixels
    return "\n".join(lines).encode() + b"\n" + key + pixels


def _safetensors(rng, data):
    (n,) = struct.unpack_from("<Q", data)
    if rng.random() < 0.3:
        return _patched(data, 0, "<Q", rng.choice((*NUMBERS, n + 1, n - 1)))
    header = data[8 : 8 + n].decode()
    old, new = rng.choice((
        ("F32", "F64"), ("F32", "FOO"), ("[2,3,4]", "[100000,100000,1000]"), ("[2,3,4]", "[-1]"),
        ("[2,3,4]", '"x"'), ("data_offsets", "offsets"), ("dtype", "type"), ("{", "["),
        ("shape", "dtype"), ("[0,", "[-8,"), ('"encoder', '"\\ud800encoder'), (":", ",")
    ))  # fmt: skip
    header = header.replace(old, new, 1).encode()
    return struct.pack("<Q", len(header)) + header + data[8 + n :]


_HEADERS = {
    "tif": _tiff, "tiff": _tiff, "btf": _tiff, "png": _png, "jpg": _jpeg, "bmp": _bmp,
    "jp2": _jpeg2000, "j2k": _jpeg2000, "mha": _mha, "safetensors": _safetensors,
}  # fmt: skip


def mutate_text(rng, text):
    """A damaged copy of a text file of keys and values (TOML, JSON)."""
    kind = rng.randrange(6)
    if kind == 0:
        return mutate(rng, "text", text.encode())
    lines = text.splitlines()
    number = rng.randrange(len(lines))
    if kind == 1:
        del lines[number]
    elif kind == 2:
        lines.insert(number, lines[rng.randrange(len(lines))])
    else:
        separator = "=" if "=" in lines[number] else ":"
        key, _, _ = lines[number].partition(separator)
        value = rng.choice((
            "", "0", "-1", "1e999", "nan", "true", "null", '"x"', '"../../x"', '"\\u0000"', "[]",
            "[1, 2]", "{}", '{"a": 1}', "99999999999999999999", '""', "[[1]]", "{a = 1}", "0.5",
            "[" * 5000,
        ))  # fmt: skip
        lines[number] = f"{key}{separator} {value}{',' if kind == 3 else ''}"
    return "\n".join(lines).encode()
