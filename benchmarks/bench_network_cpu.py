"""The network on a CPU against what people would use: MONAI's windows over a library's MA-Net.

Six passes (two models, three flips) of one image, overlap 0.6, float32, by the engine and by
``monai.inferers.sliding_window_inference`` with ``segmentation_models_pytorch.MAnet`` and the same
weights in eager mode, windows in batches of four as released. One process, all cores, in turn.
"""

import argparse
import sys
import time
from pathlib import Path

import common
import numpy as np
import torch

from mediar_infer.budget import Stopwatch
from mediar_infer.checkpoints import load_checkpoint
from mediar_infer.config import EngineConfig, RuntimeConfig
from mediar_infer.engine import count_windows, predict_bands
from mediar_infer.preprocess import Scaling, normalise_image
from mediar_infer.scenes import make_scene
from mediar_infer.segmenter import Segmenter
from mediar_infer.sources import ArraySource

sys.path.append(str(common.ROOT / "tests"))
from released_network import LibraryFormer, released_maps

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


def run_ours(segmenter: Segmenter, image: np.ndarray) -> tuple[float, np.ndarray]:
    started = time.perf_counter()
    bands = predict_bands(
        ArraySource(image), BYTES, segmenter.members, segmenter.config, Stopwatch()
    )
    maps = np.concatenate([band.maps for band in bands], axis=1)
    return time.perf_counter() - started, maps


def run_peer(
    peers: list[LibraryFormer], image: np.ndarray, config: EngineConfig
) -> tuple[float, np.ndarray]:
    plan, started = config.plan, time.perf_counter()
    with torch.inference_mode():
        maps = released_maps(image, peers, plan.flips, config.roi_size, plan.overlap)
    return time.perf_counter() - started, maps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3, help="runs of the engine")
    parser.add_argument("--backend", default="auto", choices=("auto", "torch", "openvino"))
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    config = EngineConfig(runtime=RuntimeConfig(device="cpu", backend=args.backend))
    segmenter = Segmenter.from_weights((), config)
    peers = [make_peer(common.ROOT / "weights" / name) for name in segmenter.digests]
    scene, _ = make_scene("fluorescence", args.side, args.side, seed=0)
    image = normalise_image(scene)
    window = image[:512, :512]
    run_ours(segmenter, window)
    run_peer(peers[:1], window, config)
    busy = common.Meter()
    theirs_s, expected = run_peer(peers, image, config)
    ours = [run_ours(segmenter, image) for _ in range(args.repeats)]
    others_cores = busy.others_cores()
    difference = max(float(np.abs(maps - expected).max()) for _, maps in ours)
    ours_s = common.spread([seconds for seconds, _ in ours])
    n_windows = count_windows(args.side, args.side, config, len(peers))
    results = {
        "side": args.side,
        "windows": n_windows,
        "backend": segmenter.members[0].name,
        "ours_s": ours_s,
        "ours_s_per_window": ours_s["median"] / n_windows,
        "peer_s": theirs_s,
        "peer_s_per_window": theirs_s / n_windows,
        "ratio": theirs_s / ours_s["median"],
        "target_ratio": TARGET_RATIO,
        "max_difference": difference,
        "tolerance": TOLERANCE,
        "largest_value": float(np.abs(expected).max()),
        "others_cores": others_cores,
    }
    for name, value in results.items():
        print(f"{name:20s} {value}")
    common.write_report(args.output, common.metadata(peer="MONAI + smp MAnet, eager"), results)
    if difference > TOLERANCE:
        raise SystemExit(f"found a difference of {difference}, expected at most {TOLERANCE}")


if __name__ == "__main__":
    main()
