"""Small LIF files made by hand: XML, then one block of pixels for each image."""

import struct

import numpy as np

_CODES = {"X": 1, "Y": 2, "Z": 3, "T": 4, "M": 10}


def lif_image(name, pixels, axes, names=(), tags=(), pixel_um=None, dye_names=()):
    """One image for ``lif_bytes``.

    Args:
        name: of the image.
        pixels: the array.
        axes: letters in the order of the array, C for channels.
        names: of the channels.
        tags: of the channels.
        pixel_um: size (y, x) of a pixel.
        dye_names: of the channels.
    """
    step_m = {letter: um * 1e-6 for letter, um in zip("YX", pixel_um or (), strict=False)}
    axes = dict(zip(axes, zip(pixels.shape, pixels.strides, strict=True), strict=True))
    n_channels, channel_step = axes.pop("C", (1, 0))
    described = "".join(
        f'<DimensionDescription DimID="{_CODES[letter]}" NumberOfElements="{n}" Origin="0"'
        f' Length="{(n - 1) * step_m.get(letter, 0)}" Unit="m" BytesInc="{step}" BitInc="0"/>'
        for letter, (n, step) in axes.items()
    )
    channels = "".join(
        f'<ChannelDescription DataType="{int(pixels.dtype.kind == "f")}" ChannelTag='
        f'"{tags[k] if tags else 0}" Resolution="{8 * pixels.itemsize}" NameOfMeasuredQuantity=""'
        f' Min="0" Max="1" Unit="" LUTName="{names[k] if names else ""}" IsLUTInverted="0"'
        f' BytesInc="{k * channel_step}" BitInc="0">'
        + (
            f"<ChannelProperty><Key>DyeName</Key><Value>{dye_names[k]}</Value></ChannelProperty>"
            if dye_names
            else ""
        )
        + "</ChannelDescription>"
        for k in range(n_channels)
    )
    xml = (
        f'<Element Name="{name}" UniqueID="{name}"><Data><Image><ImageDescription>'
        f"<Channels>{channels}</Channels><Dimensions>{described}</Dimensions>"
        f"</ImageDescription></Image></Data>"
        f'<Memory Size="{pixels.nbytes}" MemoryBlockID="Mem_{name}"/></Element>'
    )
    return xml, f"Mem_{name}", np.ascontiguousarray(pixels).tobytes()


def lif_bytes(*images):
    """A LIF file of some images."""
    elements = "".join(xml for xml, _, _ in images)
    text = (
        '<LMSDataContainerHeader Version="2"><Element Name="a.lif"><Data><Experiment/></Data>'
        f"<Children>{elements}</Children></Element></LMSDataContainerHeader>"
    ).encode("utf-16-le")
    data = struct.pack("<IIBI", 0x70, len(text) + 5, 0x2A, len(text) // 2) + text
    for _, block, pixels in images:
        name = block.encode("utf-16-le")
        data += struct.pack("<IIBQBI", 0x70, 0, 0x2A, len(pixels), 0x2A, len(block))
        data += name + pixels
    return data
