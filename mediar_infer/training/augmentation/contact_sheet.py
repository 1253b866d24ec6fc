"""A picture of what each augmentation does to real crops."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
from torch import Tensor

from mediar_infer.arrays import BoolArray, LabelArray
from mediar_infer.labels.overlay import compute_colours, find_inner_boundary
from mediar_infer.training.augmentation.loader import CropMaker, Draw
from mediar_infer.training.augmentation.settings import Augmentation
from mediar_infer.training.data.samples import Sample

Rgb = npt.NDArray[np.uint8]

_PROBABILITY: Final = "_probability"
# On their own they have no visible effect: the first zooms other images, the second shows in crops
# larger than the image, the third clips values that other changes push out of range.
_NOT_SHOWN: Final = ("plain_zoom", "mirror", "saturation")
_GAP: Final = 4
_CAPTION_WIDTH: Final = 190
_LINE_HEIGHT: Final = 16
_FONT_SCALE: Final = 0.42


@dataclass(frozen=True, slots=True)
class Change:
    """One row of the sheet."""

    lines: tuple[str, ...]
    """Its name and its values."""
    augmentation: Augmentation
    """Changes to the crops of the row."""
    excludes_boundary: bool = False
    """Turn the boundaries of cells into background too, and show the labels as areas."""


def list_changes(augmentation: Augmentation) -> list[Change]:
    """List each augmentation alone, then boundary exclusion, then all together as in training.

    Args:
        augmentation: the ranges; the probabilities are shown, and used in the last row alone.
    """
    names = [field.name for field in fields(augmentation)]
    never = _without_changes(augmentation)
    changes = []
    for kind in _list_kinds(augmentation):
        if kind in _NOT_SHOWN:
            continue
        values = {
            name.removeprefix(kind + "_"): getattr(augmentation, name)
            for name in names
            if name.startswith(kind + "_")
        }
        name = kind.replace("_", " ") + ("" if values["probability"] else " (not used)")
        lines = (name, *(f"{key} {value}" for key, value in values.items()))
        changes.append(Change(lines, _set_probabilities(never, [kind], 1.0)))
    return [
        *changes,
        Change(("boundary exclusion",), never, excludes_boundary=True),
        Change(("all together",), augmentation),
    ]


def _list_kinds(augmentation: Augmentation) -> list[str]:
    names = [field.name for field in fields(augmentation)]
    return [name.removesuffix(_PROBABILITY) for name in names if name.endswith(_PROBABILITY)]


def _without_changes(augmentation: Augmentation) -> Augmentation:
    return _set_probabilities(augmentation, _list_kinds(augmentation), 0.0)


def _set_probabilities(
    augmentation: Augmentation, kinds: Sequence[str], probability: float
) -> Augmentation:
    values: dict[str, Any] = dict.fromkeys((kind + _PROBABILITY for kind in kinds), probability)
    return replace(augmentation, **values)


def draw_contact_sheet(
    samples: Sequence[Sample], augmentation: Augmentation, *, crop_size: int, seed: int
) -> Rgb:
    """Draw a row per augmentation, with a crop of each image before and after it.

    Args:
        samples: at least one. Not modified.
        augmentation: probabilities and ranges.
        crop_size: side of the crops in pixels.
        seed: seed of the random choices; a crop is cut at the same place in every row.

    Returns:
        ``(H, W, 3)`` RGB; cells are outlined, values clipped to [0, 1].
    """
    before_maker = CropMaker(_without_changes(augmentation), crop_size=crop_size, seed=seed)
    unchanged = Draw(0, excludes_boundary=False, intensity=True)
    titles = [text for sample in samples for text in (sample.record.image_id, "after")]
    rows = [[draw_text(("",), _LINE_HEIGHT, _CAPTION_WIDTH)]]
    rows[0] += [draw_text((title,), _LINE_HEIGHT, crop_size) for title in titles]
    for change in list_changes(augmentation):
        maker = CropMaker(change.augmentation, crop_size=crop_size, seed=seed)
        changed = Draw(0, excludes_boundary=change.excludes_boundary, intensity=True)
        row = [draw_text(change.lines, crop_size, _CAPTION_WIDTH)]
        for slot, sample in enumerate(samples):
            before = before_maker.make(sample, unchanged, 0, slot)
            after = maker.make(sample, changed, 0, slot)
            for image, labels in (before, after):
                shown = labels > 0 if change.excludes_boundary else find_inner_boundary(labels)
                row.append(_draw_crop(image, labels, shown))
        rows.append(row)
    return join_tiles(rows)


def join_tiles(rows: Sequence[Sequence[Rgb]]) -> Rgb:
    """Join tiles into one picture, with gaps between them.

    Args:
        rows: tiles ``(h, w, 3)``; one height per row, one width per column.
    """
    gap = ((0, _GAP), (0, _GAP), (0, 0))
    return np.vstack([np.hstack([np.pad(tile, gap) for tile in row]) for row in rows])


def _draw_crop(image: Tensor, labels: LabelArray, coloured: BoolArray) -> Rgb:
    drawn: Rgb = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy().copy()
    drawn[coloured] = compute_colours(labels[coloured])
    return drawn


def draw_text(lines: Sequence[str], height: int, width: int) -> Rgb:
    """Draw lines of text, white on black.

    Args:
        lines: clipped at the end of the tile; characters other than ASCII become question marks.
        height: height of the tile in pixels; a line takes 16.
        width: width of the tile in pixels.
    """
    tile = np.zeros((height, width, 3), np.uint8)
    for number, line in enumerate(lines, start=1):
        cv2.putText(
            tile,
            # OpenCV has no other letters, and crashes on names that are not UTF-8.
            line.encode("ascii", "replace").decode(),
            (2, number * _LINE_HEIGHT - 4),
            cv2.FONT_HERSHEY_SIMPLEX,
            _FONT_SCALE,
            (255, 255, 255),
            lineType=cv2.LINE_AA,
        )
    return tile
