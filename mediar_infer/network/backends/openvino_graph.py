"""An exported graph and the weights of a checkpoint, compiled for this CPU; needs no torch."""

from pathlib import Path
from typing import Any

import numpy as np

from mediar_infer.errors import CheckpointError, UsageError
from mediar_infer.network.checkpoints import Checkpoint
from mediar_infer.network.graphs import WINDOW_INPUT, unreadable_graph
from mediar_infer.network.int8_ranges import QUANTISE_COMMAND, WEIGHTS_INPUT, Int8Ranges

_MAX_STREAMS = 4
_LEVELS = 256
_WEIGHT_LEVELS = 255
"""Symmetric around 0: -127 to 127."""


def _bind_weights(graph: Any, checkpoint: Checkpoint, path: Path) -> None:  # noqa: ANN401
    """Replace the inputs by the weights; OpenVINO convolves with constants only."""
    from openvino import opset13

    for parameter in list(graph.get_parameters()):
        name = parameter.get_friendly_name()
        if name == WINDOW_INPUT:
            continue
        if name not in checkpoint.entries:
            raise CheckpointError(
                f"{path}: found input {name!r}, which {checkpoint.path} does not have; expected the"
                " graph of its architecture; re-export it with 'weights graph'"
            )
        values = checkpoint.entries[name].astype(np.float32)
        constant = opset13.constant(values, dtype=np.float32)
        for consumer in parameter.output(0).get_target_inputs():
            consumer.replace_source_output(constant.output(0))
        graph.remove_parameter(parameter)


def read_graph(checkpoint: Checkpoint, graph_path: Path) -> Any:  # noqa: ANN401
    """Build the network of a checkpoint, ready to be compiled.

    Args:
        checkpoint: the weights.
        graph_path: exported graph of the checkpoint's architecture.

    Returns:
        An ``openvino.Model``.

    Raises:
        CheckpointError: if the graph is damaged, or graph and weights do not fit together.
    """
    import openvino

    try:
        graph = openvino.Core().read_model(graph_path)
    except RuntimeError as error:
        raise unreadable_graph(graph_path, error) from error
    _bind_weights(graph, checkpoint, graph_path)
    return graph


def round_to_int8(graph: Any, ranges: Int8Ranges) -> None:  # noqa: ANN401
    """Mark what is rounded to int8; OpenVINO then computes these layers in int8.

    Args:
        graph: from ``read_graph``; modified.
        ranges: of the same weights.

    Raises:
        CheckpointError: if the graph lacks a layer that the ranges are for.
    """
    from openvino import opset13

    layers = {layer.get_friendly_name(): layer for layer in graph.get_ops()}
    for place, bounds in ranges.bounds.items():
        name, _, number = place.rpartition(":")
        if name not in layers or not number.isdecimal():
            raise _other_graph(ranges, place)
        if int(number) >= layers[name].get_input_size():
            raise _other_graph(ranges, place)
        target = layers[name].input(int(number))
        low, high = (opset13.constant(values, dtype=np.float32) for values in bounds)
        levels = _WEIGHT_LEVELS if int(number) == WEIGHTS_INPUT else _LEVELS
        source = target.get_source_output()
        try:
            rounded = opset13.fake_quantize(source, low, high, low, high, levels)
        except RuntimeError as error:  # shapes that do not fit
            raise _other_graph(ranges, place) from error
        target.replace_source_output(rounded.output(0))


def _other_graph(ranges: Int8Ranges, place: str) -> CheckpointError:
    return CheckpointError(
        f"{ranges.path}: found a range for {place!r}, which the graph does not have; expected the"
        f" ranges of this graph; make them again with '{QUANTISE_COMMAND}'"
    )


def has_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _choose_hint(precision: str) -> str:
    """OpenVINO's name for what is not in int8; its default on recent CPUs is bfloat16."""
    if precision == "float32":
        return "f32"
    if has_bfloat16():
        return "bf16"
    if precision == "bfloat16":
        raise UsageError(
            "found a CPU without bfloat16 instructions, expected one with them for --precision"
            " bfloat16, which is slower than float32 otherwise; use --precision float32"
        )
    return "f32"


def compile_graph(graph: Any, threads: int, precision: str = "float32") -> Any:  # noqa: ANN401
    """Compile a network for this CPU; the interpreter lock is released meanwhile.

    Args:
        graph: from ``read_graph``.
        threads: CPU threads to use; one window is predicted per stream, side by side.
        precision: ``float32``, ``bfloat16`` or ``int8``. A graph in int8 says which layers are; the
            others are bfloat16 where the CPU has instructions for it, float32 elsewhere.

    Returns:
        An ``openvino.CompiledModel``.

    Raises:
        UsageError: if the CPU has no instructions for that precision.
    """
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": _choose_hint(precision),
        "NUM_STREAMS": min(threads, _MAX_STREAMS),
        "INFERENCE_NUM_THREADS": threads,
        # Otherwise every process pins its threads to the same first cores.
        "ENABLE_CPU_PINNING": False,
    }
    return openvino.Core().compile_model(graph, "CPU", settings)
