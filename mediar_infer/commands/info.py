"""The ``info`` command: machine, versions and models."""

import argparse
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mediar_infer.commands.arguments import add_examples
from mediar_infer.commands.options import add_weights_argument
from mediar_infer.commands.printing import print_result
from mediar_infer.config import EngineConfig
from mediar_infer.devices import describe_device, has_torch, select_device
from mediar_infer.errors import MediarError
from mediar_infer.network.architecture import Architecture
from mediar_infer.network.checkpoints import Checkpoint, load_checkpoint
from mediar_infer.network.weight_files import find_weights

_GIB = 2**30
_WINDOW = EngineConfig().roi_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``info`` command."""
    add_weights_argument(parser)
    add_examples(parser, ("show machine, versions and models", "mediar-infer info"))


def count_multiply_adds(architecture: Architecture) -> int:
    """Multiply-adds of one window, counted as fvcore does in training mode.

    Convolutions and matrix products count their multiply-adds, normalisation five operations per
    value, upsampling and pooling one per value, everything else none.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from mediar_infer.network.model import MediarFormer

    # The counter counts a multiply-add as two operations, so everything else counts twice too.
    def count_norm(values: torch.Size, *_: object, **__: object) -> int:
        return 2 * 5 * values.numel()

    def count_pooling(values: torch.Size, *_: object, **__: object) -> int:
        return 2 * values.numel()

    def count_upsampling(*_: object, out_shape: torch.Size, **__: object) -> int:
        return 2 * out_shape.numel()

    aten = torch.ops.aten
    formulas: dict[Any, Callable[..., int]] = {
        aten.native_layer_norm: count_norm,
        aten.native_batch_norm: count_norm,
        aten.mean: count_pooling,
        aten.upsample_nearest2d: count_upsampling,
        # Without these overloads the counter would split them into parts that it does not know.
        aten.native_batch_norm.default: count_norm,
        aten.upsample_nearest2d.default: count_upsampling,
    }
    with torch.device("meta"):
        model = MediarFormer(architecture).eval()
        window = torch.empty(1, 3, _WINDOW, _WINDOW)
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter, torch.no_grad():
        model(window)
    return int(counter.get_total_flops()) // 2


def _host_memory() -> str:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return "unknown"
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return f"{sizes['MemAvailable'] / _GIB:.1f} of {sizes['MemTotal'] / _GIB:.1f} GiB free"


def _describe_cuda() -> str:
    if not has_torch():
        return "not available: torch is not installed"
    import torch

    return str(torch.version.cuda) if torch.cuda.is_available() else "not available"


def _describe_work(checkpoint: Checkpoint) -> str:
    if not has_torch():
        return ""
    n_multiply_adds = count_multiply_adds(checkpoint.architecture)
    return f", {n_multiply_adds / 1e9:.2f} G multiply-adds per {_WINDOW}×{_WINDOW} window"


def run(args: argparse.Namespace) -> int:
    """Print the report; 0 if weights were found, else 1."""
    from mediar_infer.folder.provenance import package_versions

    lines = [
        f"platform   {platform.platform()}",
        f"device     {describe_device(select_device('auto'))}",
        f"memory     {_host_memory()}",
        f"versions   {', '.join(f'{name} {v}' for name, v in package_versions().items())}",
        f"CUDA       {_describe_cuda()}",
    ]
    code = 0
    try:
        for path in find_weights(args.weights):
            checkpoint = load_checkpoint(path)
            lines.append(
                f"model      {path} ({checkpoint.architecture.name}):"
                f" {checkpoint.n_parameters / 1e6:.2f} M parameters{_describe_work(checkpoint)}"
            )
    except MediarError as error:
        lines.append(f"model      {error}")
        code = 1
    print_result("\n".join(lines))
    return code
