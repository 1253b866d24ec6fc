"""The ``weights`` command: list, verify and convert weight files."""

import argparse
from pathlib import Path

from mediar_infer.commands.arguments import add_examples
from mediar_infer.commands.printing import print_result, print_summary
from mediar_infer.config import EngineConfig
from mediar_infer.devices import require_torch
from mediar_infer.network.architecture import Architecture
from mediar_infer.network.checkpoints import (
    Checkpoint,
    find_graph_of,
    load_checkpoint,
    save_weights,
)
from mediar_infer.network.graphs import PUBLISHED_GRAPHS, find_graph
from mediar_infer.network.int8_ranges import ranges_path, read_ranges
from mediar_infer.network.weight_files import (
    MANIFEST_NAME,
    ListedWeights,
    check_targets,
    compute_digest,
    find_weights,
    read_weights_manifest,
    write_weights_manifest,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``weights`` command."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("list", help="show the models that would be used")
    verify = actions.add_parser("verify", help="check files against shapes and checksums")
    for reading in (show, verify):
        reading.add_argument(
            "paths", type=Path, nargs="*", metavar="PATH",
            help="folder of weights, or one or two weight files (default: the shipped pair)",
        )  # fmt: skip
    graph = actions.add_parser("graph", help="export the network's graph for fast CPU inference")
    convert = actions.add_parser(
        "convert",
        help=f"write .pth files as float16 safetensors with {MANIFEST_NAME}, and the graph if the"
        " package does not have it",
    )
    for writing in (graph, convert):
        writing.add_argument(
            "paths", type=Path, nargs="+", metavar="PATH",
            help="folder of weights, or one or two weight files",
        )  # fmt: skip
    convert.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="folder to write to"
    )
    add_examples(
        parser,
        ("check the shipped pair", "mediar-infer weights verify"),
        ("convert the published checkpoints", "mediar-infer weights convert a.pth b.pth -o mine"),
    )


def _describe(checkpoint: Checkpoint) -> str:
    architecture = checkpoint.architecture
    return (
        f"{checkpoint.path}  {architecture.name}, decoder {architecture.decoder_channels},"
        f" {checkpoint.n_parameters / 1e6:.2f} M parameters,"
        f" {checkpoint.path.stat().st_size / 2**20:.1f} MiB, SHA-256 {checkpoint.digest}"
    )


def run(args: argparse.Namespace) -> int:
    """Carry out the action; 0 if all files are valid.

    Raises:
        CheckpointError: if a file is not.
        UsageError: if torch is needed and not installed.
    """
    if args.action in ("convert", "graph"):
        require_torch(f"weights {args.action}")
    paths = find_weights(args.paths)
    if args.action == "convert":
        _convert(paths, args.output)
    elif args.action == "graph":
        _export_graphs({(path.parent, load_checkpoint(path).architecture) for path in paths})
    else:
        for path in paths:
            _show(load_checkpoint(path), verifies=args.action == "verify")
    return 0


def _show(checkpoint: Checkpoint, *, verifies: bool) -> None:
    """Print what a weight file holds; its shapes and checksum were checked as it was loaded."""
    path = checkpoint.path
    print_result(_describe(checkpoint))
    stated = []
    if checkpoint.cell_diameter is not None:
        stated.append(f"cells of {checkpoint.cell_diameter:g} px")
    if checkpoint.flow_threshold is not None:
        stated.append(f"flow threshold {checkpoint.flow_threshold:g}")
    if stated:
        print_result(f"  manifest: {', '.join(stated)}")
    has_ranges = ranges_path(path).is_file()
    if has_ranges:
        _show_ranges(checkpoint, verifies=verifies)
    if verifies:
        is_listed = path.name in read_weights_manifest(path.parent)
        checksum = "checksum of the manifest" if is_listed else "no manifest lists it"
        ranges = ", ranges for int8 fit" if has_ranges else ""
        print_result(f"  ok: all entries present and finite{ranges}, {checksum}")


def _show_ranges(checkpoint: Checkpoint, *, verifies: bool) -> None:
    ranges = read_ranges(checkpoint)
    graph_path = find_graph_of(checkpoint)
    if verifies and graph_path is not None:
        from mediar_infer.network.backends.openvino_graph import read_graph, round_to_int8

        round_to_int8(read_graph(checkpoint, graph_path), ranges)
    print_result(
        f"  int8: {ranges.path.name}, {ranges.n_layers} layers,"
        f" {ranges.path.stat().st_size / 2**10:.0f} KiB, SHA-256 {ranges.digest}"
    )


def _export_graphs(graphs: set[tuple[Path, Architecture]]) -> None:
    """Export the graphs of architectures, each into its folder."""
    from mediar_infer.network.backends.openvino_export import export_graph

    for folder, architecture in sorted(graphs, key=str):
        print_summary(str(export_graph(architecture, EngineConfig().roi_size, folder)))


def _convert(weights: list[Path], output: Path) -> None:
    sources = {output / f"{path.stem}.safetensors": path for path in weights}
    listed = read_weights_manifest(output)
    check_targets(weights, list(sources), listed)
    checkpoints = {target: load_checkpoint(path) for target, path in sources.items()}
    converted: dict[str, ListedWeights] = {}
    for target, checkpoint in checkpoints.items():
        save_weights(checkpoint.state_dict, target)
        digest = compute_digest(target)
        converted[target.name] = ListedWeights(
            digest, checkpoint.cell_diameter, flow_threshold=checkpoint.flow_threshold
        )
        print_summary(f"{target}  SHA-256 {digest}")
    write_weights_manifest(output, listed | converted)
    architectures = {checkpoint.architecture for checkpoint in checkpoints.values()}
    roi_size = EngineConfig().roi_size
    _export_graphs(
        {(output, a) for a in architectures if not find_graph(a, roi_size, [PUBLISHED_GRAPHS])}
    )
