"""Images that cannot be segmented: earlier results go, and an entry says why."""

import os
from pathlib import Path
from typing import Any

from mediar_infer.devices import peak_gpu_bytes
from mediar_infer.errors import OutputError
from mediar_infer.folder.ledger import LedgerEntry, timestamp
from mediar_infer.folder.options import RunOptions
from mediar_infer.folder.provenance import Provenance, package_versions
from mediar_infer.folder.run_image import RunImage
from mediar_infer.process import peak_memory_bytes


def remove_result(result: Path) -> None:
    """Remove a file of an earlier run, if there is one.

    Raises:
        OutputError: if it cannot be removed.
    """
    try:
        result.unlink()
    except OSError as error:
        # A read-only file system, or a name that is too long, is an error even without a file.
        if not os.path.lexists(result):
            return
        raise OutputError(
            f"{result}: cannot be removed ({error.strerror or error}); expected a writable folder;"
            " allow removing it or choose another output folder"
        ) from error


def fail_image(
    image: RunImage, error: str, provenance: Provenance, options: RunOptions
) -> LedgerEntry:
    """Remove what an earlier run left of an image that cannot be segmented, and say why.

    Args:
        image: the image.
        error: why there are no labels.
        provenance: models and settings of this run.
        options: where results go.

    Returns:
        The entry of a failed image; its error also says if earlier results are still there.
    """
    try:
        for result in (options.label_path(image), options.overlay_path(image)):
            remove_result(result)
    except OutputError as failure:
        error += f"; results of an earlier run are still there ({failure})"
    return LedgerEntry(
        file=image.name, status="failed", started_at=timestamp(), error=image.explain(error),
        **describe_run(provenance),
    )  # fmt: skip


def describe_run(provenance: Provenance) -> dict[str, Any]:
    """Fields of an entry that are the same for all images of a run, and the memory so far."""
    return {
        "plan": provenance.plan,
        "weights": provenance.digests,
        "versions": package_versions(),
        "device": provenance.device,
        "peak_memory_bytes": peak_memory_bytes(peak_gpu_bytes()),
    }
