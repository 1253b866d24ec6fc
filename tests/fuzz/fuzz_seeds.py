"""Small valid files of every kind, to be damaged."""

import io
import json
import zlib

import cv2
import imagecodecs
import numpy as np
import safetensors.torch
import tifffile
import torch
from czi_files import ZSTD, Tile, czi_bytes, czi_metadata
from fakes import tiny_state_dict
from lif_files import lif_bytes, lif_image
from nd2_files import nd2_bytes

HEIGHT, WIDTH = 48, 64


def _pixels():
    """The same cells as 8-bit, 16-bit and colour images."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    rng = np.random.default_rng(0)
    grey = np.zeros((HEIGHT, WIDTH))
    for _ in range(8):
        top, left, radius = rng.integers(0, HEIGHT), rng.integers(0, WIDTH), rng.integers(4, 8)
        grey = np.maximum(grey, np.exp(-((((y - top) ** 2 + (x - left) ** 2) / radius**2) ** 3)))
    grey8 = (grey * 200 + rng.integers(0, 20, grey.shape)).astype(np.uint8)
    return grey8, grey8.astype(np.uint16) * 200, np.stack([grey8, 255 - grey8, grey8 // 2], -1)


GREY8, GREY16, RGB = _pixels()
LABELS = (GREY8 > 100).astype(np.uint16) * (1 + np.arange(HEIGHT)[:, None] // 16).astype(np.uint16)


def _tiff(image, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, image, **{"metadata": None, **options})
    return file.getvalue()


def _mha(fields, data):
    lines = {
        "ObjectType": "Image", "NDims": "2", "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        **fields, "ElementDataFile": "LOCAL",
    }  # fmt: skip
    return "".join(f"{key} = {value}\n" for key, value in lines.items()).encode() + data


def _mosaic():
    """Two channels, each of an uncompressed and a compressed tile."""
    tiles = []
    for channel, image in enumerate((GREY16, GREY16 // 2)):
        data = imagecodecs.zstd_encode(image.tobytes())
        tiles += [
            Tile(image, index={"C": channel, "M": 0}),
            Tile(image, x=WIDTH - 9, index={"C": channel, "M": 1}, compression=ZSTD, data=data),
        ]
    return czi_bytes(tiles, czi_metadata(channels=["DAPI", "CD8"], pixel_um=(0.325, 0.325)))


def images():
    """Name → bytes of valid images."""
    grey = {"photometric": "minisblack"}
    rgb = {"photometric": "rgb", "tile": (32, 32)}
    table = np.random.default_rng(1).integers(0, 65536, (3, 256)).astype(np.uint16)
    packed = zlib.compress(GREY16.tobytes())
    size = {"DimSize": f"{WIDTH} {HEIGHT}", "ElementType": "MET_USHORT"}
    placed = {"TransformMatrix": "1 0 0 1", "Offset": "0 0", "ElementSpacing": "1 1"}
    deflated = {"CompressedData": "True", "CompressedDataSize": len(packed)}
    return {
        "strips.tif": _tiff(GREY16, compression="zlib", rowsperstrip=16, **grey),
        "lzw.tif": _tiff(RGB, compression="lzw", predictor=True, **rgb),
        "jpeg.tif": _tiff(RGB, compression="jpeg", **rgb),
        "jp2k.tif": _tiff(GREY16, compression="jpeg2000", tile=(32, 32), **grey),
        "zstd.btf": _tiff(GREY16, compression="zstd", bigtiff=True, rowsperstrip=8, **grey),
        "packbits.tif": _tiff(GREY8, compression="packbits", byteorder=">", **grey),
        "plain.tif": _tiff(GREY8.astype(np.float32), **grey),
        "palette.tif": _tiff(GREY8, photometric="palette", colormap=table),
        "imagej.tif": _tiff(np.stack([GREY16] * 2), imagej=True, metadata={"axes": "CYX"}),
        "ome.ome.tif": _tiff(np.stack([GREY8] * 2), ome=True, metadata={"axes": "CYX"}, **grey),
        "mosaic.czi": _mosaic(),
        "colours.lif": lif_bytes(lif_image("A", RGB, "YXC", tags=(1, 2, 3), pixel_um=(0.5, 0.5))),
        "packed.nd2": nd2_bytes(np.dstack([GREY16] * 2), names=["a", "b"], compress=True),
        "plain.nd2": nd2_bytes(RGB, names=["RGB"]),
        "rgb.png": imagecodecs.png_encode(RGB),
        "grey16.png": imagecodecs.png_encode(GREY16),
        "alpha.png": imagecodecs.png_encode(np.dstack([RGB, GREY8])),
        "baseline.jpg": imagecodecs.jpeg8_encode(RGB, level=90),
        "grey.jpg": imagecodecs.jpeg8_encode(GREY8, level=75, optimize=True),
        "rgb.bmp": cv2.imencode(".bmp", RGB)[1].tobytes(),
        "grey.bmp": imagecodecs.bmp_encode(GREY8),
        "rgb.jp2": imagecodecs.jpeg2k_encode(RGB, level=0),
        "grey16.j2k": imagecodecs.jpeg2k_encode(GREY16, level=60, codecformat="j2k"),
        "packed.mha": _mha({**deflated, **placed, **size}, packed),
        "plain.mha": _mha({**placed, **size}, GREY16.tobytes()),
    }


def label_files():
    """Name → bytes of valid label images."""
    text = json.dumps({"mediar_infer": "0.1.0", "plan": {"name": "paper"}, "n_cells": 3})
    return {
        "a_label.tiff": _tiff(LABELS, compression="zlib", description=text),
        "tiles.tiff": _tiff(LABELS.astype(np.uint32), compression="zlib", tile=(32, 32)),
        "grey.png": imagecodecs.png_encode(LABELS),
        "grey.bmp": imagecodecs.bmp_encode(LABELS.astype(np.uint8)),
    }


def weight_files():
    """Name → bytes of weight files: of a small network, and of a few tensors."""
    tensors = {
        "encoder.weight": torch.arange(24.0).reshape(2, 3, 4),
        "encoder.bias": torch.ones(3, dtype=torch.float16),
        "encoder.n": torch.tensor(7),
    }
    files = {"network.safetensors": safetensors.torch.save(tiny_state_dict(0))}
    for name, options in {
        "new.pth": {}, "old.pth": {"_use_new_zipfile_serialization": False}
    }.items():  # fmt: skip
        file = io.BytesIO()
        torch.save(tensors, file, **options)
        files[name] = file.getvalue()
    files["a.safetensors"] = safetensors.torch.save(tensors)
    return files
