"""Chromium opens the report of a run from the file system: pictures, sorting, no errors."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from mediar_infer.folder.ledger import LedgerEntry
from mediar_infer.folder.options import RunOptions
from mediar_infer.folder.provenance import Provenance
from mediar_infer.folder.report import RunReport
from mediar_infer.folder.selection import Selection
from mediar_infer.images.sources import ArraySource
from mediar_infer.labels.files import write_labels
from mediar_infer.report.figures import draw_figures

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--virtual-time-budget=8000", "--enable-logging=stderr", "--hide-scrollbars",
)  # fmt: skip
PROBE = """
<script>
addEventListener("error", (event) => { document.title = `ERROR ${event.message}`; });
// Thumbnails are drawn when the browser finds that they are in view.
const isDrawn = () => document.querySelectorAll(".thumb img").length > 0;
const probe = (tries) => isDrawn() || tries === 0 ? look() : setTimeout(probe, 100, tries - 1);
addEventListener("load", () => setTimeout(probe, 100, 60));
function look() {
  const texts = () => [...document.querySelectorAll(".pin-name")].map((each) => each.textContent);
  const click = (name) => [...document.querySelectorAll("thead button")]
    .find((each) => each.textContent === name).click();
  const before = texts();
  click("cells");
  const ascending = texts();
  click("cells");
  const found = {
    before, ascending, descending: texts(),
    thumbs: document.querySelectorAll(".thumb img").length,
    viewer: document.getElementById("layer-image").naturalWidth,
    alts: [...document.images].every((each) => each.hasAttribute("alt")),
    wide: document.documentElement.scrollWidth - innerWidth,
    failed: document.querySelector(".findings")?.textContent ?? "",
    title: document.title,
  };
  document.body.append(Object.assign(document.createElement("pre"), {
    id: "probe", textContent: JSON.stringify(found) }));
}
</script>
"""


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("needs Chromium ($CHROMIUM names another place)")
    return CHROMIUM


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of a run with two images and one that failed."""
    folder = tmp_path_factory.mktemp("run")
    report = RunReport(RunOptions(Selection((folder / "in",)), folder, report=True))
    entries = []
    for name, pitch in (("few.tif", 60), ("many.tif", 20)):
        y, x = np.indices((300, 400))
        labels = 1 + y // pitch * (400 // pitch + 1) + x // pitch
        labels[(y % pitch < 4) | (x % pitch < 4)] = 0
        path = folder / f"{name}_label.tiff"
        write_labels(path, [labels], height=300, width=400)
        areas = np.bincount(labels.ravel())[1:]
        image = ArraySource((labels * 40 % 251).astype(np.uint8))
        report.add(name, draw_figures(image, path, areas[areas > 0], (0.5, 0.5)))
        entries.append(
            LedgerEntry(
                file=name, status="done", started_at="", height=300, width=400, wall_s=1.5,
                n_cells=int(np.count_nonzero(areas)), warnings=("a warning",) * (name == "few.tif"),
            )
        )  # fmt: skip
    error = "torn.tif: found an empty file, expected an image; copy it again"
    entries.append(LedgerEntry(file="torn.tif", status="failed", started_at="", error=error))
    report.write(entries, Provenance({"name": "fast"}, {"a": "0" * 64}, "cpu"))
    report.close()
    return folder / "report.html"


def _run(chromium, tmp_path, *options):
    command = [chromium, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)


@pytest.mark.parametrize("width", [1280, 400])
def test_page_shows_sorts_and_logs_no_error(chromium, report, tmp_path, width):
    page = tmp_path / "page.html"
    page.write_text(report.read_text("utf-8").replace("</body>", f"{PROBE}</body>"), "utf-8")
    done = _run(chromium, tmp_path, f"--window-size={width},900", "--dump-dom", page.as_uri())
    assert "CONSOLE" not in done.stderr
    _, _, text = done.stdout.partition('<pre id="probe">')
    found = json.loads(text.partition("</pre>")[0])
    assert found["before"] == ["few.tif", "many.tif", "torn.tif"]
    assert found["ascending"] == ["few.tif", "many.tif", "torn.tif"]
    assert found["descending"] == ["many.tif", "few.tif", "torn.tif"]
    assert found["thumbs"] == 4
    assert found["viewer"] == 400
    assert found["alts"]
    assert found["wide"] <= 0
    assert "torn.tif: found an empty file" in found["failed"]
    assert not found["title"].startswith("ERROR")


def test_page_is_not_blank(chromium, report, tmp_path):
    shot = tmp_path / "page.png"
    _run(chromium, tmp_path, "--window-size=1280,1000", f"--screenshot={shot}", report.as_uri())
    assert np.unique(cv2.imread(str(shot)).reshape(-1, 3), axis=0).shape[0] > 100
    assert Path(shot).stat().st_size > 10_000
