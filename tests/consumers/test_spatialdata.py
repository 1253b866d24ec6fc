"""SpatialData reads exported labels and the table, and both belong together."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mediar_infer.cli import main
from mediar_infer.labels.files import write_labels

PYTHON = os.environ.get("SPATIALDATA_PYTHON", sys.executable)
"""SpatialData wants newer versions of packages, and of Python, than this project needs."""

READ = """
import sys
import anndata, pandas, spatialdata, tifffile, zarr
from spatialdata.models import Labels2DModel, TableModel

labels_path, group_path, table_path = sys.argv[1:]
table = pandas.read_csv(table_path)
group = zarr.open_group(group_path, mode="r")["labels/cells"]
pixels = group["s0"][:]
scale = group.attrs["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"]
assert scale == [0.5, 0.5], scale
assert (pixels == tifffile.imread(labels_path)).all()
table["region"] = pandas.Categorical(["cells"] * len(table))
cells = anndata.AnnData(table[["area_um2", "perimeter"]].to_numpy(), obs=table[["region", "label"]])
cells.obs.index = cells.obs.index.astype(str)
cells = TableModel.parse(cells, region="cells", region_key="region", instance_key="label")
data = spatialdata.SpatialData(
    labels={"cells": Labels2DModel.parse(pixels, dims=("y", "x"))}, tables={"table": cells}
)
shapes = spatialdata.to_polygons(data["cells"])
areas = dict(zip(table["label"], table["area_px"]))
assert sorted(shapes["label"] if "label" in shapes else shapes.index) == sorted(areas)
print("read", len(shapes))
"""


def test_labels_and_table_belong_together(tmp_path):
    pytest.importorskip("zarr", reason="zarr is not installed")
    probe = subprocess.run(
        [PYTHON, "-c", "import spatialdata"], capture_output=True, text=True, check=False
    )
    if probe.returncode != 0:
        pytest.skip("needs SpatialData ($SPATIALDATA_PYTHON names a Python that has it)")
    rows, columns = np.indices((200, 220))
    labels = 1 + rows // 25 * 9 + columns // 25
    labels[(rows % 25 - 12) ** 2 + (columns % 25 - 12) ** 2 > 100] = 0
    path = tmp_path / "a_label.tiff"
    write_labels(path, [labels], height=200, width=220)
    arguments = ["export", str(path), "-o", str(tmp_path), "--quiet", "--pixel-size", "0.5"]
    assert main([*arguments, "--zarr", "--table", "cells.csv"]) == 0
    files = (path, tmp_path / "zarr" / "a.ome.zarr", tmp_path / "cells.csv")
    done = subprocess.run(
        [PYTHON, "-W", "ignore", "-c", READ, *map(str, files)],
        capture_output=True, text=True, check=False, cwd=Path(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["read", str(len(np.unique(labels)) - 1)]
