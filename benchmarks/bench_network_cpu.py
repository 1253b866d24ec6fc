"""The network on a CPU against what people would use: MONAI's windows over a library's MA-Net.

Six passes (two models, three flips) of one image, overlap 0.6, float32, by the engine and by
``monai.inferers.sliding_window_inference`` with ``segmentation_models_pytorch.MAnet`` and the same
weights in eager mode, windows in batches of four as released. One process, all cores, alternating.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from fakes import normalise_image
from released_network import LibraryFormer, released_maps

from mediar_infer.config import EngineConfig, RuntimeConfig
from mediar_infer.demo.scenes import make_scene
from mediar_infer.engine.bands import count_windows, predict_bands
from mediar_infer.engine.preprocess import Scaling
from mediar_infer.image_trace import Trace
from mediar_infer.images.sources import ArraySource
from mediar_infer.network.checkpoints import load_checkpoint
from mediar_infer.segmenter import Segmenter

TARGET_RATIO = 4.5
TOLERANCE = 1e-3
BYTES = Scaling(low=0, high=255, lut=np.arange(256, dtype=np.uint8))


def make_peer(path: Path) -> LibraryFormer:
    """The library's network with the weights of a file, strictly."""
    checkpoint = load_checkpoint(path)
    sizes = checkpoint.architecture
    peer = LibraryFormer(sizes.name, sizes.decoder_channels, sizes.pab_channels)
    entries = {
        n: t.float() if t.is_floating_point() else t for n, t in checkpoint.state_dict.items()
    }
    peer.load_state_dict(entries, strict=True)
    return peer.eval().requires_grad_(False)


def load(backend: str, precision: str) -> Segmenter:
    """The shipped pair on the CPU."""
    runtime = RuntimeConfig(device="cpu", backend=backend, precision=precision)
    return Segmenter.from_weights((), EngineConfig(runtime=runtime))


def run_ours(segmenter: Segmenter, image: np.ndarray) -> tuple[float, np.ndarray]:
    started = time.perf_counter()
    bands = predict_bands(ArraySource(image), BYTES, segmenter.members, segmenter.config, Trace())
    maps = np.concatenate(list(bands), axis=1)
    return time.perf_counter() - started, maps


def run_peer(
    peers: list[LibraryFormer], image: np.ndarray, config: EngineConfig
) -> tuple[float, np.ndarray]:
    plan, started = config.plan, time.perf_counter()
    with torch.inference_mode():
        maps = released_maps(image, peers, plan.flips, config.roi_size, plan.overlap)
    return time.perf_counter() - started, maps


def measure(
    segmenter: Segmenter, image: np.ndarray, expected: np.ndarray, repeats: int
) -> dict[str, object]:
    """Seconds of the engine and how far its maps are from the peer's."""
    run_ours(segmenter, image[:512, :512])
    runs = [run_ours(segmenter, image) for _ in range(repeats)]
    differences = [np.abs(maps - expected) for _, maps in runs]
    member = segmenter.members[0]
    n_windows = count_windows(*image.shape[:2], segmenter.config, len(segmenter.members))
    seconds = common.spread([seconds for seconds, _ in runs])
    return {
        "backend": member.name,
        "precision": member.precision,
        "seconds": seconds,
        "seconds_per_window": seconds["median"] / n_windows,
        "max_difference": max(float(each.max()) for each in differences),
        "mean_difference": max(float(each.mean()) for each in differences),
    }


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Time the peer, then the engine in each precision."""
    segmenters = [load(args.backend, precision) for precision in args.precisions]
    config = segmenters[0].config
    peers = [make_peer(common.ROOT / "weights" / name) for name in segmenters[0].digests]
    scene, _ = make_scene("fluorescence", args.side, args.side, seed=0)
    image = normalise_image(scene)
    run_peer(peers[:1], image[:512, :512], config)
    busy = common.Meter()
    theirs = [run_peer(peers, image, config) for _ in range(args.peer_repeats)]
    expected = theirs[0][1]
    peer_s = common.spread([seconds for seconds, _ in theirs])
    ours = [measure(segmenter, image, expected, args.repeats) for segmenter in segmenters]
    n_windows = count_windows(args.side, args.side, config, len(peers))
    for each in ours:
        each["ratio"] = peer_s["median"] / each["seconds"]["median"]
    return {
        "side": args.side,
        "windows": n_windows,
        "peer_s": peer_s,
        "peer_s_per_window": peer_s["median"] / n_windows,
        "ours": ours,
        "target_ratio": TARGET_RATIO,
        "tolerance": TOLERANCE,
        "largest_value": float(np.abs(expected).max()),
        "others_cores": busy.others_cores(),
    }


def main() -> None:
    parser = common.make_parser(__doc__)
    parser.add_argument(
        "--side", type=int, default=1000, help="side of the generated image in pixels"
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs of the engine")
    parser.add_argument("--peer-repeats", type=int, default=3, help="runs of the peer")
    parser.add_argument(
        "--backend", default="auto", choices=("auto", "torch", "openvino"), help="as for predict"
    )
    parser.add_argument(
        "--precisions", nargs="+", default=["float32", "bfloat16"], metavar="TYPE",
        help="the first must agree with the peer",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    results = compare(args)
    print(json.dumps(results, indent=2))
    common.write_report(args.output, common.metadata(peer="MONAI + smp MAnet, eager"), results)
    if (difference := results["ours"][0]["max_difference"]) > TOLERANCE:
        raise SystemExit(f"found a difference of {difference}, expected at most {TOLERANCE}")


if __name__ == "__main__":
    main()
