"""Small image folders to run on, and how to read what a run wrote."""

import json
import os
import subprocess
from pathlib import Path

import cv2
import numpy as np
from slides import SlideScene

ROOT = Path(__file__).resolve().parents[2]


def slide(seed=0, height=120, width=150):
    """A generated slide and its true labels, as arrays."""
    scene = SlideScene(height, width, pitch=40, seed=seed)
    return scene.render_rows(0, height), scene.label_rows(0, height)


def write_image(path, image=None):
    """Write an image in the format of the file's extension; a slide if none is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = slide()[0] if image is None else image
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)
    return path


def read_ledger(outputs):
    """Lines of the ledger, oldest first."""
    return [json.loads(line) for line in (outputs / "ledger.jsonl").read_text().splitlines()]


def latest_records(outputs):
    """File name → its last line in the ledger."""
    return {record["file"]: record for record in read_ledger(outputs)}


def names_of(folder):
    """Names of everything in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def subprocess_environment(**variables):
    """Environment for a child process that leaves cores to others."""
    return os.environ | {"OMP_NUM_THREADS": "1"} | variables


def noise(height, width, seed=0):
    """Grey noise, (H, W) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)


def make_read_only(mount_point):
    """Make a mounted file system read-only, which binds root too."""
    subprocess.run(["mount", "-o", "remount,ro", str(mount_point)], check=True)
