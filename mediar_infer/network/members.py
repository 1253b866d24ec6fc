"""Weights → models that are ready to run on a device."""

from collections.abc import Sequence
from typing import Any

from mediar_infer.config import EngineConfig
from mediar_infer.devices import Device, select_precision, usable_cores
from mediar_infer.errors import UsageError
from mediar_infer.network.backends import Backend
from mediar_infer.network.checkpoints import Checkpoint, build_model
from mediar_infer.network.graphs import graph_name
from mediar_infer.network.pending_weights import PendingWeights


def build_members(
    loading: PendingWeights,
    checkpoints: Sequence[Checkpoint],
    config: EngineConfig,
    device: Device,
) -> list[Backend]:
    """Build the models of an ensemble.

    Args:
        loading: the weights, whose exported graphs are compiled where they can be used.
        checkpoints: the weights, read and checked.
        config: backend, precision and batch.
        device: where the models run.

    Returns:
        One backend per checkpoint, in order.

    Raises:
        UsageError: if the requested backend or precision does not fit the device.
    """
    runtime = config.runtime
    precision = select_precision(runtime.precision, device)
    fits_openvino = device.type == "cpu" and precision != "float16"
    if runtime.backend != "torch" and fits_openvino:
        graphs = loading.compiled()
    else:
        graphs = [None] * len(checkpoints)
    return [
        _build_backend(checkpoint, graph, config, device, precision)
        for checkpoint, graph in zip(checkpoints, graphs, strict=True)
    ]


def _build_backend(
    checkpoint: Checkpoint,
    graph: Any,  # noqa: ANN401 (OpenVINO has no types)
    config: EngineConfig,
    device: Device,
    precision: str,
) -> Backend:
    batch = config.runtime.batch
    if graph is not None:
        from mediar_infer.network.backends.openvino_backend import OpenVinoBackend

        return OpenVinoBackend(graph, batch, precision)
    if config.runtime.backend == "openvino" or precision == "int8":
        asked = "--precision int8" if precision == "int8" else "--backend openvino"
        raise UsageError(
            f"{checkpoint.path}: {asked} needs a CPU, no --precision float16, and the file"
            f" {graph_name(checkpoint.architecture, config.roi_size)} next to the weights or in the"
            " package; make it with 'weights graph'"
        )
    import torch

    from mediar_infer.network.backends.torch_backend import TorchBackend

    if device.type == "cpu":
        torch.set_num_threads(config.runtime.threads or usable_cores())
    return TorchBackend(build_model(checkpoint), device, precision, batch)
