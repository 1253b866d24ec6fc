"""Images per second of training on a CPU, with torch's own layers and with the fused ones.

    python benchmarks/bench_training_step.py --json benchmarks/results/training_step.json

Both take turns in one run, on random crops: forward pass, loss, backward pass and AdamW of the
default pair's network, without the loader (see ``bench_loader.py``).
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import common
import torch
from torch import nn

from mediar_infer.architecture import Architecture
from mediar_infer.training.fused_norms import fuse_norms, load_library
from mediar_infer.training.losses import compute_loss
from mediar_infer.training.networks import build_network
from mediar_infer.training.optimisation import build_optimizer
from mediar_infer.training.recipe import find_recipe, read_recipe
from mediar_infer.training.stage_config import StageConfig


def build_step(
    architecture: Architecture, config: StageConfig, *, is_fused: bool
) -> Callable[[], None]:
    """One optimiser step on fixed random crops."""
    torch.manual_seed(0)
    model: nn.Module = build_network("mediar_former", architecture, drop_path=0.05)
    model = model.train().to(memory_format=torch.channels_last)
    if is_fused:
        fuse_norms(model)
    optimizer = build_optimizer(model, config)
    shape = config.batch_size, config.crop_size, config.crop_size
    inputs = torch.rand(shape[0], 3, *shape[1:]).to(memory_format=torch.channels_last)
    foreground = (torch.rand(shape) > 0.5).float()
    unit_flow = torch.rand(shape[0], 2, *shape[1:]) - 0.5

    def step() -> None:
        optimizer.zero_grad()
        compute_loss(model(inputs), foreground, unit_flow).total.backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="pair", help="whose network and first stage are taken")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=5, help="of each kind, after one to warm up")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if load_library() is None:
        parser.error("the fused layers were not compiled; install the package with a C compiler")
    recipe = read_recipe(find_recipe(args.recipe))
    config = recipe.stages[0]
    results = []
    for n_threads in args.threads:
        torch.set_num_threads(n_threads)
        steps = {
            kind: build_step(recipe.model.architecture, config, is_fused=kind == "fused")
            for kind in ("plain", "fused")
        }
        times: dict[str, list[float]] = {kind: [] for kind in steps}
        meter = common.Meter()
        for turn in range(args.steps + 1):
            for kind, step in steps.items():
                started = time.perf_counter()
                step()
                if turn:
                    times[kind].append(time.perf_counter() - started)
        spread = {kind: common.spread(values) for kind, values in times.items()}
        medians = {kind: values["median"] for kind, values in spread.items()}
        result = {
            "n_threads": n_threads,
            "batch_size": config.batch_size,
            "crop_size": config.crop_size,
            "step_s": spread,
            "images_per_s": {k: round(config.batch_size / v, 2) for k, v in medians.items()},
            "times_faster": round(medians["plain"] / medians["fused"], 3),
            "others_cores": round(meter.others_cores(), 2),
        }
        results.append(result)
        print({key: value for key, value in result.items() if key != "step_s"}, flush=True)
    common.write_report(args.json, common.metadata(recipe=recipe.name), results)


if __name__ == "__main__":
    main()
