"""Networks that stay loaded while a host program asks for one image after the other."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from mediar_infer.config import EngineConfig, Plan
from mediar_infer.network.checkpoints import graph_folders
from mediar_infer.network.graphs import list_graph_files
from mediar_infer.network.int8_ranges import ranges_path
from mediar_infer.network.weight_files import MANIFEST_NAME, find_weights
from mediar_infer.segmenter import Segmenter

_FileState = tuple[Path, int, int]
"""Path, time of the last change in nanoseconds, and bytes of a file."""


def load_segmenter(weights: Sequence[Path], config: EngineConfig) -> Segmenter:
    """Give a segmenter; networks are loaded again only if a file or the device is another.

    The files are those of weights, int8 ranges and graphs, and the manifest.

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
    # Links are not followed: manifest, ranges and graphs lie beside them, as for predict.
    absolute = tuple(path.absolute() for path in paths)
    states = tuple(dict.fromkeys(state for path in absolute for state in _list_states(path)))
    loaded = _load(absolute, states, loading)
    return Segmenter(
        loaded.members, config, loaded.digests, loaded.cell_diameter, loaded.flow_threshold
    )


def _list_states(weights: Path) -> Iterator[_FileState]:
    """States of the files that may take part when a weight file is loaded, as far as they exist."""
    graphs = [path for folder in graph_folders(weights) for path in list_graph_files(folder)]
    for path in (weights, ranges_path(weights), weights.parent / MANIFEST_NAME, *graphs):
        if path.is_file():
            stat = path.stat()
            yield path, stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=1)
def _load(
    weights: tuple[Path, ...], _states: tuple[_FileState, ...], config: EngineConfig
) -> Segmenter:
    """Load weight files; their states make a new file of an old name another."""
    return Segmenter.from_weights(weights, config)
