"""What labels were made of, for ledgers and label files: image, plan, weights, versions."""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mediar_infer import __version__
from mediar_infer.devices import describe_device
from mediar_infer.folder.options import RunOptions
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


def describe_plan(segmenter: Segmenter) -> dict[str, Any]:
    """Everything that decides the labels of an image, ready for JSON.

    Under a time budget this is what was asked for; what was done with an image is in the field
    ``budget`` of its record.
    """
    config = segmenter.config
    budget = {} if config.fit_budget is None else {"fit_budget": config.fit_budget}
    return budget | {
        "name": config.plan.name,
        "models": len(segmenter.members),
        "flips": list(config.plan.flips),
        "overlap": config.plan.overlap,
        "roi_size": config.roi_size,
        "precision": segmenter.members[0].precision,
        "backend": segmenter.members[0].name,
        "masks": asdict(config.masks),
    }


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the ledger tells of the models and settings that made labels."""

    plan: Mapping[str, Any]
    """See :func:`describe_plan`."""
    digests: Mapping[str, str]
    """Weight file → SHA-256."""
    device: str
    """Where the network runs."""

    @classmethod
    def of(cls, segmenter: Segmenter) -> "EngineFacts":
        """Facts of models that are loaded in this process."""
        device = describe_device(segmenter.device)
        return cls(describe_plan(segmenter), segmenter.digests, device)


def full_plan(facts: EngineFacts, options: RunOptions) -> dict[str, Any]:
    """Everything that was asked for: :func:`describe_plan`, and how images are read."""
    turned = {"apply_orientation": True} if options.apply_orientation else {}
    return {**facts.plan, "plane": options.plane, **turned}


def label_facts(path: Path, facts: EngineFacts, options: RunOptions) -> dict[str, Any]:
    """What a label file says that it was made of: the same for the same input and settings.

    Raises:
        OSError: if the image is not there.
    """
    return {
        "mediar_infer": __version__,
        "image": path.name,
        "image_bytes": path.stat().st_size,
        "plan": full_plan(facts, options),
        "weights": dict(facts.digests),
    }
