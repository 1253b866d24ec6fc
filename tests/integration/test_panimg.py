"""Results are read by panimg, the importer of grand-challenge.org.

It lives in an environment of its own: ``make gc-test`` makes ``.venv-platform``; another one is
named by ``MEDIAR_PLATFORM_PYTHON``, the path of its Python.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from folder_helpers import ROOT

from mediar_infer.images.geometry import Geometry
from mediar_infer.labels import files as label_files
from mediar_infer.labels.files import write_labels

PYTHON = Path(os.environ.get("MEDIAR_PLATFORM_PYTHON", ROOT / ".venv-platform/bin/python"))
HEIGHT, WIDTH = 70, 50
GEOMETRY = Geometry((0.0005, 0.00025), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))


def has_panimg():
    if not PYTHON.exists():
        return False
    found = subprocess.run([PYTHON, "-c", "import panimg"], capture_output=True, check=False)
    return found.returncode == 0


pytestmark = pytest.mark.skipif(
    not has_panimg(), reason=f"no panimg in {PYTHON}: 'make gc-test' installs it"
)


def read_by_panimg(folder):
    """What panimg makes of a folder; the exit code and the parsed report."""
    command = [PYTHON, ROOT / ".ci" / "read_by_panimg.py", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("geometry", [GEOMETRY, None], ids=["with-size", "without-size"])
def test_every_kind_of_result_is_read(tmp_path, monkeypatch, geometry):
    labels = np.arange(HEIGHT * WIDTH, dtype=np.uint32).reshape(HEIGHT, WIDTH)
    layouts = {"strips": 10**9, "tiles": 0}
    depths = {"uint16": [labels], "uint32": [labels[:40] * 100, labels[40:] * 100]}
    names = []
    for layout, tiled_from in layouts.items():
        monkeypatch.setattr(label_files, "TILED_FROM_PIXELS", tiled_from)
        for depth, bands in depths.items():
            for suffix in ("tif", "mha"):
                names.append(f"{layout}-{depth}.{suffix}")
                write_labels(
                    tmp_path / names[-1], bands, height=HEIGHT, width=WIDTH, geometry=geometry,
                    facts={"image": "a.tif"},
                )  # fmt: skip
    code, report = read_by_panimg(tmp_path)
    assert report["refused"] == {}
    assert code == 0
    assert sorted(report["images"]) == sorted(names)
    unknown = {"tif": 25.4 / 72, "mha": 1.0}  # there is no way to say nothing
    for name, image in report["images"].items():
        expected = [0.00025, 0.0005] if geometry else [unknown[name.rpartition(".")[2]]] * 2
        assert (image["height"], image["width"], image["colour"]) == (HEIGHT, WIDTH, "GRAY")
        assert image["pixel_size_mm"] == pytest.approx(expected, rel=1e-6)


def test_refusal_is_reported(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"no image")
    code, report = read_by_panimg(tmp_path)
    assert (code, report["images"], list(report["refused"])) == (1, {}, ["a.tif"])
