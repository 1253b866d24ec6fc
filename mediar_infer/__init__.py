"""MEDIAR cell segmentation: images in, instance labels out.

The names listed here are the public Python API; modules below this one may change without notice.

Example::

    from mediar_infer import Segmenter

    labels = Segmenter.from_weights().segment(array).labels
"""

import importlib
from typing import TYPE_CHECKING, Final

from mediar_infer._version import __version__
from mediar_infer.config import PLANS, CellSize, EngineConfig, MaskConfig, Plan, RuntimeConfig
from mediar_infer.errors import (
    CheckpointError,
    ClusterError,
    DataError,
    ExportError,
    ImageReadError,
    MediarError,
    OutputError,
    PredictionError,
    ShapeError,
    SocketError,
    TrainingError,
    UsageError,
)

if TYPE_CHECKING:
    from mediar_infer.hosts.patches import PatchSegmenter
    from mediar_infer.hosts.slide_model import SlideModel
    from mediar_infer.image_trace import Trace
    from mediar_infer.images.limits import ReadOptions
    from mediar_infer.images.open import open_image
    from mediar_infer.images.sources import ImageSource
    from mediar_infer.labels.confidence import CellConfidence
    from mediar_infer.labels.files import write_labels
    from mediar_infer.labels.metrics import Scores, evaluate_labels
    from mediar_infer.labels.reading import read_labels
    from mediar_infer.labels.scoring import Evaluation, evaluate_folders
    from mediar_infer.segmenter import Segmentation, Segmenter

__all__ = [
    "PLANS",
    "CellConfidence",
    "CellSize",
    "CheckpointError",
    "ClusterError",
    "DataError",
    "EngineConfig",
    "Evaluation",
    "ExportError",
    "ImageReadError",
    "ImageSource",
    "MaskConfig",
    "MediarError",
    "OutputError",
    "PatchSegmenter",
    "Plan",
    "PredictionError",
    "ReadOptions",
    "RuntimeConfig",
    "Scores",
    "Segmentation",
    "Segmenter",
    "ShapeError",
    "SlideModel",
    "SocketError",
    "Trace",
    "TrainingError",
    "UsageError",
    "__version__",
    "evaluate_folders",
    "evaluate_labels",
    "open_image",
    "read_labels",
    "write_labels",
]

_HOMES: Final = {
    "CellConfidence": "labels.confidence",
    "Evaluation": "labels.scoring",
    "ImageSource": "images.sources",
    "PatchSegmenter": "hosts.patches",
    "ReadOptions": "images.limits",
    "Scores": "labels.metrics",
    "Segmentation": "segmenter",
    "Segmenter": "segmenter",
    "SlideModel": "hosts.slide_model",
    "Trace": "image_trace",
    "evaluate_folders": "labels.scoring",
    "evaluate_labels": "labels.metrics",
    "open_image": "images.open",
    "read_labels": "labels.reading",
    "write_labels": "labels.files",
}
"""Public name → module that is imported when the name is first used: numpy and torch take time."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(globals().keys() | _HOMES.keys())
