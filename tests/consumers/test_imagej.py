"""ImageJ itself reads our ROI files: every ROI covers exactly the pixels of its label."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tifffile

from mediar_infer.cli import main

HERE = Path(__file__).parent
JAR = Path(os.environ.get("IMAGEJ_JAR", "/usr/share/java/ij.jar"))


@pytest.fixture(scope="module")
def check(tmp_path_factory):
    """Compile the checker and give a function that runs it on labels and ROIs."""
    if not JAR.is_file() or shutil.which("javac") is None:
        pytest.skip(f"needs a JDK and ImageJ ({JAR}; $IMAGEJ_JAR names another place)")
    classes = tmp_path_factory.mktemp("classes")
    subprocess.run(
        ["javac", "-cp", JAR, "-d", classes, HERE / "CheckRois.java"], check=True, timeout=120
    )

    def run(labels, rois):
        path = os.pathsep.join(map(str, (JAR, classes)))
        command = ["java", "-Djava.awt.headless=true", "-cp", path, "CheckRois", labels, rois]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
        found = re.search(r"cells (\d+) rois (\d+) exact (\d+) pixel (\S+) ?(\S*)", done.stdout)
        return (*map(int, found.groups()[:3]), float(found[4]), found[5])

    return run


def export(labels, tmp_path, *options):
    tifffile.imwrite(tmp_path / "a_label.tiff", labels)
    arguments = ["export", str(tmp_path / "a_label.tiff"), "-o", str(tmp_path), "--rois", "--quiet"]
    assert main([*arguments, *options]) == 0
    return tmp_path / "a_label.tiff", tmp_path / "rois" / "a_rois.zip"


def test_every_roi_is_its_label(check, tmp_path, rng):
    rows, columns = np.indices((600, 700))
    labels = 1 + rows // 25 * 28 + columns // 25
    labels[(rows % 25 - 12) ** 2 + (columns % 25 - 12) ** 2 > 150] = 0
    labels[rng.random(labels.shape) < 0.02] = 0  # holes, crumbs and contacts by corners
    assert check(*export(labels.astype(np.uint16), tmp_path))[:3] == (672, 672, 672)


def test_rois_beyond_16_bits(check, tmp_path):
    labels = np.zeros((40, 70_000), np.uint8)
    labels[10:20, 32_760:32_780] = 1
    labels[10:20, 50_000:50_020] = 2
    labels[12, 50_005] = 0
    labels[5:9, 69_990:] = 3
    assert check(*export(labels, tmp_path))[:3] == (3, 3, 3)
