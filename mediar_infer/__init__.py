"""MEDIAR cell segmentation: images in, instance labels out.

from mediar_infer import Segmenter
labels = Segmenter.from_weights().segment(array).labels
"""

from typing import TYPE_CHECKING

from mediar_infer._version import __version__
from mediar_infer.config import EngineConfig, MaskConfig, Plan, RuntimeConfig

if TYPE_CHECKING:
    from mediar_infer.segmenter import Segmentation, Segmenter

__all__ = [
    "EngineConfig",
    "MaskConfig",
    "Plan",
    "RuntimeConfig",
    "Segmentation",
    "Segmenter",
    "__version__",
]


def __getattr__(name: str) -> object:
    # torch takes seconds to import; the names that need it load it when they are asked for.
    if name in ("Segmentation", "Segmenter"):
        from mediar_infer import segmenter

        return getattr(segmenter, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
