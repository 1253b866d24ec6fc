"""Every command of a plain installation works without the packages of the extras, torch among them.

The shipped pair is used, as its exported graph is what makes torch superfluous on a CPU.
"""

import csv
import json
import re
import subprocess
import sys
import tomllib

import numpy as np
import pytest
import torch
from czi_files import Tile, czi_bytes
from fakes import tiny_state_dict
from folder_helpers import ROOT, names_of, noise, slide, subprocess_environment, write_image
from lif_files import lif_bytes, lif_image
from nd2_files import nd2_bytes

from mediar_infer import cli
from mediar_infer.cli import main
from mediar_infer.labels.files import write_labels
from mediar_infer.labels.reading import read_labels

IMPORTED_AS = {
    "segmentation-models-pytorch": "segmentation_models_pytorch",
    "openslide-python": "openslide",
}
ALSO = {"pandas", "timm", "lightning_utilities"}
"""Come with packages of the extras."""


def _extra_packages():
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    lines = [line for lines in extras.values() for line in lines]
    names = [re.match(r"[\w-]+", line)[0] for line in lines]
    return {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names} | ALSO


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Run ``mediar-infer``, and whatever it starts, with the extras' packages blocked."""
    folder = tmp_path_factory.mktemp("blocked")
    blocked = sorted(_extra_packages())
    assert {"torch", "matplotlib", "monai", "distributed"} < set(blocked)
    lines = ["import sys", f"sys.modules.update(dict.fromkeys({blocked!r}))"]
    (folder / "sitecustomize.py").write_text("\n".join(lines))

    def run(*arguments):
        environment = subprocess_environment(PYTHONPATH=f"{folder}:{ROOT}")
        command = [sys.executable, "-m", "mediar_infer", *map(str, arguments)]
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture(scope="module")
def predicted(plain, tmp_path_factory):
    """Folder with ``in``, ``out`` and ``true`` after a run of ``predict``."""
    folder = tmp_path_factory.mktemp("plain")
    write_image(folder / "in" / "a.png", slide()[0])
    write_labels(folder / "true" / "a_label.tiff", [slide()[1]], height=120, width=150)
    options = ("--plan", "fast", "--threads", "1", "--overlays")
    done = plain("predict", "-i", folder / "in", "-o", folder / "out", *options)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_command_is_tried_here():
    tried = set(re.findall(r'plain\(\s*"([\w-]+)"', (ROOT / __file__).read_text()))
    assert tried == set(cli._COMMANDS)


def test_predict_writes_labels_and_overlays(predicted):
    assert read_labels(predicted / "out" / "a_label.tiff").shape == (120, 150)
    assert names_of(predicted / "out" / "overlays") == ["a_label.png"]


@pytest.mark.parametrize(
    ("name", "data", "package", "extra"),
    [
        ("a.lif", lif_bytes(lif_image("A", np.eye(9, dtype="u1"), "YX")), "liffile", "formats"),
        ("a.nd2", nd2_bytes(np.eye(9, dtype="u1")[..., None]), "nd2", "formats"),
        ("a.mrxs", b"\xff\xd8\xff\xe0", "openslide", "slides"),
        ("a.dcm", bytes(128) + b"DICM", "openslide", "slides"),
    ],
)
def test_predict_names_the_extra_that_reads_a_format(plain, tmp_path, name, data, package, extra):
    (tmp_path / name).write_bytes(data)
    done = plain("predict", "-i", tmp_path / name, "-o", tmp_path / "out", "--quiet")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"and no package {package}, expected both; install it: python -m pip install" in line
    assert f"'mediar-infer[{extra}]', or export it as OME-TIFF" in line


def test_czi_is_read(plain, tmp_path):
    (tmp_path / "a.czi").write_bytes(czi_bytes([Tile(slide()[0])]))
    options = ("--plan", "fast", "--threads", "1")
    done = plain("predict", "-i", tmp_path, "-o", tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr


def test_predict_on_a_cluster_names_the_extra(plain, predicted, tmp_path):
    done = plain("predict", "-i", predicted / "in", "-o", tmp_path / "out", "--dask", "local:1")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "mediar-infer[dask]" in line


def test_evaluate_writes_its_tables_and_says_what_the_plot_lacks(plain, predicted, tmp_path):
    arguments = (predicted / "out", predicted / "true", "-o", tmp_path / "scores")
    done = plain("evaluate", *arguments)
    assert done.returncode == 0, done.stderr
    assert names_of(tmp_path / "scores") == ["scores.csv", "summary.csv"]
    with (tmp_path / "scores" / "scores.csv").open(newline="") as file:
        assert {row["image"] for row in csv.DictReader(file)} == {"a"}
    (line,) = (line for line in done.stderr.splitlines() if "scores.png" in line)
    assert re.match(r"WARNING scores\.png: .*matplotlib", line)


def test_info_and_weights_show_the_models(plain):
    shown = plain("info")
    assert (shown.returncode, shown.stdout.count("from_phase")) == (0, 2), shown.stderr
    listed = plain("weights", "list")
    assert (listed.returncode, listed.stdout.count("mit_b0")) == (0, 2), listed.stderr
    verified = plain("weights", "verify")
    assert (verified.returncode, verified.stdout.count("ok: ")) == (0, 2), verified.stderr


@pytest.mark.parametrize("action", ["graph", "convert"])
def test_weights_are_not_converted_without_torch(plain, tmp_path, action):
    options = ("-o", tmp_path) if action == "convert" else ()
    done = plain("weights", action, ROOT / "weights", *options)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"weights {action}: found no torch" in line
    assert "mediar-infer[gpu]" in line


def test_labels_are_those_of_a_process_with_torch(predicted, tmp_path):
    options = ("--plan", "fast", "--threads", "1", "--quiet")
    assert main(["predict", "-i", str(predicted / "in"), "-o", str(tmp_path), *options]) == 0
    labels = "a_label.tiff"
    np.testing.assert_array_equal(
        read_labels(tmp_path / labels), read_labels(predicted / "out" / labels)
    )


@pytest.mark.parametrize(
    ("weights", "options", "found"),
    [
        ("weights_dir", (), "a network without an exported graph: found no torch"),
        ("pickled", (), "a pickled state dict: found no torch"),
        (None, ("--device", "cuda"), "--device cuda: found no torch"),
        (None, ("--backend", "torch"), "--backend torch, precision auto: found no torch"),
    ],
)
def test_what_needs_torch_says_so_in_one_line(
    plain, request, predicted, tmp_path, weights, options, found
):
    if weights is not None:
        options = ("--weights", request.getfixturevalue(weights))
    done = plain("predict", "-i", predicted / "in", "-o", tmp_path / "out", *options)
    assert done.returncode == 2, done.stderr
    *_, line = done.stderr.splitlines()
    assert found in line
    assert "pip install 'mediar-infer[gpu]'" in line


@pytest.fixture
def pickled(tmp_path):
    """A weight file as torch writes it."""
    path = tmp_path / "a.pth"
    torch.save(tiny_state_dict(), path)
    return path


def test_demo_runs_to_its_score_table(plain, tmp_path):
    options = ("--size", "96", "--plan", "fast", "--threads", "1")
    done = plain("demo", "-o", tmp_path / "demo", *options)
    assert done.returncode == 0, done.stderr
    assert "F1 at IoU 0.5" in done.stdout


def test_challenge_judges_and_writes_its_page(plain, predicted, tmp_path):
    folders = ("-i", predicted / "in", "-o", tmp_path / "judged", "--gt", predicted / "true")
    options = ("--", "--plan", "fast", "--threads", "1")
    done = plain("challenge", *folders, *options)
    assert {"challenge.json", "report.html"} <= set(names_of(tmp_path / "judged")), done.stderr
    (record,) = json.loads((tmp_path / "judged" / "challenge.json").read_text())["images"]
    assert record["label"] is not None
    # A busy machine may be late.
    assert {finding["aspect"] for finding in record["findings"]} <= {"time"}


def test_submission_zips(plain, predicted, tmp_path):
    done = plain("submission", tmp_path / "a.zip", "-l", predicted / "out", "-i", predicted / "in")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "a.zip").is_file()


def test_grand_challenge_runs_a_job(plain, tmp_path):
    image = tmp_path / "input" / "images" / "generic-medical-image" / "a.tif"
    write_image(image, noise(40, 50))
    socket = {
        "slug": "generic-medical-image", "relative_path": "images/generic-medical-image",
        "super_kind": "Image",
    }  # fmt: skip
    inputs = [{"socket": socket, "interface": socket}]
    (tmp_path / "input" / "inputs.json").write_text(json.dumps(inputs))
    folders = ("-i", tmp_path / "input", "-o", tmp_path / "output")
    options = ("--plan", "fast", "--threads", "1")
    done = plain("grand-challenge", *folders, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    (labels,) = (tmp_path / "output").rglob("output.tif")
    assert read_labels(labels).shape == (40, 50)


def test_export_writes_table_and_outlines(plain, predicted, tmp_path):
    options = ("--geojson", "--table", "cells.csv")
    done = plain("export", predicted / "true" / "a_label.tiff", "-o", tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    assert "cells.csv" in names_of(tmp_path / "out")


def test_ledger_puts_parts_together(plain, predicted, tmp_path):
    options = ("--part", "1/1", "--plan", "fast", "--threads", "1")
    done = plain("predict", "-i", predicted / "in", "-o", tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    merged = plain("ledger", "merge", tmp_path / "out")
    assert (merged.returncode, merged.stdout) == (0, "1 parts, complete: 1 done\n"), merged.stderr
