r"""The network on a GPU against what people would use, and a whole slide through it.

    python benchmarks/bench_network_gpu.py --output benchmarks/results/network_gpu.json

In one process on one device: the engine's backend (float16, several batch sizes) against MONAI's
way, ``segmentation_models_pytorch.MAnet`` in eager mode with windows in batches of four, in float32
(as released) and under float16 autocast; random weights of the full size (mit_b5). Then an
8415×10496 slide with known cells end to end: the network runs for its time, and maps read off the
slide replace its output, so that labels are real work.

A trial without a GPU, in bfloat16, takes a minute:

    python benchmarks/bench_network_gpu.py --device cpu --encoder mit_b0 --decoder 64 32 16 16 16 \
        --pab 16 --batches 2 --windows 2 --matrix 512 --slide 700 600
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import common
import numpy as np
import torch
from bench_slide import write_slide
from released_network import LibraryFormer
from slides import SlideScene, decode_scene
from torch import Tensor

from mediar_infer.config import EngineConfig
from mediar_infer.devices import describe_device
from mediar_infer.engine.bands import count_windows
from mediar_infer.image_trace import Trace
from mediar_infer.images.open import open_image
from mediar_infer.labels.files import write_labels
from mediar_infer.labels.reading import read_labels
from mediar_infer.network.architecture import ENCODERS, Architecture
from mediar_infer.network.backends import Backend
from mediar_infer.network.backends.torch_backend import TorchBackend
from mediar_infer.network.model import MediarFormer
from mediar_infer.process import peak_memory_bytes, return_large_blocks
from mediar_infer.segmenter import Segmenter
from mediar_infer.tolerance import tolerance_s
from mediar_infer.training.networks.initialise import initialise_weights

GIGA_MULTIPLY_ADDS = {"mit_b5": 204.26}
"""Of one window of 512×512."""
HALF = {"cuda": "float16", "cpu": "bfloat16"}
"""Precision by kind of device; CPUs have no fast float16."""


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def windows_per_s(
    run: Callable[[Tensor], object], batch: int, n_windows: int, device: torch.device
) -> float:
    """Windows per second over ``n_windows``, after two calls to warm up."""
    inputs = torch.rand(batch, 3, 512, 512, device=device)
    for _ in range(2):
        run(inputs)
    synchronise(device)
    started, n_calls = time.perf_counter(), max(1, n_windows // batch)
    for _ in range(n_calls):
        run(inputs)
    synchronise(device)
    return n_calls * batch / (time.perf_counter() - started)


def matrix_rate(device: torch.device, size: int) -> float:
    """Multiply-adds per second of a large product in half precision."""
    a = torch.rand(size, size, device=device, dtype=getattr(torch, HALF[device.type]))
    for _ in range(3):
        a @ a
    synchronise(device)
    started, n_runs = time.perf_counter(), 20 if device.type == "cuda" else 1
    for _ in range(n_runs):
        a @ a
    synchronise(device)
    return n_runs * size**3 / (time.perf_counter() - started)


def compare_networks(
    args: argparse.Namespace, sizes: Architecture, model: MediarFormer
) -> dict[str, object]:
    device, half = args.device, HALF[args.device.type]
    peer = LibraryFormer(sizes.name, sizes.decoder_channels, sizes.pab_channels)
    peer.load_state_dict(model.state_dict(), strict=True)
    peer = peer.eval().requires_grad_(False).to(device)

    def in_float32(inputs: Tensor) -> Tensor:
        with torch.inference_mode():
            return peer(inputs)

    def in_half(inputs: Tensor) -> Tensor:
        with torch.inference_mode(), torch.autocast(device.type, getattr(torch, half)):
            return peer(inputs)

    rates = {
        "peer, float32": windows_per_s(in_float32, 4, args.windows, device),
        f"peer, {half} autocast": windows_per_s(in_half, 4, args.windows, device),
    }
    for batch in args.batches:
        backend = TorchBackend(model, device, half, batch)
        rates[f"ours, {half}, batch {batch}"] = windows_per_s(
            lambda inputs, backend=backend: backend.start(inputs)(), batch, args.windows, device
        )
    probe = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(1)).to(device)
    expected = in_float32(probe)
    difference = (TorchBackend(model, device, half).start(probe)() - expected).abs()
    best = max(rate for name, rate in rates.items() if name.startswith("ours"))
    matrices = matrix_rate(device, args.matrix)
    results: dict[str, object] = {
        "windows_per_s": rates,
        "times_faster_than_float32_peer": best / rates["peer, float32"],
        "times_faster_than_half_peer": best / rates[f"peer, {half} autocast"],
        "matrix_multiply_adds_per_s": matrices,
        "max_difference_to_float32": float(difference.max()),
        "mean_difference_to_float32": float(difference.mean()),
        "largest_output": float(expected.abs().max()),
    }
    if sizes.name in GIGA_MULTIPLY_ADDS:
        results["fraction_of_matrix_rate"] = best * GIGA_MULTIPLY_ADDS[sizes.name] * 1e9 / matrices
    return results


class SlideBackend:
    """Runs the network for its time and returns the known maps of the slide."""

    def __init__(self, network: Backend) -> None:
        self._network = network
        self.name, self.precision = network.name, network.precision
        self.device, self.batch = network.device, network.batch

    def start(self, inputs: Tensor) -> Callable[[], Tensor]:
        finish = self._network.start(inputs)

        def maps() -> Tensor:
            return finish() * 0 + decode_scene(inputs)

        return maps


def run_slide(
    args: argparse.Namespace, models: list[MediarFormer], folder: Path
) -> dict[str, object]:
    """Time the paper plan on a slide; peak memory of the GPU and of the process."""
    height, width = args.slide
    scene = SlideScene(height, width)
    write_slide(folder / "slide.tif", scene)
    half = HALF[args.device.type]
    members = [SlideBackend(TorchBackend(model, args.device, half)) for model in models]
    segmenter, trace = Segmenter(members, EngineConfig()), Trace()
    if args.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(args.device)
    started = time.perf_counter()
    with open_image(folder / "slide.tif") as source, segmenter.begin(source, trace) as work:
        write_labels(folder / "labels.tiff", work.labels(), height=height, width=width)
    synchronise(args.device)
    wall_s = time.perf_counter() - started
    gpu = torch.cuda.max_memory_allocated(args.device) if args.device.type == "cuda" else None
    found = read_labels(folder / "labels.tiff")
    return {
        "height": height,
        "width": width,
        "windows": count_windows(height, width, segmenter.config, len(members)),
        "wall_s": wall_s,
        "tolerance_s": tolerance_s(height, width),
        "stages_s": trace.stages_s,
        "peak_bytes": peak_memory_bytes(gpu),
        "true_cells": scene.n_cells,
        "found_cells": int(np.unique(found[found > 0]).size),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--encoder", choices=sorted(ENCODERS), default="mit_b5")
    parser.add_argument("--decoder", type=int, nargs=5, default=(1024, 512, 256, 128, 64))
    parser.add_argument("--pab", type=int, default=256)
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 16, 32])
    parser.add_argument("--windows", type=int, default=256, help="windows per timing")
    parser.add_argument("--matrix", type=int, default=8192, help="side of the product")
    parser.add_argument("--slide", type=int, nargs=2, default=[8415, 10496])
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    return_large_blocks()
    torch.manual_seed(0)
    sizes = Architecture(*ENCODERS[args.encoder], tuple(args.decoder), args.pab)
    models = [MediarFormer(sizes).eval() for _ in range(2)]
    for model in models:
        initialise_weights(model)
    results = compare_networks(args, sizes, models[0])
    print(results, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        results["slide"] = run_slide(args, models, Path(folder))
    print(results["slide"])
    common.write_report(
        args.output,
        common.metadata(device=describe_device(args.device), encoder=args.encoder),
        results,
    )


if __name__ == "__main__":
    main()
