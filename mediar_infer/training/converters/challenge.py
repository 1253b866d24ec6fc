"""The NeurIPS 2022 cell segmentation challenge: labelled, unlabelled and tuning images.

The archives unpack into ``…/images/NAME.ext`` with ``…/labels/NAME_label.tiff``; the names of its
folders say what an archive is for. The tuning labels, published later, are not used: the paper
chooses checkpoints by counting cells there. Test images are excluded.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from mediar_infer.errors import UsageError
from mediar_infer.training.converters.source_images import Found, SourceImage, list_files, make_id
from mediar_infer.training.data.candidates import find_candidates
from mediar_infer.training.data.layouts import IMAGE_FOLDERS, LABEL_FOLDERS
from mediar_infer.training.data.problems import MISSING_LABELS, Problem
from mediar_infer.training.data.table import Role

_ROLES: Mapping[str, Role | None] = {
    "unlabel": "unlabelled",
    "tun": "tuning",
    "val": "tuning",
    "test": None,
    "hidden": None,
    "train": "target",
}
"""Start of a word in the names of the folders → role; ``None`` is excluded."""


def find_images(folder: Path) -> Found:
    """Find the images of all archives.

    Args:
        folder: holds one or more unpacked archives.

    Returns:
        Labelled images as target images, tuning and unlabelled images with these roles; test images
        are only counted.

    Raises:
        UsageError: if the folder does not exist or holds no image.
    """
    folder = Path(os.path.normpath(folder.absolute()))  # as the paths of candidates are
    images, problems, n_left_out = [], [], 0
    for place in _image_folders(folder):
        candidates, wrong = find_candidates(place, descends=False)
        role = _find_role(str(place.relative_to(folder)), folder.name)
        if role is None:
            n_left_out += len(candidates)
            continue
        problems += wrong
        for candidate in candidates:
            if role == "target" and candidate.label_path is None:
                problems.append(Problem(MISSING_LABELS, candidate.image_path, "no label file"))
                continue
            images.append(
                SourceImage(
                    image_id=make_id("challenge", candidate.image_path.relative_to(folder)),
                    image_path=candidate.image_path,
                    label_path=candidate.label_path if role == "target" else None,
                    role=role,
                )
            )
    if not images and not n_left_out:
        raise UsageError(f"{folder}: found no image at any depth, expected the unpacked archives")
    return Found(images, problems, n_left_out)


def _image_folders(folder: Path) -> list[Path]:
    places = {path.parent for path in list_files(folder, "*")}
    parents = {place.parent for place in places if place.name.lower() in IMAGE_FOLDERS}
    return sorted(
        place
        for place in places
        if place.name.lower() not in LABEL_FOLDERS and place not in parents
    )


def _find_role(*names: str) -> Role | None:
    """Search the names in order; target if none names a role."""
    for name in names:
        words = re.split(r"[^a-z]+", name.lower())
        for start, role in _ROLES.items():
            if any(word.startswith(start) for word in words):
                return role
    return "target"
