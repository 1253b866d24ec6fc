"""Post-training quantisation: training images → the ranges that an int8 network needs, by NNCF.

Nothing is trained, and the weights stay as they are. Kernels are rounded per output channel,
symmetrically, and to 7 bits: without VNNI a CPU adds products in 16 bits, which 8 bits could
overflow. Which layers are rounded was found by trials; see ``benchmarks/NOTES.md``.
"""

import logging
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from mediar_infer.arrays import Float32Array
from mediar_infer.config import EngineConfig
from mediar_infer.errors import UsageError
from mediar_infer.network.backends.openvino_graph import read_graph
from mediar_infer.network.checkpoints import Checkpoint, find_graph_of, load_checkpoint
from mediar_infer.network.graphs import unreadable_graph
from mediar_infer.network.int8_ranges import WEIGHTS_INPUT, write_ranges
from mediar_infer.network.weight_files import (
    compute_digest,
    read_weights_manifest,
    write_weights_manifest,
)
from mediar_infer.training.data.samples import Uint8Image, load_sample
from mediar_infer.training.data.table import TrainingImage

logger = logging.getLogger(__name__)

_LARGEST: Final = 127
_LAYER: Final = "Convolution"
"""The kind of layer that is rounded. Matrix products and transposed convolutions were slower for it
on AVX2, and depthwise convolutions no faster."""
_IN_FLOAT: Final = re.compile(
    r"encoder\.patch_embed1\.proj"  # the first layer
    r"|decoder\.center\."  # position attention, whose softmax runs over all pairs of positions
    r"|.+\.SE_[hl]l\."  # one pixel
    r"|(gradflow|cellprob)_head\."  # the last layers: a third of the error of the maps
)
"""Weights of convolutions that stay in float."""
_LARGEST_KERNEL: Final = 7
"""Convolutions with larger kernels stay in float, too: with AMX, OpenVINO 2026.4 computes those of
8 × 8, of which the encoder has some, wrongly in int8."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How ranges are found."""

    windows: int = 96
    """Windows of training images that the ranges are found on, as many of each modality."""
    seed: int = 0
    """Seed of their choice."""

    def __post_init__(self) -> None:
        if self.windows < 1:
            raise UsageError(f"found {self.windows} windows, expected 1 or more")


def choose_windows(
    records: Sequence[TrainingImage], calibration: Calibration, roi_size: int
) -> Iterator[Uint8Image]:
    """Cut windows at random places, the modalities in turn.

    Args:
        records: images; those that are held out, or on which weights are chosen, are left out.
        calibration: how many, and the seed.
        roi_size: side of the windows.

    Yields:
        ``(roi_size, roi_size, 3)`` uint8, normalised as at inference.

    Raises:
        UsageError: if no image may be used.
    """
    groups: dict[str, list[TrainingImage]] = defaultdict(list)
    for record in records:
        if record.split == "train" and record.role != "tuning":
            groups[record.modality].append(record)
    if not groups:
        raise UsageError(
            "found no image of split train in the table, expected at least one that is not of role"
            " tuning"
        )
    rng = np.random.default_rng(calibration.seed)
    orders = [rng.permutation(len(groups[name])) for name in sorted(groups)]
    for i in range(calibration.windows):
        turn, group = divmod(i, len(groups))
        order = orders[group]
        record = groups[sorted(groups)[group]][order[turn % len(order)]]
        yield _cut_window(load_sample(record).image, roi_size, rng)


def _cut_window(image: Uint8Image, roi_size: int, rng: np.random.Generator) -> Uint8Image:
    """A window of the image; one that is smaller lies in the middle of it, as at inference."""
    top, left = (int(rng.integers(max(1, side - roi_size + 1))) for side in image.shape[:2])
    part = image[top : top + roi_size, left : left + roi_size]
    window = np.zeros((roi_size, roi_size, 3), np.uint8)
    height, width = part.shape[:2]
    top, left = (roi_size - height) // 2, (roi_size - width) // 2
    window[top : top + height, left : left + width] = part
    return window


def quantise_weights(
    paths: Sequence[Path],
    records: Sequence[TrainingImage],
    calibration: Calibration | None = None,
) -> list[Path]:
    """Calibrate weight files on the same windows, and write the ranges beside each.

    A file that ``manifest.json`` lists has the digest of its ranges added there.

    Args:
        paths: weight files that the engine loads, with their exported graph.
        records: images to calibrate on.
        calibration: how.

    Returns:
        The files of ranges, in order.

    Raises:
        CheckpointError: if weights are damaged or of another network.
        UsageError: if a graph is missing, or no image may be used.
        OutputError: if a file cannot be written.
    """
    roi_size = EngineConfig().roi_size
    checkpoints = [load_checkpoint(path) for path in paths]
    graphs = [_require_graph(checkpoint, roi_size) for checkpoint in checkpoints]
    windows = list(choose_windows(records, calibration or Calibration(), roi_size))
    written = []
    for checkpoint, graph in zip(checkpoints, graphs, strict=True):
        ranges = write_ranges(checkpoint, find_bounds(checkpoint, graph, windows))
        _list_ranges(checkpoint.path, ranges)
        logger.info("%s: calibrated on %d windows", ranges, len(windows))
        written.append(ranges)
    return written


def _require_graph(checkpoint: Checkpoint, roi_size: int) -> Path:
    graph = find_graph_of(checkpoint, roi_size)
    if graph is None:
        raise UsageError(
            f"{checkpoint.path}: found no exported graph of its network, expected one beside it;"
            f" make it with 'mediar-infer weights graph {checkpoint.path}'"
        )
    return graph


def _list_ranges(weights: Path, ranges: Path) -> None:
    listed = read_weights_manifest(weights.parent)
    if weights.name in listed:
        listed[weights.name] = replace(listed[weights.name], int8_digest=compute_digest(ranges))
        write_weights_manifest(weights.parent, listed)


def find_bounds(
    checkpoint: Checkpoint, graph_path: Path, windows: Sequence[Uint8Image]
) -> dict[str, Float32Array]:
    """Find the ranges of what is rounded, as ``Int8Ranges.bounds`` has them.

    Args:
        checkpoint: the weights.
        graph_path: the exported graph of its network.
        windows: what the network sees; several kinds of images, so that no range is too narrow.
    """
    import nncf
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        AdvancedSmoothQuantParameters,
        OverflowFix,
    )
    from openvino.passes import ConstantFolding, Manager

    graph = read_graph(checkpoint, graph_path)
    chosen = _choose_layers(graph_path)
    others = [
        layer.get_friendly_name()
        for layer in graph.get_ops()
        if layer.get_friendly_name() not in chosen
        and layer.get_type_name() not in ("Constant", "Parameter", "Result")
    ]
    manager = Manager()
    manager.register_pass(ConstantFolding())  # kernels that are computed from weights
    manager.run_passes(graph)
    kept = {layer.get_friendly_name() for layer in graph.get_ops()}
    nncf.set_log_level(logging.ERROR)
    with redirect_stdout(sys.stderr):  # its progress
        quantised = nncf.quantize(
            graph,
            nncf.Dataset([_to_input(window) for window in windows]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(windows),
            ignored_scope=nncf.IgnoredScope(names=[name for name in others if name in kept]),
            advanced_parameters=AdvancedQuantizationParameters(
                overflow_fix=OverflowFix.ENABLE,
                # Both would change weights, which stay one copy for all precisions.
                disable_bias_correction=True,
                smooth_quant_alphas=AdvancedSmoothQuantParameters(convolution=-1, matmul=-1),
            ),
        )
    return _collect_bounds(quantised)


def _to_input(window: Uint8Image) -> Float32Array:
    return (window.transpose(2, 0, 1)[None] / 255).astype(np.float32)


def _choose_layers(graph_path: Path) -> set[str]:
    """Names of the layers to compute in int8: convolutions with weights but ``_IN_FLOAT``."""
    import openvino

    try:
        graph = openvino.Core().read_model(graph_path)
    except RuntimeError as error:
        raise unreadable_graph(graph_path, error) from error
    chosen = set()
    for layer in graph.get_ops():
        if layer.get_type_name() == _LAYER and _kernel_side(layer) <= _LARGEST_KERNEL:
            names = _find_inputs(layer.input_value(WEIGHTS_INPUT).get_node())
            if not any(map(_IN_FLOAT.match, names)):
                chosen.add(layer.get_friendly_name())
    return chosen


def _kernel_side(layer: Any) -> int:  # noqa: ANN401 (OpenVINO has no types)
    sides: list[int] = list(layer.input_value(WEIGHTS_INPUT).get_shape()[2:])
    return max(sides)


def _find_inputs(layer: Any) -> set[str]:  # noqa: ANN401 (OpenVINO has no types)
    """Names of the graph's inputs that a layer is computed from."""
    found, seen, pending = set(), set(), [layer]
    while pending:
        each = pending.pop()
        name = each.get_friendly_name()
        if name in seen:
            continue
        seen.add(name)
        if each.get_type_name() == "Parameter":
            found.add(name)
        pending += [source.get_node() for source in each.input_values()]
    return found


def _collect_bounds(quantised: Any) -> dict[str, Float32Array]:  # noqa: ANN401
    """Read the ranges off a network that NNCF has quantised."""
    bounds = {}
    for layer in quantised.get_ops():
        if layer.get_type_name() == "FakeQuantize":
            limits = np.stack([_read_constant(layer, i) for i in (1, 2)])
            for target in layer.output(0).get_target_inputs():
                name = target.get_node().get_friendly_name()
                bounds[f"{name}:{target.get_index()}"] = limits
        elif layer.get_type_name() == _LAYER:
            weights = layer.input_value(WEIGHTS_INPUT).get_node()
            # Compressed weights: int8 values, converted, times a scale per kernel.
            if weights.get_type_name() == "Multiply":
                largest = _LARGEST * _read_constant(weights, 1)
                name = f"{layer.get_friendly_name()}:{WEIGHTS_INPUT}"
                bounds[name] = np.stack([-largest, largest])
    return bounds


def _read_constant(layer: Any, index: int) -> Float32Array:  # noqa: ANN401
    constant = layer.input_value(index).get_node()
    return np.asarray(constant.get_data(), np.float32)
