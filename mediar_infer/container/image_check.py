"""Fails if the container image lacks what the engine needs: run once, while the image is built."""

import ast
import ctypes
import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from mediar_infer import EngineConfig, RuntimeConfig, Segmenter
from mediar_infer.demo.scenes import make_scene
from mediar_infer.labels.kernels.compiled import load_library

CUDA_LIBRARIES = (
    "torch/lib/libtorch_cuda_linalg.so",
    "nvidia/**/libcudnn*.so.*",
    "nvidia/**/libcufft.so.*",
    "nvidia/**/libnvJitLink.so.*",
    "nvidia/**/libnvrtc.so.*",
)
"""What torch and cuDNN open only when a GPU computes."""
_SCENE_SIDE = 128


def imported_modules(source: Path) -> set[str]:
    """Names of modules that the code of a folder imports anywhere, inside functions too."""
    names: set[str] = set()
    for path in source.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module)
    return names


def missing_modules(names: set[str]) -> Iterator[str]:
    """Import modules, and yield a line for each that fails; optional packages may be absent."""
    for name in sorted(names):
        try:
            importlib.import_module(name)
        except ImportError as error:
            package = (error.name or name).partition(".")[0]
            if importlib.util.find_spec(package) is not None:
                yield f"import {name}: {error}"


def missing_libraries(packages: Path) -> Iterator[str]:
    """Open the libraries of CUDA, and yield a line for each that fails."""
    for pattern in CUDA_LIBRARIES:
        paths = sorted(packages.glob(pattern))
        if not paths:
            yield f"{pattern}: found no such library"
        for path in paths:
            try:
                ctypes.CDLL(str(path), mode=os.RTLD_LAZY)
            except OSError as error:
                yield f"{path.name}: {error}"


def failed_networks(weights: Path) -> Iterator[str]:
    """Segment a small scene by every network library, and yield a line for each without cells."""
    image, _ = make_scene("fluorescence", _SCENE_SIDE, _SCENE_SIDE, seed=0)
    backends: list[Literal["openvino", "torch"]] = ["openvino"]
    if importlib.util.find_spec("torch"):
        backends.append("torch")
    for backend in backends:
        runtime = RuntimeConfig(device="cpu", backend=backend)
        segmenter = Segmenter.from_weights(weights, EngineConfig(runtime=runtime))
        if not segmenter.segment(image).n_cells:
            yield f"{backend}: found no cell in a scene of cells"


def main() -> int:
    """Check the image; 1 if anything is missing."""
    logging.basicConfig(level=logging.WARNING)
    root = Path(__file__).parents[1]
    faults = [*missing_modules(imported_modules(root))]
    if importlib.util.find_spec("torch"):
        import torch

        if torch.version.cuda:
            faults += missing_libraries(Path(torch.__file__).parents[1])
    if load_library() is None:
        faults.append("the compiled loops of labels: not found")
    faults += failed_networks(root.parent / "weights")
    sys.stderr.writelines(f"image_check: {fault}\n" for fault in faults)
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
