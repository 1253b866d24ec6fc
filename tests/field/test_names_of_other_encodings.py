"""File names that are not UTF-8, as disks of other systems leave them."""

import os

import numpy as np
import pytest
import tifffile
from small_runs import RECIPE_HEAD

from mediar_infer import cli
from mediar_infer.training import __main__ as training
from mediar_infer.training.stages.sampling import read_clusters

LATIN = os.fsdecode(b"zell\xe9_label.tiff")


@pytest.fixture
def labels(tmp_path):
    folder = tmp_path / "labels"
    folder.mkdir()
    for name in ("a_label.tiff", LATIN):
        try:
            tifffile.imwrite(folder / name, np.eye(20, dtype=np.uint16))
        except OSError as error:
            pytest.skip(f"this file system refuses such names: {error}")
    return folder


def test_submission_refuses_the_name_in_one_line(labels, tmp_path, capsys):
    archive = tmp_path / "a.zip"
    assert cli.main(["submission", str(archive), "-l", str(labels)]) == 1
    finding, last = capsys.readouterr().out.splitlines()
    assert finding == (
        "zell\\udce9_label.tiff: output: found a name that is not UTF-8, expected one that zip can"
        " hold"
    )
    assert last == "REFUSED: 1 findings, nothing was written"
    assert not archive.exists()


_RECIPE = f"""{RECIPE_HEAD}[stages.only]
start = "random"
roles = ["target"]
steps = 1
batch_size = 1
crop_size = 64
learning_rate = 1e-3
final_learning_rate = 1e-4
"""


def test_training_takes_names_and_a_manifest_that_are_not_utf_8(tmp_path, weights_dir):
    for name in (b"zell\xe91", b"zell\xe92", b"zell\xe93"):
        stem = os.fsdecode(name)
        rows, columns = np.mgrid[:70, :70]
        labels = ((rows - 35) ** 2 + (columns - 35) ** 2 < 300).astype(np.uint16)
        try:
            tifffile.imwrite(tmp_path / f"{stem}.tif", labels * 50 + name[-1], metadata=None)
        except OSError as error:
            pytest.skip(f"this file system refuses such names: {error}")
        tifffile.imwrite(tmp_path / f"{stem}_label.tiff", labels)
    (tmp_path / "manifest.csv").write_bytes(
        b"id,image,label,modality,source\n"
        + b"".join(
            b"zell\xe9%d,zell\xe9%d.tif,zell\xe9%d_label.tiff,ph\xe4no,Z\xfcrich\n" % (i, i, i)
            for i in (1, 2, 3)
        )
    )
    (tmp_path / "tiny.toml").write_text(_RECIPE)
    table, weights = str(tmp_path / "table.csv"), str(weights_dir / "from_phase1.safetensors")
    options = ["--table", table, "--device", "cpu", "--quiet"]
    for command in (
        ["index", str(tmp_path), "-o", table, "--hold-out", "0.4", "--quiet"],
        ["select", weights, "-o", str(tmp_path / "scores.csv"), *options],
        ["discover", "--weights", weights, "-o", str(tmp_path / "clusters"), *options],
        ["relabel", "--weights", weights, "-o", str(tmp_path / "new"), *options],
        ["train", str(tmp_path / "tiny.toml"), "--run", str(tmp_path / "run"), *options],
    ):
        assert training.main(command) == 0, command
    for path in ("scores.csv", "clusters/clusters.csv", "new/relabelling.csv", "new/table.csv"):
        assert b"zell\xe9" in (tmp_path / path).read_bytes()
    assert len(read_clusters(tmp_path / "clusters" / "clusters.csv")) == 2
