"""What labels were made of, for ledgers and label files: image, plan, weights, versions."""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from mediar_infer import __version__
from mediar_infer.devices import describe_device
from mediar_infer.folder.options import RunOptions
from mediar_infer.folder.run_image import RunImage
from mediar_infer.images.fingerprint import FileState, compute_fingerprint, read_state

if TYPE_CHECKING:
    from mediar_infer.segmenter import Segmenter

_PACKAGES = ("torch", "numpy", "tifffile", "opencv-python-headless", "openvino")


@cache
def package_versions() -> dict[str, str]:
    """Versions of this package, Python and what the numbers depend on."""
    versions = {"mediar_infer": __version__, "python": sys.version.split()[0]}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _describe_plan(segmenter: "Segmenter", options: RunOptions) -> dict[str, Any]:
    config, reading = segmenter.config, options.reading
    return {
        **({} if config.fit_budget is None else {"fit_budget": config.fit_budget}),
        **({"budget_outside_s": config.outside_s} if config.outside_s else {}),
        "name": config.plan.name,
        "models": len(segmenter.members),
        "flips": list(config.plan.flips),
        "overlap": config.plan.overlap,
        **({"packed": True} if config.plan.packed else {}),
        "roi_size": config.roi_size,
        "precision": segmenter.members[0].precision,
        "backend": segmenter.members[0].name,
        "masks": asdict(config.masks),
        "plane": reading.plane,
        **({"project": reading.project} if reading.project else {}),
        **({} if reading.scene is None else {"scene": reading.scene}),
        **_describe_scale(segmenter),
        **({"apply_orientation": True} if reading.apply_orientation else {}),
        **({"channels": list(reading.channels)} if reading.channels else {}),
        **({"pixel_size_um": list(reading.pixel_size_um)} if reading.pixel_size_um else {}),
    }


def _describe_scale(segmenter: "Segmenter") -> dict[str, Any]:
    """Fields of the plan that say how large the networks see images; none if as they are."""
    config = segmenter.config
    if not config.is_rescaled:
        return {}
    diameter = {"cell_diameter": segmenter.cell_diameter}
    if config.cell_size is not None:
        return {"cell_size": str(config.cell_size), **diameter}
    return {"scale": config.scale, **(diameter if config.scale == "auto" else {})}


@dataclass(frozen=True, slots=True)
class Provenance:
    """Models and settings that labels were made with, as ledger and label files name them."""

    plan: Mapping[str, Any]
    """Everything that decides the labels of an image, ready for JSON.

    Under a time budget this is what was requested; what was done with an image is in the field
    ``budget`` of its ledger entry.
    """
    digests: Mapping[str, str]
    """Weight file → SHA-256."""
    device: str | None
    """Where the network runs; None if it does not."""

    @classmethod
    def of(cls, segmenter: "Segmenter", options: RunOptions) -> "Provenance":
        """Describe models that are loaded in this process.

        Args:
            segmenter: models and settings.
            options: how images are read.
        """
        device = describe_device(segmenter.device)
        return cls(_describe_plan(segmenter, options), segmenter.digests, device)


def describe_settings(image: RunImage, provenance: Provenance) -> dict[str, Any]:
    """Describe what a label file is made with, all but the content of the image.

    Args:
        image: the image.
        provenance: models and settings.
    """
    return {
        "mediar_infer": __version__,
        "image": image.path.name,
        **({} if image.scene is None else {"scene": image.scene}),
        "plan": dict(provenance.plan),
        "weights": dict(provenance.digests),
    }


def describe_labels(
    image: RunImage, provenance: Provenance, state: FileState | None = None
) -> dict[str, Any]:
    """Describe what a label file is made of: the same for the same input and settings.

    Args:
        image: the image.
        provenance: models and settings.
        state: the image as it lay on the disk when it was opened; None: as it does now.

    Raises:
        OSError: if the image does not exist or cannot be read.
    """
    state = state or read_state(image.path)
    return {
        **describe_settings(image, provenance),
        "image_bytes": state.n_bytes,
        "image_fingerprint": compute_fingerprint(state),
    }
