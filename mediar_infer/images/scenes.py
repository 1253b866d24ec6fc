"""Files that may hold several images: their scenes, before any of them is opened."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from mediar_infer.images.faults import reading
from mediar_infer.images.formats import recognise_file


def _list_czi(path: Path) -> Sequence[str]:
    from mediar_infer.images.czi_source import list_czi_scenes

    return list_czi_scenes(path)


def _list_lif(path: Path) -> Sequence[str]:
    from mediar_infer.images.lif_source import list_lif_images

    return list_lif_images(path)


def _list_nd2(path: Path) -> Sequence[str]:
    from mediar_infer.images.nd2_source import list_nd2_positions

    return list_nd2_positions(path)


def _list_zarr(path: Path) -> Sequence[str]:
    from mediar_infer.images.zarr_source import list_zarr_scenes

    return list_zarr_scenes(path)


def _list_tiff(path: Path) -> Sequence[str]:
    from mediar_infer.images.tiff_layout import list_tiff_scenes

    return list_tiff_scenes(path)


_LISTS: Final[Mapping[str, Callable[[Path], Sequence[str]]]] = {
    "CZI": _list_czi,
    "LIF": _list_lif,
    "ND2": _list_nd2,
    "OME-Zarr": _list_zarr,
    "TIFF": _list_tiff,
}
"""Format → the scenes of a file; files of all other formats have one."""


def list_scenes(path: Path) -> Sequence[str]:
    """Name the scenes of a file.

    Args:
        path: the file.

    Returns:
        A name for each scene, empty where the file states none.

    Raises:
        ImageReadError: if the file cannot be read.
    """
    format_name = recognise_file(path)
    if format_name not in _LISTS:
        return ("",)
    with reading(path.name, f"{format_name} data"):
        return _LISTS[format_name](path)
