"""The ``info`` command: what is here, and how large the models are."""

import argparse
import platform
import sys
from pathlib import Path

from mediar_infer.checkpoints import find_weights, load_checkpoint
from mediar_infer.errors import MediarError
from mediar_infer.model import Architecture

_GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``info`` command."""
    parser.add_argument("--weights", type=Path, nargs="+", default=[], metavar="PATH")


def count_multiply_adds(architecture: Architecture, size: int = 512) -> int:
    """Multiply-adds of one ``size`` x ``size`` window, counted as fvcore does.

    Convolutions and matrix products count their multiply-adds; BatchNorm one operation a value,
    LayerNorm five; everything else nothing.
    """
    import torch
    from torch import nn
    from torch.utils.flop_counter import FlopCounterMode

    from mediar_infer.model import MediarFormer

    n_norm = 0

    def count_norm(module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal n_norm
        n_norm += output.numel() * (5 if isinstance(module, nn.LayerNorm) else 1)

    with torch.device("meta"):
        model = MediarFormer(architecture).eval()
        window = torch.empty(1, 3, size, size)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            module.register_forward_hook(count_norm)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(window)
    return int(counter.get_total_flops()) // 2 + n_norm


def _host_memory() -> str:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return "unknown"
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return f"{sizes['MemAvailable'] / _GIB:.1f} of {sizes['MemTotal'] / _GIB:.1f} GiB free"


def run(args: argparse.Namespace) -> int:
    """Print the report; 0 if weights were found, else 1."""
    import torch

    from mediar_infer.devices import describe_device, select_device
    from mediar_infer.runner import package_versions

    lines = [
        f"platform   {platform.platform()}",
        f"device     {describe_device(select_device('auto'))}",
        f"memory     {_host_memory()}",
        f"versions   {', '.join(f'{name} {v}' for name, v in package_versions().items())}",
        f"CUDA       {torch.version.cuda if torch.cuda.is_available() else 'not available'}",
    ]
    code = 0
    try:
        for path in find_weights(args.weights):
            checkpoint = load_checkpoint(path)
            lines.append(
                f"model      {path} ({checkpoint.architecture.name}):"
                f" {checkpoint.n_parameters / 1e6:.2f} M parameters,"
                f" {count_multiply_adds(checkpoint.architecture) / 1e9:.2f} G multiply-adds per"
                " 512x512 window"
            )
    except MediarError as error:
        lines.append(f"model      {error}")
        code = 1
    sys.stdout.write("\n".join(lines) + "\n")
    return code
