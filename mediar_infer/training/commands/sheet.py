"""The ``sheet`` command: data table → picture of every augmentation before and after."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mediar_infer.errors import UsageError
from mediar_infer.labels.overlay import write_png
from mediar_infer.training.augmentation.contact_sheet import draw_contact_sheet
from mediar_infer.training.augmentation.settings import Augmentation
from mediar_infer.training.data.samples import SampleStore
from mediar_infer.training.data.table import TrainingImage, read_table

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``sheet`` command."""
    parser.add_argument("table", type=Path, metavar="TABLE.csv", help="data table made by 'index'")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="SHEET.png", help="picture to write"
    )
    parser.add_argument(
        "--images", type=int, default=4, metavar="N",
        help="number of images, spread over the modalities (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--id", nargs="+", default=[], metavar="ID", help="show these images instead"
    )
    parser.add_argument(
        "--crop",
        type=int,
        default=192,
        metavar="PX",
        help="crop side (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="random seed (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Draw the sheet and write it; 0."""
    if args.crop < 1 or args.images < 1:
        raise UsageError(
            f"found --crop {args.crop} --images {args.images}, expected 1 or more of each"
        )
    records = _choose_records(read_table(args.table), args.images, args.id, args.table)
    store = SampleStore(records)
    sheet = draw_contact_sheet(store, Augmentation(), crop_size=args.crop, seed=args.seed)
    write_png(args.output, sheet)
    logger.info("%s: %s", args.output, ", ".join(record.image_id for record in records))
    return 0


def _choose_records(
    records: Sequence[TrainingImage], n_images: int, image_ids: Sequence[str], table: Path
) -> list[TrainingImage]:
    labelled = {r.image_id: r for r in records if r.label_path is not None}
    unknown = [image_id for image_id in image_ids if image_id not in labelled]
    if unknown or not labelled:
        raise UsageError(
            f"{table}: found no labelled image {', '.join(unknown)}, expected ids from its column "
            "image_id, of images with labels"
        )
    if image_ids:
        return [labelled[image_id] for image_id in image_ids]
    ordered = sorted(labelled.values(), key=lambda r: (r.modality, r.source, r.image_id))
    # The middle of each of n equal parts.
    places = (np.arange(n_images) + 0.5) * len(ordered) / n_images
    return [ordered[place] for place in sorted({int(place) for place in places})]
