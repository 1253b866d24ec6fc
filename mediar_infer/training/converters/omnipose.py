"""Omnipose (Cutler et al. 2022): ``bact_phase/``, ``bact_fluor/``, ``worm/`` and others.

Images are ``NAME.tif`` with ``NAME_masks.tif`` beside them, at any depth; ``NAME_flows.tif`` come
from Omnipose and are not read. The paper discards the worm images.
"""

from functools import partial
from pathlib import Path

from mediar_infer.labels.reading import read_labels
from mediar_infer.training.converters.source_images import Found, SourceImage, list_files, make_id
from mediar_infer.training.data.problems import MISSING_IMAGE, MISSING_LABELS, Problem

_EXCLUDED_START = "worm"
_MODALITIES = {"bact_phase": "phase_contrast", "bact_fluor": "fluorescence"}


def find_images(folder: Path) -> Found:
    """Find the bacteria and their masks.

    Args:
        folder: the unpacked data set.

    Returns:
        Images outside folders whose name starts with ``worm``; the others are counted.

    Raises:
        UsageError: if the folder does not exist.
    """
    images, problems, n_left_out = [], [], 0
    files = list_files(folder, "*.tif")
    masks = {path for path in files if path.stem.endswith("_masks")}
    for path in files:
        if path.stem.endswith(("_masks", "_flows")):
            continue
        place = path.relative_to(folder)
        if any(part.lower().startswith(_EXCLUDED_START) for part in place.parts[:-1]):
            n_left_out += 1
            continue
        mask = path.with_name(f"{path.stem}_masks.tif")
        if mask not in masks:
            problems.append(Problem(MISSING_LABELS, path, f"no {mask.name} beside it"))
            continue
        images.append(
            SourceImage(
                image_id=make_id("omnipose", place),
                image_path=path,
                label_path=mask,
                make_labels=partial(read_labels, mask),
                modality=next(
                    (_MODALITIES[part] for part in place.parts if part in _MODALITIES), ""
                ),
            )
        )
    orphans = masks - {path.with_name(f"{path.stem}_masks.tif") for path in files}
    problems += [Problem(MISSING_IMAGE, mask, "no image beside it") for mask in sorted(orphans)]
    return Found(images, problems, n_left_out)
