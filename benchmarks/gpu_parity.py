"""Half precision on a GPU against float32 there and on the CPU, and both against golden data."""

from typing import Any, get_args

import common
import numpy as np
import torch
from fakes import agreement
from gpu_settings import SHIPPED, Row, Settings
from safetensors.torch import load_file

from mediar_infer.config import ALL_FLIPS, PLANS, EngineConfig, Plan
from mediar_infer.demo.scenes import SceneKind, make_scene
from mediar_infer.devices import CPU
from mediar_infer.engine.bands import predict_bands
from mediar_infer.engine.preprocess import Scaling, compute_scaling
from mediar_infer.errors import MediarError
from mediar_infer.image_trace import Trace
from mediar_infer.images.sources import ArraySource, ImageSource
from mediar_infer.labels.kernels.tensors import TorchKernels
from mediar_infer.labels.masks import compute_labels
from mediar_infer.labels.metrics import evaluate_labels, sum_scores
from mediar_infer.network.architecture import ENCODERS, Architecture
from mediar_infer.network.backends import Backend
from mediar_infer.network.backends.torch_backend import TorchBackend
from mediar_infer.network.model import MediarFormer

MIN_F1 = 0.999
"""Of labels in half precision against those in float32."""
MAX_DIFFERENCE = 1e-3
"""Of float32 maps on the device, from those of the released system."""
GOLDEN = common.ROOT.parent / "shared" / "parity"
"""The large golden data, where they lie beside the checkout."""
_MAX_IMAGES = 20


def predict_maps(
    source: ImageSource, members: list[Backend], config: EngineConfig, scaling: Scaling | None
) -> np.ndarray:
    scaling = scaling or compute_scaling(source)
    bands = predict_bands(source, scaling, members, config, Trace())
    return np.concatenate(list(bands), axis=1)


def differences(found: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    difference = np.abs(found - expected)
    return {"mean": float(difference.mean()), "max": float(difference.max())}


def load_sources(settings: Settings) -> tuple[dict[str, ImageSource], dict[str, Any]]:
    """Generated scenes and the images of a folder by name, and why others cannot be read."""
    side, errors = settings.side // 2, {}
    sources: dict[str, ImageSource] = {
        kind: ArraySource(make_scene(kind, side, side, seed=1)[0]) for kind in get_args(SceneKind)
    }
    for path in sorted(settings.images.iterdir())[:_MAX_IMAGES] if settings.images else []:
        try:
            sources[path.name] = ArraySource(common.read_image(path))
        except MediarError as error:
            errors[path.name] = str(error)
    return sources, errors


def compare_images(settings: Settings) -> tuple[dict[str, Any], list[Row]]:
    """Maps and labels of generated scenes, and of the images of a folder."""
    models = settings.networks(SHIPPED)
    plan = PLANS["fast"] if settings.quick else Plan()
    config = EngineConfig(plan=plan, roi_size=settings.roi)
    on_cpu = [TorchBackend(model, CPU, "float32") for model in models]
    exact, half = (settings.members(models, name) for name in ("float32", settings.half))
    sources, found = load_sources(settings)
    scores = []
    for name, source in sources.items():
        maps = [predict_maps(source, members, config, None) for members in (on_cpu, exact, half)]
        labels = [compute_labels(each)[0] for each in maps]
        score = evaluate_labels(labels[1], labels[2], (0.5, 0.9))
        scores.append(score)
        found[name] = {
            "float32, device and CPU": differences(maps[1], maps[0]),
            f"{settings.half} and float32": differences(maps[2], maps[1]),
            "cells": int(labels[1].max()),
            "f1": {str(each.threshold): each.f1 for each in score},
            "pixels_as_on_cpu": agreement(labels[1], labels[0]),
        }
    f1 = [sum_scores(each).f1 for each in zip(*scores, strict=True)]
    worst = [
        {key: max(each[pair][key] for each in found.values() if isinstance(each, dict))
         for key in ("mean", "max")}
        for pair in ("float32, device and CPU", f"{settings.half} and float32")
    ]  # fmt: skip
    return {"images": found, "f1_at_0.5": f1[0], "f1_at_0.9": f1[1]}, [
        Row(f"maps, float32, device and CPU, {len(scores)} images", describe(worst[0]),
            f"largest at most {MAX_DIFFERENCE:g}", worst[0]["max"] <= MAX_DIFFERENCE),
        Row(f"maps, {settings.half} and float32", describe(worst[1])),
        Row(f"labels, {settings.half} and float32, F1 at IoU 0.5 and 0.9",
            f"{f1[0]:.4f}, {f1[1]:.4f}", f"at least {MIN_F1} at 0.5", f1[0] >= MIN_F1),
    ]  # fmt: skip


def describe(difference: dict[str, float]) -> str:
    return f"mean {difference['mean']:.1e}, largest {difference['max']:.1e}"


class _InputsAsBytes:
    """Stands in for ``Scaling`` where an image is in [0, 1] already; the engine divides by 255."""

    def apply(self, rows: np.ndarray) -> np.ndarray:
        return rows * np.float32(255)


def compare_golden_maps(settings: Settings) -> tuple[dict[str, Any], list[Row]]:
    """Maps of two networks and three flips that the released system computed."""
    if not (GOLDEN / "ensemble_tta.npz").exists():
        return {"golden maps": "not beside this checkout"}, []
    sizes, models = Architecture(*ENCODERS["mit_b0"], (64, 32, 16, 16, 16), 16), []
    for name in "ab":
        model = MediarFormer(sizes)
        model.load_state_dict(load_file(GOLDEN / f"former_mit_b0_{name}.safetensors"))
        models.append(model)
    with np.load(GOLDEN / "ensemble_tta.npz") as golden:
        image = golden["image"].astype(np.float32).transpose(1, 2, 0)
        expected = golden["maps_tta"]
    found = {}
    for precision in ("float32", settings.half):
        members, config = settings.members(models, precision), EngineConfig(plan=Plan())
        maps = predict_maps(ArraySource(image), members, config, _InputsAsBytes())
        found[precision] = differences(maps, expected)
    return {"golden maps": found}, [
        Row("golden maps, float32", describe(found["float32"]),
            f"largest at most {MAX_DIFFERENCE:g}", found["float32"]["max"] <= MAX_DIFFERENCE),
        Row(f"golden maps, {settings.half}", describe(found[settings.half])),
    ]  # fmt: skip


def compare_golden_labels(settings: Settings) -> tuple[dict[str, Any], list[Row]]:
    """Labels of the torch loops on the device against those of the released system."""
    kernels, found = TorchKernels(settings.device.to_torch()), {}
    with np.load(common.ROOT / "tests" / "golden" / "flows.npz") as golden:
        for name in golden.files:
            case = name.removesuffix("_cellprob_logits")
            if case == name:
                continue
            maps = np.concatenate([golden[f"{case}_flow"], golden[name][None]]).astype(np.float32)
            labels = compute_labels(maps, None, kernels)[0]
            found[case] = agreement(labels, golden[f"{case}_labels"])
    lowest = min(found.values())
    return {"golden labels": found}, [
        Row(f"golden labels, {len(found)} cases, torch loops on the device",
            f"{lowest:.3%} of pixels in the worst", "at least 99.9 %", lowest >= 0.999),
    ]  # fmt: skip


def measure(settings: Settings) -> tuple[dict[str, Any], list[Row]]:
    figures: dict[str, Any] = {"flips": list(ALL_FLIPS)}
    rows: list[Row] = []
    parts = [compare_images, compare_golden_labels]
    if not settings.quick:
        parts.append(compare_golden_maps)
    for part in parts:
        more, lines = part(settings)
        figures |= more
        rows += lines
    figures["torch"] = torch.__version__
    return figures, rows
