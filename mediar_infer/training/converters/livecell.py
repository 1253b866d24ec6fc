"""LIVECell (Edlund et al. 2021): TIFF images and ``livecell_coco_{train,val,test}.json``.

Every annotation is one cell with one or more polygons in COCO coordinates: pixel (0, 0) covers 0 ≤
x < 1, 0 ≤ y < 1. Where cells overlap, the smaller one is on top.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from skimage.draw import polygon

from mediar_infer.arrays import LabelArray
from mediar_infer.errors import DataError, ImageReadError, UsageError
from mediar_infer.training.converters.source_images import Found, SourceImage, list_files, make_id
from mediar_infer.training.data.problems import MISSING_IMAGE, MISSING_LABELS, Problem

_ANNOTATIONS = "livecell_coco_*.json"


def find_images(folder: Path) -> Found:
    """Find the images that the annotation files describe.

    Args:
        folder: holds images and annotation files at any depth.

    Returns:
        All images of the annotation files; images without annotations are problems.

    Raises:
        UsageError: if there is no annotation file.
        DataError: if one is not COCO.
    """
    image_files = {path.name: path for path in list_files(folder, "*.tif")}
    annotation_files = list_files(folder, _ANNOTATIONS)
    if not annotation_files:
        raise UsageError(
            f"{folder}: found no {_ANNOTATIONS} at any depth, expected the unpacked LIVECell"
        )
    images, problems = [], []
    described = set()
    for path in annotation_files:
        for name, (height, width), outlines in _read_annotations(path):
            described.add(name)
            if name not in image_files:
                problems.append(Problem(MISSING_IMAGE, path, f"no image file {name}"))
                continue
            images.append(
                SourceImage(
                    image_id=make_id("livecell", Path(name)),
                    image_path=image_files[name],
                    label_path=path,
                    make_labels=partial(draw_polygons, outlines, height, width, path.name),
                    modality="phase_contrast",
                )
            )
    for name in sorted(image_files.keys() - described):
        found = f"nothing about it in {', '.join(path.name for path in annotation_files)}"
        problems.append(Problem(MISSING_LABELS, image_files[name], found))
    return Found(images, problems)


def draw_polygons(
    outlines: Sequence[Any], height: int, width: int, name: str = "outlines"
) -> LabelArray:
    """Draw the cells of one image.

    Args:
        outlines: per cell a list of polygons, each ``[x0, y0, x1, y1, …]``.
        height: rows of the image.
        width: columns of the image.
        name: file name for errors.

    Returns:
        ``(height, width)`` int32 labels in the order of ``outlines``, from 1; a cell that covers
        no pixel centre, or is covered by smaller ones, has none.

    Raises:
        ImageReadError: if an outline is not a list of polygons.
    """
    cells = []
    for number, polygons in enumerate(outlines, start=1):
        if not _are_polygons(polygons):
            raise ImageReadError(
                f"{name}: found {str(polygons)[:40]} as the outline of cell {number}, expected "
                "polygons [[x0, y0, x1, y1, x2, y2, …], …]"
            )
        # Pixel centres lie at half coordinates.
        pixels = [
            polygon(np.array(xy[1::2]) - 0.5, np.array(xy[::2]) - 0.5, (height, width))
            for xy in polygons
        ]
        rows, columns = (np.concatenate(parts) for parts in zip(*pixels, strict=True))
        cells.append((len(rows), number, rows, columns))
    labels = np.zeros((height, width), np.int32)
    for _, number, rows, columns in sorted(cells, key=lambda cell: (-cell[0], cell[1])):
        labels[rows, columns] = number
    return labels


def _are_polygons(polygons: object) -> bool:
    return (
        isinstance(polygons, list)
        and len(polygons) > 0
        and all(isinstance(xy, list) and len(xy) >= 6 and len(xy) % 2 == 0 for xy in polygons)
    )


def _read_annotations(path: Path) -> Iterable[tuple[str, tuple[int, int], list[Any]]]:
    """Name, (height, width) and outlines of every image of a COCO file."""
    try:
        content = json.loads(path.read_bytes())
        annotations = content["annotations"]
        if isinstance(annotations, Mapping):  # some of the published files are keyed by id
            annotations = list(annotations.values())
        outlines: dict[Any, list[Any]] = {image["id"]: [] for image in content["images"]}
        for annotation in annotations:
            outlines[annotation["image_id"]].append(annotation["segmentation"])
        return [
            (
                str(image["file_name"]),
                (int(image["height"]), int(image["width"])),
                outlines[image["id"]],
            )
            for image in content["images"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: found no COCO annotations ({type(error).__name__}: {error}), expected images "
            "(id, file_name, height, width) and annotations (image_id, segmentation)"
        ) from error
