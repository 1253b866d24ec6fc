"""Which images of a folder an earlier run has done, by what their label files say."""

import logging
from collections.abc import Iterable
from typing import Any

from mediar_infer.folder.ledger import Ledger, LedgerEntry, timestamp
from mediar_infer.folder.options import RunOptions
from mediar_infer.folder.provenance import Provenance, describe_labels, describe_settings
from mediar_infer.folder.run_image import RunImage
from mediar_infer.labels.files import LabelHeader, read_label_header

logger = logging.getLogger(__name__)


def find_finished(
    ledgers: Iterable[Ledger],
    provenance: Provenance,
    images: Iterable[RunImage],
    options: RunOptions,
) -> dict[RunImage, LedgerEntry]:
    """Find images whose label files say that they were made with the same weights and plan.

    Args:
        ledgers: entries of earlier runs, later ones last; what they add to a label file's words is
            carried over.
        provenance: models and settings of this run.
        images: the images of the run.
        options: where results are.

    Returns:
        Image → the entry of a resumed image.

    Raises:
        OutputError: if the ledger exists but cannot be read.
    """
    latest: dict[str, LedgerEntry] = {}
    for ledger in ledgers:
        content = ledger.read()
        latest |= content.latest
        for problem in content.problems:
            logger.warning("%s", problem)
    finished = {}
    for image in images:
        header = _find_finished_labels(image, provenance, options)
        if header is not None:
            finished[image] = _resume(image, header, latest.get(image.name), options)
    return finished


def _find_finished_labels(
    image: RunImage, provenance: Provenance, options: RunOptions
) -> LabelHeader | None:
    """What an image's label file states, if it was made of this image with the same settings."""
    header = read_label_header(options.label_path(image))
    if header is None:
        return None
    settings = describe_settings(image, provenance)
    if any(header.facts.get(name) != value for name, value in settings.items()):
        return None  # before the image is read for its fingerprint
    try:
        expected = describe_labels(image, provenance)
    except OSError:  # a broken link, or removed in the meantime
        return None
    return header if dict(header.facts) == expected else None


def _resume(
    image: RunImage, header: LabelHeader, before: LedgerEntry | None, options: RunOptions
) -> LedgerEntry:
    """Entry of a resumed image, with what an earlier entry of the same labels adds to their file.

    Args:
        image: the image.
        header: of its label file.
        before: latest entry of the image, of whichever labels.
        options: where results are.
    """
    fields: dict[str, Any] = {
        "height": header.height, "width": header.width, "n_cells": header.n_cells,
        "plan": header.facts["plan"], "weights": header.facts["weights"],
        "output": options.output_name(image),
    }  # fmt: skip
    known = before.to_dict() if before else {}
    if all(known.get(name) == value for name, value in fields.items()):
        fields = known
    now = {"file": image.name, "status": "resumed", "started_at": timestamp(), "wall_s": 0.0}
    return LedgerEntry.from_dict({**fields, **now, "stages_s": {}})
