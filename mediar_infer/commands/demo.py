"""The ``demo`` command: the main job on a few real and generated images, end to end.

The real images come with scikit-image, so nothing is downloaded; the cells of the generated ones
are known, which gives a score beside the images.
"""

import argparse
import io
import sys
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
import tifffile

from mediar_infer.commands.arguments import add_examples
from mediar_infer.commands.options import add_engine_arguments, to_engine_config
from mediar_infer.commands.printing import print_summary
from mediar_infer.demo.scenes import SceneKind, make_scene
from mediar_infer.errors import UsageError
from mediar_infer.folder.console import console_table
from mediar_infer.folder.ledger import LEDGER_NAME, SUMMARY_NAME, LedgerEntry
from mediar_infer.folder.options import RunOptions
from mediar_infer.folder.run_image import OVERLAY_DIR
from mediar_infer.folder.runner import compute_exit_code, run_folder
from mediar_infer.folder.selection import Selection
from mediar_infer.labels.files import write_labels
from mediar_infer.labels.metrics import evaluate_labels
from mediar_infer.labels.naming import label_path
from mediar_infer.labels.reading import read_labels
from mediar_infer.output_files import write_bytes
from mediar_infer.segmenter import Segmenter

REAL_IMAGES: Final = ("ihc.png", "cell.png")
"""Images in scikit-image's wheel: stained tissue, and one large cell in phase contrast."""
SCENES: Final[dict[str, SceneKind]] = {
    "nuclei_16bit.tif": "fluorescence",
    "phase.ome.tif": "phase",
    "stained.jpg": "stained",
    "bacteria.bmp": "bacteria",
}
"""File name → kind of the generated images, each in another format."""

_IMAGES, _TRUTH, _RESULTS = "images", "truth", "results"
_SEED = 19940817
_MIN_SIZE = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``demo`` command."""
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("demo"), metavar="DIR",
        help="folder for images and results (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--size", type=int, default=512, metavar="PX",
        help="side of the generated images (default: %(default)s)",
    )  # fmt: skip
    add_engine_arguments(parser)
    add_examples(parser, ("segment the demo images", "mediar-infer demo -o demo"))


def write_images(output_dir: Path, size: int) -> None:
    """Write the demo's input images, and the known labels of the generated ones.

    Args:
        output_dir: folder of the demo; gains ``images`` and ``truth``.
        size: side of the generated images in pixels.

    Raises:
        OutputError: if the folder cannot be written.
    """
    images_dir = output_dir / _IMAGES
    for name in REAL_IMAGES:
        write_bytes(images_dir / name, (files("skimage") / "data" / name).read_bytes())
    for name, kind in SCENES.items():
        image, labels = make_scene(kind, size, size, _SEED)
        write_bytes(images_dir / name, _encode(name, image))
        truth = label_path(output_dir / _TRUTH, Path(name))
        write_labels(truth, [labels], height=size, width=size)


def _encode(name: str, image: npt.NDArray[Any]) -> bytes:
    """Bytes of an image file, ``(H, W)`` or RGB ``(H, W, 3)``, in the format that its name says."""
    suffix = Path(name).suffix
    if suffix == ".tif":
        buffer = io.BytesIO()
        is_ome = name.endswith(".ome.tif")
        tifffile.imwrite(buffer, image, ome=is_ome, metadata={"axes": "YX"} if is_ome else None)
        return buffer.getvalue()
    # OpenCV takes colours as BGR.
    _, encoded = cv2.imencode(suffix, image if image.ndim == 2 else image[..., ::-1])
    return encoded.tobytes()


def score_table(output_dir: Path, names: Iterable[str]) -> str:
    """Lay out true and found cells, and F1, of the generated images.

    All cells count as cells, as in the table of the run. F1 leaves out those at the border.

    Args:
        output_dir: folder of the demo, after the run.
        names: images that were segmented.

    Returns:
        Lines without a newline at the end.
    """
    lines = [f"{'generated image':<20}{'true cells':>12}{'found':>8}{'F1 at IoU 0.5':>16}"]
    for name in names:
        true, found = (
            read_labels(label_path(output_dir / folder, Path(name)))
            for folder in (_TRUTH, _RESULTS)
        )
        f1 = evaluate_labels(true, found, (0.5,))[0].f1
        lines.append(f"{name:<20}{_count_cells(true):>12}{_count_cells(found):>8}{f1:>16.3f}")
    return "\n".join([*lines, "Cells at the border do not count in F1, as in the challenge."])


def _count_cells(labels: npt.NDArray[Any]) -> int:
    return int(np.count_nonzero(np.unique(labels)))


def _report(records: Sequence[LedgerEntry], output_dir: Path) -> str:
    done = {record.file for record in records if record.status == "done"}
    results = output_dir / _RESULTS
    return "\n".join(
        [
            console_table(records),
            "",
            score_table(output_dir, [name for name in SCENES if name in done]),
            "",
            f"images    {output_dir / _IMAGES}",
            f"labels    {results}/*_label.tiff",
            f"overlays  {results / OVERLAY_DIR}/*.png",
            f"ledger    {results / LEDGER_NAME} and {SUMMARY_NAME}",
        ]
    )


def run(args: argparse.Namespace) -> int:
    """Write the images, segment them and score the generated ones; 0 if none failed, else 1.

    Raises:
        UsageError: if the size is too small to hold cells.
    """
    if args.size < _MIN_SIZE:
        raise UsageError(f"found --size {args.size}, expected {_MIN_SIZE} or more")
    segmenter = Segmenter.from_weights(args.weights, to_engine_config(args))
    write_images(args.output, args.size)
    options = RunOptions(
        selection=Selection((args.output / _IMAGES,)),
        output_dir=args.output / _RESULTS,
        ledger_dir=args.output / _RESULTS,
        overlays=True,
        show_progress=sys.stderr.isatty() and not args.quiet,
    )
    records = run_folder(segmenter, options)
    if not args.quiet:
        print_summary(_report(records, args.output))
    return compute_exit_code(records, strict_budget=False)
