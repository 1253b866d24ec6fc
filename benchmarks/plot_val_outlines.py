r"""The best, the median and the worst held-out image of each modality, as true and found outlines.

    python benchmarks/plot_val_outlines.py --data DIR --scores benchmarks/results/val_f1.json \
        --output benchmarks/results/val_outlines.png

True cells are filled with green, found ones outlined in magenta. ``--with-images`` draws the image
below instead of white, for viewing only: the images are not this project's to redistribute.
"""

import json
from collections import defaultdict
from pathlib import Path

import common
import cv2
import numpy as np
import tifffile

from mediar_infer import EngineConfig, Segmenter
from mediar_infer.labels.overlay import draw_picture, find_inner_boundary
from mediar_infer.training.augmentation.contact_sheet import draw_text, join_tiles

_SIDE, _COLUMNS = 300, 6
_CAPTION_HEIGHT = 36
_GREEN, _DARK_GREEN, _MAGENTA = (190, 235, 190), (60, 150, 60), (200, 0, 160)


def choose_images(rows: list[dict[str, str]], f1: dict[str, float]) -> dict[str, list[str]]:
    """Modality → ids of the best, the median and the worst image, each once."""
    groups: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        groups[row["modality"]].append(row["id"])
    chosen = {}
    for modality, ids in sorted(groups.items(), key=lambda item: -len(item[1])):
        ordered = sorted(ids, key=lambda name: (f1[name], name))
        places = sorted({0, len(ordered) // 2, len(ordered) - 1}, reverse=True)
        chosen[modality] = [ordered[place] for place in places]
    return chosen


def draw(image: np.ndarray, true: np.ndarray, found: np.ndarray, *, with_image: bool) -> np.ndarray:
    """True and found cells of an image, ``(side, side, 3)`` uint8, the longer side filled."""
    height, width = true.shape
    scale = _SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    true, found = (
        cv2.resize(labels.astype(np.float32), size, interpolation=cv2.INTER_NEAREST).astype(int)
        for labels in (true, found)
    )
    if with_image:
        picture = cv2.resize(draw_picture(image), size, interpolation=cv2.INTER_AREA)
    else:
        picture = np.full((size[1], size[0], 3), 255, np.uint8)
        picture[true > 0] = _GREEN
    picture[find_inner_boundary(true)] = _DARK_GREEN
    picture[find_inner_boundary(found)] = _MAGENTA
    tile = np.full((_SIDE, _SIDE, 3), 225, np.uint8)
    tile[: size[1], : size[0]] = picture
    return tile


def main() -> None:
    parser = common.make_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="images/, labels/, manifest.csv")
    parser.add_argument(
        "--scores", type=Path, required=True, help="file written by bench_val_f1.py"
    )
    parser.add_argument("--output", type=Path, required=True, help="PNG file to write")
    parser.add_argument(
        "--with-images", action="store_true",
        help="draw the images below the outlines, for viewing only",
    )  # fmt: skip
    args = parser.parse_args()
    rows = {row["id"]: row for row in common.read_rows(args.data)}
    scores = json.loads(args.scores.read_text())
    images = scores["images"]
    f1 = {name: images[name]["ensemble, flips"] for name in rows}
    segmenter = Segmenter.from_weights(config=EngineConfig())
    if segmenter.digests != scores["metadata"]["weights"]:
        parser.error(f"{args.scores} is of other weights than {sorted(segmenter.digests)}")
    tiles = []
    for modality, names in choose_images(list(rows.values()), f1).items():
        for name in names:
            image = common.read_image(args.data / rows[name]["image"])
            true = tifffile.imread(args.data / rows[name]["label"])
            found = segmenter.segment(image).labels
            tile = draw(image, true, found, with_image=args.with_images)
            caption = (f"{modality.replace('_', ' ')[:38]}", f"{name[:28]}: F1 {f1[name]:.3f}")
            tiles.append(np.vstack([tile, draw_text(caption, _CAPTION_HEIGHT, _SIDE)]))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % _COLUMNS)
    sheet = join_tiles([tiles[i : i + _COLUMNS] for i in range(0, len(tiles), _COLUMNS)])
    args.output.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.output), sheet[..., ::-1])


if __name__ == "__main__":
    main()
