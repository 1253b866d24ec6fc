"""Shared by the benchmarks: help, labelled images, reports, and how busy the machine was."""

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles

import numpy as np

from mediar_infer.challenge.machine import processor_name
from mediar_infer.devices import usable_cores
from mediar_infer.folder.provenance import package_versions
from mediar_infer.images.open import open_image

ROOT = Path(__file__).resolve().parents[1]
# Slides, fakes and the released network are shared with the tests.
sys.path.append(str(ROOT / "tests"))


def make_parser(doc: str | None) -> argparse.ArgumentParser:
    """Build a parser whose help shows the docstring of a benchmark line by line, as it stands."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def read_rows(data: Path, split: str = "val", limit: int | None = None) -> list[dict[str, str]]:
    """Rows of ``manifest.csv`` of one split, by default of images that training has not seen."""
    with (data / "manifest.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["split"] == split][:limit]


def read_image(path: Path) -> np.ndarray:
    """All pixels of an image: ``(H, W, 3)`` as stored."""
    with open_image(path) as source:
        return source.read_rows(0, source.height)


def metadata(**more: object) -> dict[str, object]:
    """Date, commit, machine and versions, plus what a benchmark adds."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "machine": processor_name(),
        "platform": platform.platform(),
        "cores": usable_cores(),
        "versions": package_versions(),
    } | more


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and extremes."""
    low, _, high = (
        quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    )
    return {
        "median": median(values),
        "q1": low,
        "q3": high,
        "min": min(values),
        "max": max(values),
        "n": len(values),
    }


def write_report(
    path: Path | None, metadata: dict[str, object], results: object, **more: object
) -> None:
    """Write ``{"metadata": …, "results": …}``, and what a benchmark adds."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        report = {"metadata": metadata, "results": results} | more
        path.write_text(json.dumps(report, indent=2) + "\n")


def _busy_s() -> float:
    """Seconds of CPU that all processes and the hypervisor have taken so far."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq, steal = (int(field) for field in fields[:8])
    ticks = user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


class Meter:
    """Counts the CPU time that other processes use from now on; children are not others."""

    def __init__(self) -> None:
        self._started, self._busy, self._own = time.perf_counter(), _busy_s(), _own_s()

    def others_cores(self) -> float:
        """Cores that were busy with other work, on average."""
        others_s = _busy_s() - self._busy - (_own_s() - self._own)
        return max(0.0, others_s) / (time.perf_counter() - self._started)


def _own_s() -> float:
    return sum(os.times()[:4])


def children_s() -> float:
    """Seconds of CPU of all children that have ended, and of theirs."""
    times = os.times()
    return times.children_user + times.children_system


@dataclass(frozen=True, slots=True)
class Sample:
    """One child process."""

    wall_s: float
    """From its start to its end."""
    cpu_s: float
    """Of the process itself."""
    others_cores: float
    """Cores that were busy with anything else meanwhile, on average."""


def run_timed(command: Sequence[str], **options: object) -> Sample:
    """Run a command to its end; raises if it fails."""
    meter, own, started = Meter(), _own_s(), time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT, **options)  # type: ignore[call-overload]
    wall_s = time.perf_counter() - started
    return Sample(wall_s, _own_s() - own, meter.others_cores())
