"""Images per second of training on a CPU: torch's own layers, the fused ones, and kept memory.

    python benchmarks/bench_training_step.py --json benchmarks/results/training_step.json

On random crops: forward pass, loss, backward pass and AdamW of the default pair's network, without
the loader (see ``bench_loader.py``). Kinds of layers alternate in a process; what happens to freed
arrays is set for a whole process, so processes alternate too.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import common
import torch
from torch import nn

from mediar_infer.network.architecture import Architecture
from mediar_infer.process import keep_large_blocks, return_large_blocks
from mediar_infer.training.networks.build import build_network
from mediar_infer.training.networks.fused_norms import fuse_norms, load_activation_library
from mediar_infer.training.stages.losses import compute_loss
from mediar_infer.training.stages.optimisation import build_optimizer
from mediar_infer.training.stages.recipe_files import find_recipe, read_recipe
from mediar_infer.training.stages.stage_config import StageConfig

MEMORY = {"returned": return_large_blocks, "kept": keep_large_blocks}
"""What becomes of freed arrays: as in inference, as in training."""
_ROUNDS = 2


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


def measure(args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each step in this process, by kind of layers."""
    MEMORY[args.memory]()
    torch.set_num_threads(args.threads[0])
    recipe = read_recipe(find_recipe(args.recipe))
    architecture, config = recipe.model.architecture, recipe.stages[0]
    steps = {
        kind: build_step(architecture, config, is_fused=kind == "fused")
        for kind in ("plain", "fused")
    }
    times: dict[str, list[float]] = {kind: [] for kind in steps}
    for turn in range(args.steps + 1):
        for kind, step in steps.items():
            started = time.perf_counter()
            step()
            if turn:
                times[kind].append(time.perf_counter() - started)
    return times


def compare(n_threads: int, args: argparse.Namespace) -> dict[str, object]:
    """Alternate processes of both kinds of memory."""
    config = read_recipe(find_recipe(args.recipe)).stages[0]
    times: dict[str, list[float]] = defaultdict(list)
    meter = common.Meter()
    for memory in [*MEMORY] * _ROUNDS:
        options = ["--recipe", args.recipe, "--threads", str(n_threads), "--steps", str(args.steps)]
        command = [sys.executable, __file__, "--memory", memory, *options]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        for kind, values in json.loads(done.stdout).items():
            times[f"{kind}, {memory}"] += values
    spread = {kind: common.spread(values) for kind, values in times.items()}
    medians = {kind: values["median"] for kind, values in spread.items()}
    slowest = medians["plain, returned"]
    return {
        "n_threads": n_threads,
        "batch_size": config.batch_size,
        "crop_size": config.crop_size,
        "step_s": spread,
        "images_per_s": {k: round(config.batch_size / v, 2) for k, v in medians.items()},
        "times_faster": {k: round(slowest / v, 3) for k, v in medians.items()},
        "others_cores": round(meter.others_cores(), 2),
    }


def main() -> None:
    parser = common.make_parser(__doc__)
    parser.add_argument("--recipe", default="pair", help="network and first stage to use")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="numbers of CPU threads"
    )
    parser.add_argument(
        "--steps", type=int, default=3, help="per kind and process, after one to warm up"
    )
    parser.add_argument("--memory", choices=MEMORY, help="measure this kind alone, in this process")
    parser.add_argument("--json", type=Path, help="JSON file to write")
    args = parser.parse_args()
    if load_activation_library() is None:
        parser.error("the fused layers were not compiled; install the package with a C compiler")
    if args.memory:
        print(json.dumps(measure(args)))
        return
    results = []
    for n_threads in args.threads:
        results.append(compare(n_threads, args))
        print({key: value for key, value in results[-1].items() if key != "step_s"}, flush=True)
    common.write_report(args.json, common.metadata(recipe=args.recipe), results)


if __name__ == "__main__":
    main()
