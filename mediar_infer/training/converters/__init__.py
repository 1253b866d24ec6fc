"""Data sets as distributed → one folder of images, labels and a manifest for ``index``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mediar_infer.training.converters import cellpose, challenge, dsb2018, livecell, omnipose
from mediar_infer.training.converters.source_images import Found


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set that can be converted."""

    find_images: Callable[[Path], Found]
    """Finds its images in the folder of the download."""
    n_images: int
    """Number of images that the paper uses of it."""
    layout: str
    """What the folder of the download holds, at any depth."""
    left_out: str
    """What the paper excludes; empty if it uses everything."""


DATA_SETS: Final[Mapping[str, DataSet]] = {
    "omnipose": DataSet(
        omnipose.find_images, 611, "NAME.tif with NAME_masks.tif beside it", "118 worm images"
    ),
    "cellpose": DataSet(
        cellpose.find_images,
        551,
        "NNN_img.png with NNN_masks.png beside it",
        "58 images without microscopy (--exclude)",
    ),
    "livecell": DataSet(
        livecell.find_images, 5239, "livecell_coco_*.json and the TIFF files that they name", ""
    ),
    "dsb2018": DataSet(
        dsb2018.find_images,
        841,
        "ID/images/ID.png with ID/masks/*.png, or stage*_solution*.csv",
        "",
    ),
    "challenge": DataSet(
        challenge.find_images,
        1000,
        "images/NAME.ext with labels/NAME_label.tiff; the names of the folders tell the role",
        "test images",
    ),
}
"""Name of the set → how to convert it; the public four make the paper's 7,242 images."""
