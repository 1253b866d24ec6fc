"""Small Ventana BIF slides of 2 × 2 tiles that overlap, or lie side by side."""

import tifffile

_SCAN = (
    '<iScan Magnification="40" ScanRes="0.25" Z-layers="1" Z-spacing="0" UnitNumber="1">'
    '<AOI0 Left="0" Top="0" Right="0" Bottom="0"/></iScan>'
)


def _joint(direction, first, second, x, y):
    return (
        f'<TileJointInfo FlagJoined="1" Confidence="99" Direction="{direction}" Tile1="{first}"'
        f' Tile2="{second}" OverlapX="{x}" OverlapY="{y}"/>'
    )


def write_bif(path, image, overlap):
    """Write ``(32, 32, 3)`` uint8, whose tiles of 16 × 16 pixels overlap, and return the path."""
    joints = (
        _joint("RIGHT", 1, 2, overlap, 0),
        _joint("UP", 2, 3, 0, overlap),
        _joint("RIGHT", 4, 3, overlap, 0),
    )
    info = (
        f'<?xml version="1.0"?><EncodeInfo Ver="2"><SlideInfo>{_SCAN}</SlideInfo><SlideStitchInfo>'
        '<ImageInfo AOIScanned="1" AOIIndex="0" Width="16" Height="16" NumRows="2" NumCols="2"'
        f' Pos-X="0" Pos-Y="0">{"".join(joints)}</ImageInfo></SlideStitchInfo>'
        '<AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>'
    )
    pages = [(image[:20, :30], "Label_Image", _SCAN, {})]
    pages += [(image, "level=0 mag=40 quality=95", info, {"tile": (16, 16), "compression": "lzw"})]
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for pixels, description, xmp, layout in pages:
            tif.write(
                pixels, photometric="rgb", description=description, metadata=None,
                extratags=[(700, "B", None, xmp.encode(), True)], **layout,
            )  # fmt: skip
    return path
