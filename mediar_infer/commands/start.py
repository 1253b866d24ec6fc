"""Load the models of a new process in as little time as possible."""

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mediar_infer.config import EngineConfig
from mediar_infer.process import unfreed

if TYPE_CHECKING:
    from mediar_infer.segmenter import Segmenter

_START_SWITCH_S: Final = 0.0005


@contextmanager
def _starting() -> Iterator[None]:
    """Keep the garbage collector away from what a ``with`` block imports and loads.

    It would scan a million new objects repeatedly, though all of them live as long as the process.
    Threads take turns more often than by default.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_START_SWITCH_S)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        sys.setswitchinterval(interval)


def load_for_process(weights: Sequence[Path], config: EngineConfig) -> "Segmenter":
    """Load the models of a new process; a torch that is needed is imported while they are read.

    Raises:
        CheckpointError: if weights are missing, damaged or those of another network.
        UsageError: if the device is not available.
    """
    with _starting():
        from mediar_infer.network.pending_weights import PendingWeights

        loading = PendingWeights(weights, config)
        loading.wait_for_interpreter()
        # Whatever else the run needs is imported in the meantime.
        from mediar_infer.folder import runner  # noqa: F401
        from mediar_infer.segmenter import Segmenter

        segmenter = Segmenter.from_pending(loading)
    unfreed.keep(segmenter)
    return segmenter
