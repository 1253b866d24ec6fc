"""Windows per second on a GPU: the engine, its network alone, and what people would use.

The peer is ``segmentation_models_pytorch.MAnet`` in eager mode behind MONAI's sliding window,
windows in batches of four, in float32 as released and under autocast; same weights, same image.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from fakes import normalise_image
from gpu_settings import GIGA_MULTIPLY_ADDS, PUBLISHED, SHIPPED, Row, Settings
from released_network import LibraryFormer, monai_maps
from torch import Tensor

from mediar_infer.config import EngineConfig, Plan
from mediar_infer.demo.scenes import make_scene
from mediar_infer.engine.bands import count_windows, predict_bands
from mediar_infer.engine.preprocess import Scaling
from mediar_infer.image_trace import Trace
from mediar_infer.images.sources import ArraySource
from mediar_infer.network.backends.torch_backend import TorchBackend
from mediar_infer.network.model import MediarFormer

BYTES = Scaling(low=0, high=255, lut=np.arange(256, dtype=np.uint8))
ONE_PASS = Plan(max_members=1, flips=("identity",))
BATCHES = (4, 16, 32)
_PROBES = 8
"""Calls per measurement of the network alone."""


def matrix_rate(settings: Settings) -> float:
    """Multiply-adds per second of a large product in half precision: what the card reaches."""
    size, n_runs = (256, 1) if settings.quick else (8192, 20)
    a = torch.rand(size, size, device=settings.device.to_torch()).to(getattr(torch, settings.half))
    run: Callable[[], object] = lambda: [a @ a for _ in range(n_runs)]  # noqa: E731
    run()
    return n_runs * size**3 / settings.best_of(3, run)[0]


def engine_rate(
    settings: Settings, model: MediarFormer, precision: str, image: np.ndarray
) -> float:
    """Windows per second of a whole image: crops, copies, network, weights and sums."""
    config = EngineConfig(plan=ONE_PASS, roi_size=settings.roi)
    members = settings.members([model], precision)

    def run() -> None:
        for _ in predict_bands(ArraySource(image), BYTES, members, config, Trace()):
            pass

    run()
    return count_windows(*image.shape[:2], config, 1) / settings.best_of(3, run)[0]


def network_rate(settings: Settings, backend: TorchBackend, batch: int) -> float:
    """Windows per second of windows that are on the device already."""
    side = settings.roi
    inputs = torch.rand(batch, 3, side, side, device=settings.device.to_torch())
    run: Callable[[], object] = lambda: [backend.start(inputs)() for _ in range(_PROBES)]  # noqa: E731
    run()
    return _PROBES * batch / settings.best_of(2, run)[0]


def graph_rate(settings: Settings, backend: TorchBackend, batch: int) -> float | str:
    """The same with all kernels of a batch started at once: what a CUDA graph would gain."""
    if not settings.on_cuda:
        return "needs CUDA"
    side = settings.roi
    inputs = torch.rand(batch, 3, side, side, device=settings.device.to_torch())
    try:
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            for _ in range(3):
                backend.start(inputs)()
        torch.cuda.current_stream().wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            backend.start(inputs)()
        seconds, _ = settings.best_of(3, lambda: [graph.replay() for _ in range(_PROBES)])
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    return _PROBES * batch / seconds


def peer_rates(
    settings: Settings, size: str, model: MediarFormer, image: np.ndarray
) -> dict[str, float]:
    sizes, device = settings.architecture(size), settings.device.to_torch()
    peer = LibraryFormer(sizes.name, sizes.decoder_channels, sizes.pab_channels)
    peer.load_state_dict(model.state_dict(), strict=True)
    peer = peer.eval().requires_grad_(False).to(device)
    inputs = torch.from_numpy(image).permute(2, 0, 1)[None].float().to(device) / 255
    config = EngineConfig(plan=ONE_PASS, roi_size=settings.roi)
    n_windows = count_windows(*image.shape[:2], config, 1)

    def run(*, is_half: bool) -> Tensor:
        autocast = torch.autocast(device.type, getattr(torch, settings.half), enabled=is_half)
        with torch.inference_mode(), autocast:
            return monai_maps(inputs, peer, settings.roi, ONE_PASS.overlap)

    rates = {}
    for name, is_half in (("float32", False), (f"{settings.half} autocast", True)):
        run(is_half=is_half)
        rates[name] = (
            n_windows / settings.best_of(2, lambda is_half=is_half: run(is_half=is_half))[0]
        )
    return rates


def compare(settings: Settings, size: str, matrices: float) -> tuple[dict[str, Any], list[Row]]:
    model = settings.networks(size)[0]
    scene, _ = make_scene("fluorescence", settings.side, settings.side, seed=0)
    image = normalise_image(scene)
    settings.reset_peak()
    engine = {
        name: engine_rate(settings, model, name, image) for name in ("float32", settings.half)
    }
    peak = settings.peak_bytes()
    (backend,) = settings.members([model], settings.half)
    batches = BATCHES[:1] if settings.quick else BATCHES
    alone = {str(batch): network_rate(settings, backend, batch) for batch in batches}
    peers = peer_rates(settings, size, model, image)
    peer_half = peers[f"{settings.half} autocast"]
    share = max(alone.values()) * GIGA_MULTIPLY_ADDS[size] * 1e9 / matrices
    figures = {
        "engine_windows_per_s": engine,
        "network_alone_windows_per_s": alone,
        "network_as_cuda_graph_windows_per_s": graph_rate(settings, backend, batches[-1]),
        "peer_windows_per_s": peers,
        "share_of_matrix_rate": None if settings.quick else share,
        "engine_share_of_network_alone": engine[settings.half] / max(alone.values()),
        "peak_bytes_of_device": peak,
    }
    rows = [
        Row(f"{size}, engine, {settings.half}", f"{engine[settings.half]:.1f} windows/s",
            f"{engine[settings.half] / peer_half:.1f} × the peer under autocast,"
            f" {engine[settings.half] / peers['float32']:.1f} × it in float32",
            engine[settings.half] > peer_half),
        Row(f"{size}, engine, float32", f"{engine['float32']:.1f} windows/s",
            f"{engine['float32'] / peers['float32']:.1f} × the peer (TF32 where torch allows it)"),
        Row(f"{size}, network alone", f"{max(alone.values()):.1f} windows/s",
            "" if settings.quick else f"{share:.0%} of the card's matrix rate"),
    ]  # fmt: skip
    return figures, rows


def measure(settings: Settings) -> tuple[dict[str, Any], list[Row]]:
    matrices = matrix_rate(settings)
    figures: dict[str, Any] = {"matrix_multiply_adds_per_s": matrices}
    rows = []
    for size in (SHIPPED, PUBLISHED):
        figures[size], lines = compare(settings, size, matrices)
        rows += lines
    return figures, rows
