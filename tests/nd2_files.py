"""Small ND2 files made by hand: chunks with XML or pixels, and the map of the chunks at the end."""

import struct
import zlib

_MAGIC = 0x0ABECEDA
_MAP = b"ND2 CHUNK MAP SIGNATURE 0000001!"
_TYPES = {bool: "bool", int: "lx_uint32", float: "double", str: "CLxStringW"}


def _variant(value, name="no_name"):
    if isinstance(value, dict):
        inner = "".join(_variant(item, key) for key, item in value.items())
        return f'<{name} runtype="CLxListVariant">{inner}</{name}>'
    return f'<{name} runtype="{_TYPES[type(value)]}" value="{value}"/>'


def _xml(fields):
    return f'<variant version="1.0">{_variant(fields)}</variant>'.encode()


def _loop(kind, size, below):
    points = {f"p{k}": {"pPosName": f"well {k}"} for k in range(size)}
    code, parameters = {
        "T": (1, {"uiCount": size, "dStart": 0.0, "dPeriod": 1.0, "dDuration": 1.0}),
        "P": (2, {"Points": points}),
        "Z": (4, {"uiCount": size, "dZStep": 1.0, "dZHigh": 1.0 * size}),
    }[kind]
    following = {"ppNextLevelEx": {"i0": below}} if below else {}
    return {"eType": code, "uLoopPars": parameters, **following}


def nd2_bytes(frames, loops=(), names=("",), pixel_um=None, compress=False):
    """An ND2 file.

    Args:
        frames: ``(…, Y, X, channels × samples)``; the first axes are those of ``loops``. Three
            samples of a channel are red, green, blue here, and blue, green, red in the file.
        loops: letters of T, P and Z.
        names: of the channels.
    """
    *sizes, height, width, n_components = frames.shape
    if n_components == 3 * len(names):
        frames = frames.reshape(*frames.shape[:-1], -1, 3)[..., ::-1].reshape(frames.shape)
    attributes = {
        "uiWidth": width, "uiWidthBytes": width * n_components * frames.itemsize,
        "uiHeight": height, "uiComp": n_components, "uiBpcInMemory": 8 * frames.itemsize,
        "uiBpcSignificant": 8 * frames.itemsize, "uiSequenceCount": frames.size,
        "eCompression": 0 if compress else 2, "dCompressionParam": 1.0,
    }  # fmt: skip
    light = {"pPoint": {"Point0": {"dTValue": 1.0, "dWavelength": 488.0, "eType": 1}}}
    probe = {"m_ExcitationSpectrum": light, "m_EmissionSpectrum": light}
    planes = {
        f"a{k}": {
            "sDescription": name,
            "uiCompCount": n_components // len(names),
            "pFluorescentProbe": probe,
        }
        for k, name in enumerate(names)
    }
    picture = {
        "bCalibrated": pixel_um is not None, "dCalibration": pixel_um or 0.0,
        "sPicturePlanes": {"uiCount": len(names), "sPlaneNew": planes},
    }  # fmt: skip
    experiment = None
    for kind, size in reversed(list(zip(loops, sizes, strict=True))):
        experiment = _loop(kind, size, experiment)
    chunks = {
        b"ImageAttributes!": _xml(attributes),
        b"ImageMetadataSeq|0!": _xml(picture),
    }
    if experiment:
        chunks[b"ImageMetadata!"] = _xml(experiment)
    for number, frame in enumerate(frames.reshape(-1, height, width, n_components)):
        pixels = zlib.compress(frame.tobytes()) if compress else frame.tobytes()
        chunks[b"ImageDataSeq|%d!" % number] = bytes(8) + pixels
    version = b"Ver2.1".ljust(64, b"\0")
    body = struct.pack("<IIQ", _MAGIC, 32, 64) + b"ND2 FILE SIGNATURE CHUNK NAME01!" + version
    chunk_map = b""
    for name, data in chunks.items():
        chunk_map += name + struct.pack("<QQ", len(body), len(data))
        body += struct.pack("<IIQ", _MAGIC, 4072, len(data)) + name.ljust(4072, b"\0") + data
    place, chunk_map = len(body), chunk_map + _MAP + bytes(16)
    body += struct.pack("<IIQ", _MAGIC, 32, len(chunk_map)) + b"ND2 FILEMAP SIGNATURE NAME 0001!"
    return body + chunk_map + _MAP + struct.pack("<Q", place)
