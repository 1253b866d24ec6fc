r"""The challenge's protocol on this machine: a fresh container per image.

Held-out images come from each modality in turn; large ones are generated. The page and its data
omit the images, because most of them may not be redistributed.

    python benchmarks/bench_challenge.py --data DIR --engine podman --image NAME \
        --output benchmarks/results/challenge
"""

import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from itertools import zip_longest
from pathlib import Path

import common
import tifffile

from mediar_infer.demo.scenes import SceneKind, make_scene
from mediar_infer.labels.files import write_labels

LARGE: dict[str, tuple[SceneKind, int, int]] = {
    "large_5000": ("fluorescence", 5000, 5000),
    "large_3000x4000": ("stained", 3000, 4000),
    "large_8415x10496": ("fluorescence", 8415, 10496),
}
"""Name → kind, height and width; the last is the largest image of the challenge."""


def choose(rows: list[dict[str, str]], n_images: int) -> list[dict[str, str]]:
    """Pick rows of the manifest from each modality in turn."""
    by_modality = defaultdict(list)
    for row in rows:
        by_modality[row["modality"]].append(row)
    turns = zip_longest(*by_modality.values())
    return [row for turn in turns for row in turn if row is not None][:n_images]


def make_inputs(data: Path, work: Path, n_images: int, n_large: int) -> None:
    """Write ``work/images`` and ``work/truth``."""
    images, truth = work / "images", work / "truth"
    images.mkdir()
    truth.mkdir()
    for row in choose(common.read_rows(data), n_images):
        shutil.copy(data / row["image"], images)
        shutil.copy(data / row["label"], truth)
    for seed, (name, (kind, height, width)) in enumerate(list(LARGE.items())[:n_large]):
        pixels, labels = make_scene(kind, height, width, seed)
        rgb = pixels.ndim == 3
        tifffile.imwrite(
            images / f"{name}.tif", pixels, compression="zlib",
            photometric="rgb" if rgb else "minisblack",
        )  # fmt: skip
        write_labels(truth / f"{name}_label.tiff", [labels], height=height, width=width)


def main() -> int:
    parser = common.make_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument(
        "--engine", choices=("docker", "podman", "process"), default="docker",
        help="what runs the image, or process for this package",
    )  # fmt: skip
    parser.add_argument("--image", help="container image")
    parser.add_argument("--images", type=int, default=32, metavar="N", help="held-out images")
    parser.add_argument("--large", type=int, default=len(LARGE), metavar="N", help="large images")
    parser.add_argument("--output", type=Path, required=True, help="folder for page and data")
    parser.add_argument("options", nargs="*", help="after --: passed on to predict")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_inputs(args.data, work, args.images, args.large)
        command = [
            sys.executable, "-m", "mediar_infer", "challenge", "-i", work / "images",
            "-o", work / "judged", "--gt", work / "truth", "--without-images",
            "--engine", args.engine, *(("--image", args.image) if args.image else ()),
            *(("--", *args.options) if args.options else ()),
        ]  # fmt: skip
        code = subprocess.run(command).returncode
        args.output.mkdir(parents=True, exist_ok=True)
        for name in ("challenge.json", "report.html"):
            shutil.copy(work / "judged" / name, args.output)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
