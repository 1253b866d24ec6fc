"""Other programs read the pixel size of our label files: 0.325 µm everywhere, or none at all.

bioio and napari live in the environment ``.venv-consumers`` (its Python may be named by
``MEDIAR_CONSUMERS_PYTHON``), panimg in ``.venv-platform`` (``MEDIAR_PLATFORM_PYTHON``).
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mediar_infer.exports.label_rows import open_label_rows
from mediar_infer.images.geometry import Geometry
from mediar_infer.labels.files import write_labels

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
JAR = Path(os.environ.get("IMAGEJ_JAR", "/usr/share/java/ij.jar"))
CONSUMERS = Path(os.environ.get("MEDIAR_CONSUMERS_PYTHON", ROOT / ".venv-consumers/bin/python"))
PLATFORM = Path(os.environ.get("MEDIAR_PLATFORM_PYTHON", ROOT / ".venv-platform/bin/python"))
HEIGHT, WIDTH = 70, 50
VALUE = WIDTH + 1
"""Of pixel (1, 1)."""
GEOMETRIES = {
    "square": Geometry.of_size((0.325, 0.325)),
    "oblong": Geometry.of_size((0.65, 0.325)),
    "unknown": None,
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Label files of a known and an unknown pixel size, with provenance."""
    folder = tmp_path_factory.mktemp("labels")
    labels = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    found = []
    for name, geometry in GEOMETRIES.items():
        found.append(folder / f"{name}_label.tiff")
        write_labels(
            found[-1], [labels], height=HEIGHT, width=WIDTH, geometry=geometry,
            facts={"image": f"{name}.tif", "plan": {"flips": ["none"]}},
        )  # fmt: skip
    return found


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_consumer(python, module, script, paths):
    """What a script says of files in an environment that has a module, or a skip."""
    if not python.exists() or subprocess.run([python, "-c", f"import {module}"], check=False,
                                             capture_output=True).returncode:  # fmt: skip
        pytest.skip(f"no {module} in {python}: see CONTRIBUTING.md")
    return json.loads(run(python, script, *paths).splitlines()[-1])


def test_imagej(paths, tmp_path):
    if not JAR.is_file() or shutil.which("javac") is None:
        pytest.skip(f"needs a JDK and ImageJ ({JAR}; $IMAGEJ_JAR names another place)")
    run("javac", "-cp", JAR, "-d", tmp_path, HERE / "ReadSizes.java")
    places = os.pathsep.join(map(str, (JAR, tmp_path)))
    lines = run("java", "-Djava.awt.headless=true", "-cp", places, "ReadSizes", *paths)
    found = [line.split() for line in lines.splitlines()]
    sizes = [(float(height), float(width), unit) for height, width, unit, _ in found]
    assert sizes == [
        (pytest.approx(0.325), pytest.approx(0.325), "µm"),
        (pytest.approx(0.65), pytest.approx(0.325), "µm"),
        (1, 1, "pixel"),
    ]
    assert {float(value) for *_, value in found} == {VALUE}


def test_bioio(paths):
    found = run_consumer(CONSUMERS, "bioio", HERE / "read_with_bioio.py", paths)
    assert [each["size"] for each in found] == [[0.325, 0.325], [0.65, 0.325], [None, None]]
    for each in found:
        assert (each["reader"], each["channels"]) == ("bioio_ome_tiff", ["cells"])
        assert (each["shape"], each["value"]) == ([1, 1, 1, HEIGHT, WIDTH], VALUE)


def test_panimg(paths):
    if not PLATFORM.exists():
        pytest.skip(f"no panimg in {PLATFORM}: see CONTRIBUTING.md")
    report = json.loads(run(PLATFORM, ROOT / ".ci" / "read_by_panimg.py", paths[0].parent))
    sizes = [report["images"][path.name]["pixel_size_mm"] for path in paths]
    # The last one is how this importer takes 72 dots per inch; it refuses files without any size.
    assert sizes == [
        pytest.approx([0.325e-3, 0.325e-3]),
        pytest.approx([0.65e-3, 0.325e-3]),
        pytest.approx([25.4 / 72, 25.4 / 72]),
    ]


def test_napari_takes_no_size_from_tiff_and_reads_the_pixels(paths):
    found = run_consumer(CONSUMERS, "napari", HERE / "read_with_napari.py", paths)
    for each in found:
        assert (each["scale"], each["units"]) == ([1, 1], ["pixel", "pixel"])
        assert each["value"] == VALUE


def test_export(paths):
    sizes = []
    for path in paths:
        with open_label_rows(path) as labels:
            sizes.append(labels.pixel_size_um)
    assert sizes == [pytest.approx((0.325, 0.325)), pytest.approx((0.65, 0.325)), None]
