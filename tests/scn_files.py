"""Small Leica SCN slides: a macro image and scanned regions."""

import tifffile

_SPACE = "http://www.leica-microsystems.com/scn/2010/10/01"
_SLIDE = (26_000_000, 76_000_000)


def _image(name, number, image, view, objective):
    height, width = image.shape[:2]
    (across, down), (x, y) = view
    return (
        f'<image name="{name}"><pixels sizeX="{width}" sizeY="{height}">'
        f'<dimension sizeX="{width}" sizeY="{height}" r="0" ifd="{number}"/></pixels>'
        f'<view sizeX="{across}" sizeY="{down}" offsetX="{x}" offsetY="{y}"/>'
        "<scanSettings><objectiveSettings>"
        f"<objective>{objective}</objective></objectiveSettings><illuminationSettings>"
        "<numericalAperture>0.4</numericalAperture>"
        "<illuminationSource>brightfield</illuminationSource>"
        "</illuminationSettings></scanSettings></image>"
    )


def write_scn(path, macro, regions, names=None):
    """Write ``(H, W, 3)`` uint8 images, regions with pixels of 250 nm, and return the path."""
    names = names or [f"image {k}" for k in range(len(regions))]
    images = [_image("overview", 0, macro, (_SLIDE, (0, 0)), 0.6)]
    for k, (name, region) in enumerate(zip(names, regions, strict=True)):
        size = tuple(250 * n for n in region.shape[1::-1])
        images.append(_image(name, k + 1, region, (size, (1000 + 30_000 * k,) * 2), 20))
    width, height = _SLIDE
    description = (
        f'<?xml version="1.0"?><scn xmlns="{_SPACE}"><collection name="Slide" sizeX="{width}"'
        f' sizeY="{height}">{"".join(images)}</collection></scn>'
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for image in (macro, *regions):
            tif.write(
                image, photometric="rgb", tile=(16, 16), description=description, metadata=None,
                software=None,
            )  # fmt: skip
            description = None
    return path
