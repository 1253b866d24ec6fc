"""A slide with known cells end to end: reading, network, labels and the label file.

The network runs for its time, and maps read off the slide replace its output, so that labels are
real work.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench_slide import compare, write_slide
from gpu_settings import PUBLISHED, SHIPPED, Row, Settings
from slides import SlideScene, decode_scene

from mediar_infer.config import PLANS, EngineConfig, Plan
from mediar_infer.engine.bands import count_windows
from mediar_infer.image_trace import Trace
from mediar_infer.images.open import open_image
from mediar_infer.labels.files import write_labels
from mediar_infer.network.backends import Backend
from mediar_infer.process import peak_memory_bytes, return_large_blocks
from mediar_infer.segmenter import Segmenter
from mediar_infer.tolerance import tolerance_s

AIM_S, AIM_BYTES = 60, 6e9


class SlideBackend:
    """Runs the network for its time and returns the known maps of the slide."""

    def __init__(self, network: Backend) -> None:
        self._network = network
        self.name, self.precision = network.name, network.precision
        self.device, self.batch = network.device, network.batch

    def start(self, inputs: Any) -> Callable[[], Any]:  # noqa: ANN401 (array of the device)
        finish = self._network.start(inputs)

        def maps() -> Any:  # noqa: ANN401
            finish()
            known = decode_scene(torch.as_tensor(inputs))
            return known.numpy() if self.device.type == "cpu" else known

        return maps


def run_slide(
    settings: Settings, size: str, scene: SlideScene, folder: Path
) -> tuple[dict[str, Any], list[Row]]:
    """Time the paper plan; peak memory of the device and of the process."""
    network = settings.members(settings.networks(size), settings.half)
    plan = PLANS["fast"] if settings.quick else Plan()
    config = EngineConfig(plan=plan, roi_size=settings.roi)
    segmenter, trace = Segmenter([SlideBackend(each) for each in network], config), Trace()
    settings.reset_peak()
    started = time.perf_counter()
    with open_image(folder / "slide.tif") as source, segmenter.begin(source, trace) as work:
        write_labels(
            folder / "labels.tiff", work.labels(), height=source.height, width=source.width
        )
    settings.wait()
    wall_s, peak = time.perf_counter() - started, settings.peak_bytes()
    cells = compare(folder / "labels.tiff", scene)
    figures = {
        "windows": count_windows(scene.height, scene.width, config, len(network)),
        "wall_s": wall_s,
        "tolerance_s": tolerance_s(scene.height, scene.width),
        "stages_s": trace.stages_s,
        "peak_bytes": peak_memory_bytes(peak),
    } | cells
    what = f"slide of {scene.height:,}×{scene.width:,}, {size}"
    stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in trace.stages_s.items())
    rows = [
        Row(what, f"{wall_s:.1f} s ({stages})", f"aim {AIM_S} s", wall_s <= AIM_S),
        Row(f"{what}, cells found whole", f"{cells['whole_cells']:.2%}", "aim 100 %",
            cells["whole_cells"] == 1),
    ]  # fmt: skip
    if peak is not None:
        rows.append(
            Row(f"{what}, memory of the device", f"{peak / 1e9:.2f} GB",
                f"aim {AIM_BYTES / 1e9:.0f} GB", peak < AIM_BYTES)
        )  # fmt: skip
    return figures, rows


def measure(settings: Settings) -> tuple[dict[str, Any], list[Row]]:
    return_large_blocks()  # as the commands do
    scene = SlideScene(200, 260) if settings.quick else SlideScene(8415, 10496)
    figures: dict[str, Any] = {}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_slide(folder / "slide.tif", scene)
        for size in (SHIPPED, PUBLISHED):
            figures[size], lines = run_slide(settings, size, scene, folder)
            rows += lines
    return figures, rows
