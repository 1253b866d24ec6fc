"""Opening image files: each format is one entry of a table."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from mediar_infer.images.faults import reading
from mediar_infer.images.formats import EXTENSIONS, recognise_file
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.mha import open_meta_image
from mediar_infer.images.raster import open_raster
from mediar_infer.images.sources import Geometry, ImageSource
from mediar_infer.images.tiff_source import TiffSource

Opener = Callable[[Path, ReadOptions, tuple[str, ...]], ImageSource]
"""Opens a file of one format; the sentences are what is known about the file already."""


def _open_czi(path: Path, options: ReadOptions, notes: tuple[str, ...]) -> ImageSource:
    from mediar_infer.images.czi_source import CziSource

    return CziSource(path, options, notes)


def _open_lif(path: Path, options: ReadOptions, notes: tuple[str, ...]) -> ImageSource:
    from mediar_infer.images.lif_source import LifSource

    return LifSource(path, options, notes)


def _open_nd2(path: Path, options: ReadOptions, notes: tuple[str, ...]) -> ImageSource:
    from mediar_infer.images.nd2_source import Nd2Source

    return Nd2Source(path, options, notes)


def _open_zarr(path: Path, options: ReadOptions, notes: tuple[str, ...]) -> ImageSource:
    from mediar_infer.images.zarr_source import ZarrSource

    return ZarrSource(path, options, notes)


def _open_slide(path: Path, options: ReadOptions, notes: tuple[str, ...]) -> ImageSource:
    from mediar_infer.images.slide_source import SlideSource

    return SlideSource(path, options, notes)


FORMATS: dict[str, Opener] = {
    "TIFF": TiffSource,
    "PNG": partial(open_raster, "PNG"),
    "JPEG": partial(open_raster, "JPEG"),
    "BMP": partial(open_raster, "BMP"),
    "JPEG 2000": partial(open_raster, "JPEG 2000"),
    "MHA": open_meta_image,
    "CZI": _open_czi,
    "LIF": _open_lif,
    "ND2": _open_nd2,
    "OME-Zarr": _open_zarr,
    "MIRAX slide": _open_slide,
    "VMS slide": _open_slide,
    "DICOM": _open_slide,
}
"""How to open each of ``formats.IMAGE_FORMATS``. A new format is one more entry in both."""

_DEFAULTS = ReadOptions()


def open_image(path: Path, options: ReadOptions = _DEFAULTS) -> ImageSource:
    """Open an image file; it is then read by rows if its format allows (TIFF), else decoded here.

    The format is taken from the content. Whatever a user may want to know about the choice of
    planes, channels and colours is in ``warnings``.

    Args:
        path: the file.
        options: what to read of it.

    Returns:
        The source, to be closed by the caller.

    Raises:
        ImageReadError: if the file cannot be read as one 2-D image or lacks a channel.
    """
    path = Path(path)
    format_name = recognise_file(path)
    with reading(path.name, f"{format_name} data"):
        source = FORMATS[format_name](path, options, _mislabel_notes(path, format_name))
    if options.pixel_size_um is not None:
        source.geometry = Geometry.of_size(options.pixel_size_um, source.geometry)
    return source


def _mislabel_notes(path: Path, format_name: str) -> tuple[str, ...]:
    if EXTENSIONS.get(path.suffix.lower(), format_name) == format_name:
        return ()
    return (
        f"mislabelled: extension {path.suffix} but {format_name} content, read as {format_name}",
    )
