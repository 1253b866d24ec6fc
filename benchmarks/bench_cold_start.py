"""Start of a fresh process: how long one small image takes beyond its network time, and why.

The challenge starts a container per image, so every image pays for this. The floor is what
``python -c "import torch"`` takes; processes of both kinds alternate.
"""

import argparse
import importlib.abc
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

WATCHED_IMPORTS = (
    "numpy",
    "torch",
    "openvino",
    "cv2",
    "tifffile",
    "mediar_infer.folder.runner",
)
WATCHED_CALLS = {
    "mediar_infer.network.pending_weights": ("read_checkpoint", "check_entries"),
    "mediar_infer.network.backends.openvino_graph": ("read_graph", "compile_graph"),
    "mediar_infer.segmenter": ("compute_scaling",),
    "mediar_infer.folder.runner": ("run_folder",),
    "mediar_infer.folder.image_task": ("open_input",),
    "mediar_infer.folder.image_runner": ("write_labels", "describe_labels"),
}
TARGET_RATIO = 0.5


class Timeline(importlib.abc.MetaPathFinder):
    """Records when some modules are imported and some functions run, and in which thread."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, float, float]] = []
        self._open: set[str] = set()

    def note(self, name: str, function: Callable[..., object]) -> Callable[..., object]:
        def noted(*args: object, **kwargs: object) -> object:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                thread = threading.current_thread().name.partition("_")[0]
                self.events.append((name, thread, started, time.perf_counter()))

        return noted

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in self._open or fullname not in (*WATCHED_IMPORTS, *WATCHED_CALLS):
            return None
        self._open.add(fullname)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        loader, execute = spec.loader, spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            for function in WATCHED_CALLS.get(fullname, ()):
                setattr(module, function, self.note(function, getattr(module, function)))

        noted = self.note(f"import {fullname}", exec_module)
        loader.exec_module = noted if fullname in WATCHED_IMPORTS else exec_module  # type: ignore
        return spec


def run_noted(arguments: list[str], target: Path) -> int:
    """Run the command line in this process with a timeline."""
    timeline = Timeline()
    sys.meta_path.insert(0, timeline)
    from mediar_infer.cli import main
    from mediar_infer.process import process_start_s

    entered = time.perf_counter()
    code = main(arguments)
    left, zero = time.perf_counter(), process_start_s()
    timeline.events += [
        ("interpreter", "MainThread", zero, entered),
        ("main", "MainThread", entered, left),
    ]
    rows = [
        {"what": name, "thread": thread, "from_s": start - zero, "to_s": end - zero}
        for name, thread, start, end in sorted(timeline.events, key=lambda event: event[2])
    ]
    target.write_text(json.dumps(rows))
    return code


def write_image(path: Path, side: int) -> None:
    import cv2

    from mediar_infer.demo.scenes import make_scene

    image, _ = make_scene("fluorescence", side, side, seed=0)
    cv2.imwrite(str(path), image)


def measure(
    args: argparse.Namespace, folder: Path, environment: dict[str, str]
) -> dict[str, object]:
    """Alternate bare imports and predictions."""
    import common

    images, labels = folder / "images", folder / "labels"
    images.mkdir()
    write_image(images / "cells.png", args.side)
    options = ["-i", str(images), "-o", str(labels), "--device", args.device, "--quiet"]
    predict = [sys.executable, "predict.py", *options]
    bare = [sys.executable, "-c", "import torch"]
    for command in (bare, predict):  # fills the file cache and compiles the sources
        common.run_timed(command, env=environment)
    rows = []
    for _ in range(args.repeats):
        floor = common.run_timed(bare, env=environment)
        ours = common.run_timed(predict, env=environment)
        record = json.loads((labels / "ledger.jsonl").read_text().splitlines()[-1])
        network_s = record["stages_s"]["network"]
        rows.append(
            {
                "bare": asdict(floor),
                "predict": asdict(ours),
                "network_s": network_s,
                "rest_s": ours.wall_s - network_s,
                "wall_of_ledger_s": record["wall_s"],
                "stages_s": record["stages_s"],
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    timeline = folder / "timeline.json"
    subprocess.run(
        [sys.executable, __file__, "--noted", str(timeline), "predict", *options],
        check=True, env=environment, cwd=common.ROOT,
    )  # fmt: skip
    return summary(rows) | {"runs": rows, "timeline": json.loads(timeline.read_text())}


def summary(rows: list[dict[str, object]]) -> dict[str, object]:
    import common

    def all_of(value: Callable[[dict], float]) -> dict[str, float]:
        return common.spread([value(row) for row in rows])

    bare, rest = all_of(lambda r: r["bare"]["wall_s"]), all_of(lambda r: r["rest_s"])
    return {
        "bare_import_torch_s": bare,
        "process_s": all_of(lambda r: r["predict"]["wall_s"]),
        "network_s": all_of(lambda r: r["network_s"]),
        "process_less_network_s": rest,
        "ratio_of_medians": rest["median"] / bare["median"],
        "ratio_of_minima": rest["min"] / bare["min"],
        "target_ratio": TARGET_RATIO,
        "cpu_s": {
            "bare": all_of(lambda r: r["bare"]["cpu_s"]),
            "predict": all_of(lambda r: r["predict"]["cpu_s"]),
        },
        "others_cores": all_of(lambda r: r["predict"]["others_cores"]),
    }


def main() -> None:
    if sys.argv[1:2] == ["--noted"]:
        raise SystemExit(run_noted(sys.argv[3:], Path(sys.argv[2])))
    import common  # not at the top: it imports what the recorded child must import itself

    parser = common.make_parser(__doc__)
    parser.add_argument(
        "--repeats", type=int, default=9, help="bare imports, and as many predictions"
    )
    parser.add_argument(
        "--side", type=int, default=512, help="side of the generated image in pixels"
    )
    parser.add_argument("--device", default="cpu", help="as for predict")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    # Compiled sources are kept, as in an installed package.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as folder:
        results = measure(args, Path(folder), environment)
    print(json.dumps({k: v for k, v in results.items() if k not in ("runs", "timeline")}, indent=2))
    for row in results["timeline"]:
        print(f"{row['from_s']:7.3f} {row['to_s']:7.3f}  {row['thread']:12s} {row['what']}")
    common.write_report(args.output, common.metadata(side=args.side, device=args.device), results)


if __name__ == "__main__":
    main()
