"""Opening image files: each format has a reader."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mediar_infer.images.faults import reading
from mediar_infer.images.formats import EXTENSIONS, recognise_file
from mediar_infer.images.geometry import Geometry
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.mha import open_meta_image
from mediar_infer.images.raster import open_raster
from mediar_infer.images.sources import ImageSource
from mediar_infer.images.tiff_layout import list_tiff_scenes
from mediar_infer.images.tiff_source import open_tiff


def _one_scene(_path: Path) -> Sequence[str]:
    return ("",)


@dataclass(frozen=True, slots=True)
class Reader:
    """What reads the files of a format."""

    open: Callable[[Path, ReadOptions, tuple[str, ...]], ImageSource]
    """Opens one image of a file; the sentences are what is known about the file already."""
    list_scenes: Callable[[Path], Sequence[str]] = _one_scene
    """Names the images of a file, empty where it states no names."""


def find_reader(format_name: str) -> Reader:
    """Find what reads a format; modules that few runs need are imported here.

    A new format is one more case here and one more entry of ``IMAGE_FORMATS``.

    Args:
        format_name: a key of ``formats.IMAGE_FORMATS``.

    Raises:
        LookupError: for any other name.
    """
    match format_name:
        case "TIFF":
            return Reader(open_tiff, list_tiff_scenes)
        case "PNG" | "JPEG" | "BMP" | "JPEG 2000":
            return Reader(partial(open_raster, format_name))
        case "MHA":
            return Reader(open_meta_image)
        case "CZI":
            from mediar_infer.images.czi_source import CziSource, list_czi_scenes

            return Reader(CziSource, list_czi_scenes)
        case "LIF":
            from mediar_infer.images.lif_source import LifSource, list_lif_images

            return Reader(LifSource, list_lif_images)
        case "ND2":
            from mediar_infer.images.nd2_source import Nd2Source, list_nd2_positions

            return Reader(Nd2Source, list_nd2_positions)
        case "OME-Zarr":
            from mediar_infer.images.zarr_source import ZarrSource, list_zarr_scenes

            return Reader(ZarrSource, list_zarr_scenes)
        case "MIRAX slide" | "VMS slide" | "DICOM":
            from mediar_infer.images.slide_source import SlideSource

            return Reader(SlideSource)
    raise LookupError(f"no reader of {format_name}")


_DEFAULTS = ReadOptions()


def open_image(path: Path, options: ReadOptions = _DEFAULTS) -> ImageSource:
    """Open an image file; it is then read by rows if its format allows, else decoded here.

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
        source = find_reader(format_name).open(path, options, _mislabel_notes(path, format_name))
    if options.pixel_size_um is not None:
        source.geometry = Geometry.of_size(options.pixel_size_um, source.geometry)
    return source


def _mislabel_notes(path: Path, format_name: str) -> tuple[str, ...]:
    if EXTENSIONS.get(path.suffix.lower(), format_name) == format_name:
        return ()
    return (
        f"mislabelled: extension {path.suffix} but {format_name} content, read as {format_name}",
    )
