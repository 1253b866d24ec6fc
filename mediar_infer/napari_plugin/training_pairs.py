"""An image and its labels, as a person corrected them, in the layout that training reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import tifffile

from mediar_infer.arrays import AnyArray
from mediar_infer.engine.merging import merge_channels
from mediar_infer.errors import DataError, OutputError, ShapeError
from mediar_infer.images.geometry import Geometry
from mediar_infer.images.sources import ImageSource
from mediar_infer.labels.files import write_labels
from mediar_infer.labels.naming import find_marked_stem, label_path
from mediar_infer.labels.plausibility import find_label_fault
from mediar_infer.output_files import writing_output

_CHANNELS_OF_RGB: Final = 3
_FORBIDDEN: Final = frozenset('/\\:*?"<>|.')


def save_training_pair(
    folder: Path,
    name: str,
    source: ImageSource,
    labels: npt.NDArray[np.integer[Any]],
    pixel_size_um: Sequence[float] | None = None,
    *,
    replaces: bool = False,
) -> tuple[Path, Path]:
    """Write ``NAME.tif`` and ``NAME_label.tiff``, which ``tune`` and ``index`` take as a pair.

    The image is what the network sees of it: one channel, or the three that were chosen; levels
    from 0 to 255 where channels are merged. The labels carry no provenance, so training takes them
    as corrected by hand.

    Args:
        folder: where to; made if need be.
        name: of the pair; characters that file names do not like become ``_``.
        source: the image.
        labels: ``(H, W)`` of the same size.
        pixel_size_um: height and width of a pixel in µm; None if unknown.
        replaces: a pair of that name is replaced.

    Returns:
        Paths of image and labels.

    Raises:
        DataError: if the labels do not number cells.
        ImageReadError: if a channel that is merged has no finite pixel.
        OutputError: if there is such a pair already, or it cannot be written.
        ShapeError: if the sizes differ.
    """
    _check_labels(source, labels)
    image_path = folder / f"{_to_stem(name)}.tif"
    target = label_path(folder, image_path)
    for path in (image_path, target):
        if path.exists() and not replaces:
            raise OutputError(
                f"{path}: found a file of that name, expected none; choose another name, or allow"
                " replacing"
            )
    image = merge_channels(source).read_rows(0, source.height)
    if (image == image[..., :1]).all():
        image = image[..., 0]
    # Labels last: a pair that is not complete is an image without labels, which training skips.
    _write_image(image_path, image, pixel_size_um)
    geometry = None
    if pixel_size_um is not None:
        height_um, width_um = pixel_size_um
        geometry = Geometry.of_size((height_um, width_um))
    write_labels(target, [labels], height=source.height, width=source.width, geometry=geometry)
    return image_path, target


def _to_stem(name: str) -> str:
    """A name that is a file's and that does not say that the file holds labels."""
    stem = "".join("_" if char in _FORBIDDEN else char for char in name).strip() or "image"
    return stem if find_marked_stem(Path(f"{stem}.tif")) is None else f"{stem}_image"


def _check_labels(source: ImageSource, labels: npt.NDArray[np.integer[Any]]) -> None:
    if labels.shape != (source.height, source.width):
        raise ShapeError(
            f"{source.name}: found labels of {labels.shape[0]} × {labels.shape[1]} pixels, expected"
            f" {source.height} × {source.width} as the image; choose the labels of this image"
        )
    if not labels.any():
        raise DataError(f"{source.name}: found no cell in the labels, expected one or more")
    fault = find_label_fault(labels)
    if fault is not None and fault.is_certain:
        raise DataError(f"{source.name}: found {fault.found}, expected {fault.expected}")


def _write_image(path: Path, image: AnyArray, pixel_size_um: Sequence[float] | None) -> None:
    metadata: dict[str, Any] = {}
    if pixel_size_um is not None:
        height_um, width_um = pixel_size_um
        # Pixels per centimetre.
        metadata = {"resolution": (1e4 / width_um, 1e4 / height_um), "resolutionunit": "CENTIMETER"}
    photometric = "rgb" if image.ndim == _CHANNELS_OF_RGB else "minisblack"
    with writing_output(path) as file:
        tifffile.imwrite(
            file, image, photometric=photometric, compression="zlib", metadata=None, **metadata
        )
