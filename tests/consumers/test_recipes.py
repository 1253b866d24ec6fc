"""Sopa, LazySlide and SpatialData themselves run the recipes of docs/hosts.md.

They are installed by ``make hosts``; generated slides and a network that knows them take the place
of images and weights.
"""

import csv

import numpy as np
import pytest
import tifffile
from fakes import FunctionBackend
from hosts_page import recipe
from slides import SlideScene, decode_scene

from mediar_infer.cli import main
from mediar_infer.hosts import patches
from mediar_infer.labels.files import write_labels
from mediar_infer.segmenter import Segmenter

pytestmark = pytest.mark.filterwarnings("default")  # those of the hosts are not ours
SCENE = SlideScene(500, 700, pitch=40)
UM = 0.5


@pytest.fixture(autouse=True)
def in_folder(monkeypatch, tmp_path):
    """A network that knows the scene, and a folder for what the recipes read and write."""
    member = FunctionBackend(decode_scene)
    monkeypatch.setattr(patches, "load_segmenter", lambda _, config: Segmenter([member], config))
    monkeypatch.chdir(tmp_path)


def areas(labels):
    return np.bincount(labels.ravel())[1:]


def test_sopa():
    pytest.importorskip("sopa", reason="needs Sopa: make hosts")
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel

    pixels = np.moveaxis(SCENE.render_rows(0, SCENE.height), -1, 0)
    image = Image2DModel.parse(pixels, dims=("c", "y", "x"), c_coords=["R", "G", "DAPI"])
    block = recipe("Sopa").replace("patch_width=2000", "patch_width=300")
    block = block.replace('["DAPI"]', '["R", "G", "DAPI"]')
    found = {"sdata": SpatialData(images={"image": image})}
    exec(block, found)
    cells = found["sdata"]["mediar_boundaries"]
    assert len(found["sdata"]["image_patches"]) > 1
    assert len(cells) == SCENE.n_cells
    assert sorted(cells.area) == pytest.approx(
        sorted(areas(SCENE.label_rows(0, SCENE.height))), rel=0.03
    )


def test_lazyslide():
    pytest.importorskip("lazyslide", reason="needs LazySlide: make hosts")
    from shapely import box

    scene = SlideScene(435, 614, pitch=40)  # covered by 2 × 3 tiles of 256, 179 apart
    pixels = scene.render_rows(0, scene.height)
    resolution = {"resolution": (1e4 / UM, 1e4 / UM), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite("slide.tif", pixels, tile=(256, 256), photometric="rgb", **resolution)
    # The scene is no tissue to LazySlide: all of it is declared to be.
    block = recipe("LazySlide").replace(
        "zs.pp.find_tissues(wsi)", 'add_tissues(wsi, "tissues", [box(0, 0, 614, 435)])'
    )
    block = block.replace(
        "tile_tissues(wsi, 1024, overlap=0.1", "tile_tissues(wsi, 256, overlap=0.3"
    )
    from wsidata.io import add_tissues

    found = {"add_tissues": add_tissues, "box": box}
    exec(block, found)
    cells = found["wsi"]["cells"]
    true = scene.label_rows(0, scene.height)
    assert len(found["wsi"]["tiles"]) == 6
    assert len(cells) == scene.n_cells
    # Its outlines run through the centres of pixels.
    assert cells.area.mean() == pytest.approx(areas(true).mean(), rel=0.15)


def test_spatialdata(tmp_path):
    pytest.importorskip("spatialdata", reason="needs SpatialData: make hosts")
    from spatialdata import read_zarr

    labels = SCENE.label_rows(0, SCENE.height)
    (tmp_path / "labels").mkdir()
    write_labels(tmp_path / "labels" / "a_label.tiff", [labels], height=500, width=700)
    options = ("-o", "exported", "--geojson", "--table", "cells.csv", "--quiet")
    assert main(["export", "labels", *options]) == 0
    exec(recipe("SpatialData"), {})
    sdata = read_zarr("a.zarr")
    assert (sdata["cells"].values == labels).all()
    assert sorted(sdata["outlines"].area) == sorted(areas(labels))
    with (tmp_path / "exported" / "cells.csv").open(newline="") as file:
        assert len(sdata["table"]) == len(list(csv.DictReader(file))) == SCENE.n_cells
