"""Images per second of training steps: forward pass, loss, backward pass and AdamW, no loader."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from gpu_settings import PUBLISHED, SHIPPED, Row, Settings

from mediar_infer.training.networks.build import build_network
from mediar_infer.training.stages.losses import compute_loss
from mediar_infer.training.stages.optimisation import build_optimizer
from mediar_infer.training.stages.recipe_files import find_recipe, read_recipe

RECIPES = {SHIPPED: "pair", PUBLISHED: "paper"}
"""Recipes whose first stage says how many crops of which size."""


def build_step(settings: Settings, size: str, precision: str) -> tuple[int, Callable[[], None]]:
    """The crops of a step, and the step on fixed random crops."""
    device, config = settings.device.to_torch(), read_recipe(find_recipe(RECIPES[size])).stages[0]
    if settings.quick:
        config = replace(
            config, batch_size=2, crop_size=settings.roi, memory_per_batch=0, memory_roles=()
        )
    torch.manual_seed(0)
    model = build_network("mediar_former", settings.architecture(size), drop_path=0.05)
    model = model.train().to(device).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, config)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    n, side = config.batch_size, config.crop_size
    inputs = torch.rand(n, 3, side, side, device=device).to(memory_format=torch.channels_last)
    foreground = (torch.rand(n, side, side, device=device) > 0.5).float()
    unit_flow = torch.rand(n, 2, side, side, device=device) - 0.5
    half, dtype = precision != "float32", getattr(torch, precision)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype if half else None, enabled=half):
            logits = model(inputs)
        loss = compute_loss(logits.float(), foreground, unit_flow).total
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return n, step


def measure(settings: Settings) -> tuple[dict[str, Any], list[Row]]:
    figures: dict[str, Any] = {}
    rows = []
    precisions = ("float32", "bfloat16", "float16") if settings.on_cuda else ("float32", "bfloat16")
    for size in RECIPES:
        for precision in precisions:
            settings.reset_peak()
            n_crops, step = build_step(settings, size, precision)
            n_steps = 1 if settings.quick else 10
            for _ in range(min(n_steps, 3)):
                step()
            seconds, _ = settings.best_of(
                1, lambda step=step, n=n_steps: [step() for _ in range(n)]
            )
            rate = n_steps * n_crops / seconds
            peak = settings.peak_bytes()
            figures[f"{size}, {precision}"] = {"images_per_s": rate, "peak_bytes_of_device": peak}
            memory = "" if peak is None else f"{peak / 1e9:.1f} GB"
            rows.append(Row(f"training, {size}, {precision}", f"{rate:.1f} images/s", memory))
            del step
    return figures, rows
