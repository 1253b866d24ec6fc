"""File names that are not UTF-8, as disks of other systems leave them."""

import os

import numpy as np
import pytest
import tifffile

from mediar_infer import cli

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
