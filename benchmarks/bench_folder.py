"""Throughput of a folder: wall time of one run over mixed images against its network time.

The network is the floor. Reading, labelling and writing cost nothing while it runs; this measures
the rest. Images are generated, of several kinds, sizes and formats, or given.
"""

import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import get_args

import common
import cv2
import numpy as np
import tifffile

from mediar_infer.demo.scenes import SceneKind, make_scene

SCENE_KINDS = get_args(SceneKind)
TARGET = 0.95


def write_images(folder: Path, n: int, max_side: int) -> None:
    """Images of sides from 256 to ``max_side``, most of them small, as in the challenge."""
    rng = np.random.default_rng(0)
    for number in range(n):
        height, width = np.exp(rng.uniform(np.log(256), np.log(max_side), 2)).astype(int)
        kind = SCENE_KINDS[number % len(SCENE_KINDS)]
        image, _ = make_scene(kind, int(height), int(width), seed=number)
        name = folder / f"{number:03d}_{kind}"
        if number % 3 == 0:
            tifffile.imwrite(name.with_suffix(".tif"), image, compression="zlib", tile=(256, 256))
        else:
            suffix = ".png" if number % 3 == 1 or image.dtype != np.uint8 else ".jpg"
            cv2.imwrite(
                str(name.with_suffix(suffix)), image[..., ::-1] if image.ndim == 3 else image
            )


def measure(images: Path, labels: Path, options: list[str]) -> dict[str, object]:
    """One run in a fresh process."""
    command = [sys.executable, "predict.py", "-i", str(images), "-o", str(labels), "--quiet"]
    sample = common.run_timed([*command, *options])
    lines = (labels / "ledger.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if record["status"] == "done"]
    stages_s: dict[str, float] = defaultdict(float)
    for record in records:
        for stage, seconds in record["stages_s"].items():
            stages_s[stage] += seconds
    images_s = sum(record["wall_s"] for record in records[1:])
    network_s = sum(record["stages_s"]["network"] for record in records[1:])
    return {
        "images": len(records),
        "megapixels": sum(record["height"] * record["width"] for record in records) / 1e6,
        "process_s": sample.wall_s,
        "process_cpu_s": sample.cpu_s,
        "others_cores": sample.others_cores,
        "stages_s": dict(stages_s),
        "network_of_process": stages_s["network"] / sample.wall_s,
        "behind_the_first_image": {
            "wall_s": images_s,
            "network_s": network_s,
            "network_of_wall": network_s / images_s if images_s else 0.0,
        },
        "target": TARGET,
    }


def main() -> None:
    parser = common.make_parser(__doc__)
    parser.add_argument("--data", type=Path, help="folder of images; none generates them")
    parser.add_argument("--images", type=int, default=200, help="number of generated images")
    parser.add_argument(
        "--max-side", type=int, default=2000, help="longest side of generated images in pixels"
    )
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("options", nargs="*", help="options of predict, after --")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        images = args.data or Path(scratch) / "images"
        if args.data is None:
            images.mkdir()
            write_images(images, args.images, args.max_side)
        results = measure(images, Path(scratch) / "labels", args.options)
    print(json.dumps(results, indent=2))
    source = str(args.data) if args.data else f"{args.images} generated, up to {args.max_side} px"
    common.write_report(args.output, common.metadata(data=source, options=args.options), results)


if __name__ == "__main__":
    main()
