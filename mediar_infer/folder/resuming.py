"""Which images of a folder an earlier run has done, by what their label files say."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mediar_infer.folder.ledger import Ledger, LedgerContent, LedgerEntry, timestamp
from mediar_infer.folder.options import RunOptions
from mediar_infer.folder.provenance import Provenance, describe_labels
from mediar_infer.labels.files import label_path, read_label_header

logger = logging.getLogger(__name__)


def find_finished(
    ledger: Ledger | None, provenance: Provenance, images: Iterable[Path], options: RunOptions
) -> dict[Path, LedgerEntry]:
    """Find images whose label files say that they were made with the same weights and plan.

    Args:
        ledger: entries of earlier runs; what they add to a label file's words is carried over.
        provenance: models and settings of this run.
        images: the input files.
        options: where results are, and which are expected.

    Returns:
        Image → the entry of a resumed image.

    Raises:
        OutputError: if the ledger exists but cannot be read.
    """
    content = ledger.read() if ledger else LedgerContent((), ())
    for problem in content.problems:
        logger.warning("%s", problem)
    finished = {}
    for path in images:
        header = read_label_header(label_path(options.output_dir, path))
        if header is None:
            continue
        try:
            expected = describe_labels(path, provenance)
        except OSError:  # a broken link, or removed in the meantime
            continue
        lacks_overlay = (
            options.has_overlay(header.height, header.width)
            and not options.overlay_path(path).is_file()
        )
        if lacks_overlay or dict(header.facts) != expected:
            continue
        fields: dict[str, Any] = {
            "height": header.height, "width": header.width, "n_cells": header.n_cells,
            "plan": expected["plan"], "weights": expected["weights"],
            "output": label_path(Path(), path).name,
        }  # fmt: skip
        before = content.latest.get(path.name)
        known = before.to_dict() if before else {}
        if all(known.get(name) == value for name, value in fields.items()):
            fields = known
        now = {"file": path.name, "status": "resumed", "started_at": timestamp(), "wall_s": 0.0}
        finished[path] = LedgerEntry.from_dict({**fields, **now, "stages_s": {}})
    return finished
