"""Images that cannot be segmented: earlier results go, and an entry says why."""

from typing import Any

from mediar_infer.devices import peak_gpu_bytes
from mediar_infer.errors import OutputError
from mediar_infer.exports.earlier import remove_exports
from mediar_infer.folder.ledger import LedgerEntry, timestamp
from mediar_infer.folder.options import RunOptions
from mediar_infer.folder.provenance import Provenance, package_versions
from mediar_infer.folder.run_image import RunImage
from mediar_infer.output_files import remove_result
from mediar_infer.process import peak_memory_bytes


def remove_results(image: RunImage, options: RunOptions) -> None:
    """Remove what shows earlier labels of an image: its overlay and its exports.

    Args:
        image: the image.
        options: where results go.

    Raises:
        OutputError: if something cannot be removed.
    """
    remove_result(options.overlay_path(image))
    remove_exports(options.output_dir, image.export_name)


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
        remove_result(options.label_path(image))
        remove_results(image, options)
    except OutputError as failure:
        error += f"; results of an earlier run are still there ({failure})"
    return failed_entry(image, error, provenance)


def failed_entry(image: RunImage, error: str, provenance: Provenance) -> LedgerEntry:
    """The entry of a failed image.

    Args:
        image: the image.
        error: why something is missing.
        provenance: models and settings of this run.
    """
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
