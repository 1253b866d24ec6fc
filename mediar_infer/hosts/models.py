"""Networks that stay loaded while a host program asks for one image after the other."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from mediar_infer.config import EngineConfig, Plan
from mediar_infer.network.weight_files import find_weights
from mediar_infer.segmenter import Segmenter


def load_segmenter(weights: Sequence[Path], config: EngineConfig) -> Segmenter:
    """Give a segmenter; networks are loaded again only if a weight file or the device is another.

    Args:
        weights: a folder, or one or two files; empty for the pair that comes with the package.
        config: settings, of which plan and masks may change from call to call.

    Raises:
        CheckpointError: if weights are missing, damaged or of another network.
        UsageError: if the device does not exist.
    """
    paths = find_weights(weights)[: config.plan.max_members]
    loading = EngineConfig(
        plan=Plan(max_members=config.plan.max_members),
        runtime=config.runtime,
        roi_size=config.roi_size,
    )
    files = tuple((path.resolve(), path.stat().st_mtime_ns) for path in paths)
    loaded = _load(files, loading)
    return Segmenter(loaded.members, config, loaded.digests, loaded.cell_diameter)


@lru_cache(maxsize=1)
def _load(files: tuple[tuple[Path, int], ...], config: EngineConfig) -> Segmenter:
    """Load weight files; the time of their last change makes a new file of an old name another."""
    return Segmenter.from_weights([path for path, _ in files], config)
