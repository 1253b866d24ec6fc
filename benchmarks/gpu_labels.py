"""The label stage: torch loops on the device, C loops on the host's cores, and Cellpose's."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
from bench_labels import cellpose_labels, make_maps
from gpu_settings import Row, Settings

from mediar_infer.config import MaskConfig
from mediar_infer.devices import usable_cores
from mediar_infer.image_trace import Trace
from mediar_infer.labels.blocks import Labelling, label_bands
from mediar_infer.labels.kernels import LabelKernels
from mediar_infer.labels.kernels.compiled import CompiledKernels, load_library
from mediar_infer.labels.kernels.tensors import TorchKernels
from mediar_infer.labels.masks import compute_labels
from mediar_infer.labels.metrics import evaluate_labels

BAND_ROWS = 64


def stitched_labels(maps: np.ndarray, kernels: LabelKernels) -> np.ndarray:
    """As for a slide: bands of rows in, finished rows out."""
    height, width = maps.shape[1:]

    def bands() -> Iterator[np.ndarray]:
        for top in range(0, height, BAND_ROWS):
            yield maps[:, top : top + BAND_ROWS]

    how = Labelling(MaskConfig(blocks="stitched"), kernels, Trace())
    return np.concatenate(list(label_bands(bands(), (height, width), how)))


def measure(settings: Settings) -> tuple[dict[str, Any], list[Row]]:
    true, maps = make_maps(160 if settings.quick else 2048, 0)
    library, device = load_library(), settings.device.to_torch()
    if library is None:
        raise SystemExit("found no compiled loops; install the package with a C compiler")
    cores = usable_cores()
    kernels: dict[str, LabelKernels] = {
        f"C loops, {n} thread(s)": CompiledKernels(library, n) for n in sorted({1, cores})
    } | {f"torch loops on {settings.device}": TorchKernels(device)}
    ways: dict[str, Callable[[], np.ndarray]] = {}
    for name, each in kernels.items():
        ways[f"{name}, whole"] = lambda each=each: compute_labels(maps, None, each)[0]
        ways[f"{name}, stitched"] = lambda each=each: stitched_labels(maps, each)
    if find_spec("cellpose"):
        ways[f"Cellpose on {settings.device}, whole"] = lambda: cellpose_labels(maps, device)
    figures: dict[str, Any] = {"cells": int(true.max()), "cores": cores}
    reference = compute_labels(maps, None, CompiledKernels(library, cores))[0]
    fastest = settings.best_of(
        3, lambda: compute_labels(maps, None, CompiledKernels(library, cores))
    )
    rows = []
    for name, run in ways.items():
        run()  # loads the kernels of the device
        seconds, labels = settings.best_of(1 if settings.quick else 3, run)
        (score,) = evaluate_labels(true, labels.astype(np.int32), (0.9,))
        figures[name] = {
            "seconds": seconds,
            "f1_at_0.9": score.f1,
            "pixels_equal_to_c": float((labels == reference).mean()),
        }
        ratio = f"{seconds / fastest[0]:.1f} × the time of the C loops on {cores} core(s)"
        rows.append(Row(f"labels, {name}", f"{seconds:.3f} s, F1 {score.f1:.4f}", ratio))
    return figures, rows
