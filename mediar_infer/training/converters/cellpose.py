"""Cellpose (Stringer et al. 2021): ``train/000_img.png`` with ``train/000_masks.png``, ``test/…``.

The paper discards 58 images that show no microscopy (fruit, shells, …) without naming them, and the
files do not tell them apart: list them in a file for ``--exclude``. All images are converted to
greyscale.
"""

from functools import partial
from pathlib import Path

from mediar_infer.labels.reading import read_labels
from mediar_infer.training.converters.source_images import Found, SourceImage, list_files, make_id
from mediar_infer.training.data.problems import MISSING_IMAGE, MISSING_LABELS, Problem


def find_images(folder: Path) -> Found:
    """Find the images and their masks.

    Args:
        folder: holds ``train/``, ``test/`` or both, unpacked.

    Returns:
        All images; ``exclude_images`` removes unwanted ones.

    Raises:
        UsageError: if the folder does not exist.
    """
    images, problems = [], []
    masks = set(list_files(folder, "*_masks.png"))
    for path in list_files(folder, "*_img.png"):
        name = path.name.removesuffix("_img.png")
        mask = path.with_name(f"{name}_masks.png")
        if mask not in masks:
            problems.append(Problem(MISSING_LABELS, path, f"no {mask.name} beside it"))
            continue
        masks.remove(mask)
        images.append(
            SourceImage(
                image_id=make_id("cellpose", path.relative_to(folder).with_name(name)),
                image_path=path,
                label_path=mask,
                make_labels=partial(read_labels, mask),
                becomes_grey=True,
            )
        )
    problems += [Problem(MISSING_IMAGE, mask, "no image beside it") for mask in sorted(masks)]
    return Found(images, problems)
