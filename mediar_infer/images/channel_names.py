"""Names of the channels of a TIFF image, as far as its metadata state them."""

from contextlib import suppress

import tifffile

from mediar_infer.errors import ImageReadError
from mediar_infer.images.faults import reading
from mediar_infer.images.ome_pixels import find_ome_pixels


def tiff_channel_names(
    tif: tifffile.TiffFile, page: tifffile.TiffPage, n_channels: int
) -> tuple[str, ...]:
    """Find the name of each channel: OME metadata first, then ImageJ's labels of slices.

    Args:
        tif: the open file.
        page: a page of the image.
        n_channels: channels of the image.

    Returns:
        A name for each channel, empty where the file states none.
    """
    names: list[str] = []
    # Metadata may be anything, and the image can be read without them.
    with suppress(ImageReadError), reading(tif.filename, "channel names"):
        names = _ome_names(tif, page, n_channels) or _imagej_names(tif, n_channels)
    return tuple(names) if len(names) == n_channels else ("",) * n_channels


def _ome_names(tif: tifffile.TiffFile, page: tifffile.TiffPage, n_channels: int) -> list[str]:
    """Names of the page's image, or of the first one of its size that has as many channels."""
    for pixels in find_ome_pixels(tif, page):
        names = [channel.get("Name", "").strip() for channel in pixels.iterfind("{*}Channel")]
        if len(names) == n_channels:
            return names
    return []


def _imagej_names(tif: tifffile.TiffFile, n_channels: int) -> list[str]:
    """The first slice's label of each channel; channels change fastest in ImageJ."""
    metadata = tif.imagej_metadata if tif.is_imagej else None
    labels = (metadata or {}).get("Labels")
    if not isinstance(labels, list) or n_channels < 2 or len(labels) % n_channels:
        return []
    return [str(label).strip() for label in labels[:n_channels]]
