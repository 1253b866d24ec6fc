"""Names of exported network graphs, to look for them without importing OpenVINO."""

from pathlib import Path

from mediar_infer.network.architecture import Architecture

WINDOW_INPUT = "window"
"""The only input of an exported graph that is not a weight."""


def graph_name(architecture: Architecture, roi_size: int) -> str:
    """File name of the exported graph of an architecture for one window size."""
    sizes = (architecture.encoder_channels, architecture.depths, architecture.decoder_channels)
    rest = (architecture.pab_channels, *architecture.reductions, architecture.mlp_ratio)
    parts = ["-".join(map(str, numbers)) for numbers in (*sizes, rest)]
    return f"graph_{'_'.join(parts)}_{roi_size}.xml"


def find_graph(architecture: Architecture, roi_size: int, folders: list[Path]) -> Path | None:
    """The first folder's graph for an architecture and window size, if any has one."""
    name = graph_name(architecture, roi_size)
    return next((folder / name for folder in folders if (folder / name).is_file()), None)
