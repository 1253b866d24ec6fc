"""Exported network graphs as files: their names, and the weights they take; needs no OpenVINO."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from mediar_infer.errors import CheckpointError
from mediar_infer.network.architecture import Architecture

WINDOW_INPUT: Final = "window"
"""The only input of an exported graph that is not a weight."""
UNUSED_ENTRY: Final = "num_batches_tracked"
"""A counter of each BatchNorm, which inference does not use and graphs do not take."""

PUBLISHED_GRAPHS: Final = Path(__file__).parent / "published"
"""The graph of the architecture of the published networks; contains no weights."""
_PREFIX: Final = "graph_"

Entries = dict[str, tuple[tuple[int, ...], bool]]
"""Name → shape, and whether the values are floating-point numbers."""


def graph_name(architecture: Architecture, roi_size: int) -> str:
    """File name of the exported graph of an architecture for one window size."""
    sizes = (architecture.encoder_channels, architecture.depths, architecture.decoder_channels)
    rest = (architecture.pab_channels, *architecture.reductions, architecture.mlp_ratio)
    parts = ["-".join(map(str, numbers)) for numbers in (*sizes, rest)]
    return f"{_PREFIX}{'_'.join(parts)}_{roi_size}.xml"


def list_graph_files(folder: Path) -> list[Path]:
    """Files of all exported graphs of a folder, sorted; none where there is no such folder."""
    return sorted(folder.glob(f"{_PREFIX}*"))


def find_graph(architecture: Architecture, roi_size: int, folders: Sequence[Path]) -> Path | None:
    """The first folder's graph for an architecture and window size, if any has one."""
    name = graph_name(architecture, roi_size)
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def describe_graph_entries(path: Path) -> Entries:
    """Entries of the state dict that a graph was exported from.

    Args:
        path: the ``.xml`` file.

    Returns:
        What ``Entries`` says.

    Raises:
        CheckpointError: if the file is damaged.
    """
    entries: Entries = {}
    try:
        for layer in ElementTree.parse(path).iterfind("layers/layer[@type='Parameter']"):
            shape = layer.find("data").attrib["shape"]  # type: ignore[union-attr]
            sides = tuple(int(side) for side in shape.split(",") if side)
            entries[layer.attrib["name"]] = (sides, True)
    except (OSError, ElementTree.ParseError, AttributeError, LookupError, ValueError) as error:
        raise unreadable_graph(path, error) from error
    entries.pop(WINDOW_INPUT, None)
    statistics = [name for name in entries if name.endswith(".running_mean")]
    return entries | {
        f"{name.removesuffix('running_mean')}{UNUSED_ENTRY}": ((), False) for name in statistics
    }


def unreadable_graph(path: Path, error: Exception) -> CheckpointError:
    """The error of a graph that cannot be read."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
    return CheckpointError(
        f"{path}: cannot be read ({reason}); expected an exported graph; re-export it with"
        " 'weights graph', or use --backend torch"
    )
