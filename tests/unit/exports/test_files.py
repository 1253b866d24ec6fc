"""Exported files: what their readers find in them, and nothing half-written."""

import csv
import errno
import gzip
import json
import os
import uuid
import zipfile

import numpy as np
import pytest
import tifffile
from roifile import ROI_TYPE, roiread
from shapely.geometry import shape

from mediar_infer.errors import OutputError
from mediar_infer.exports.cells import index_cells, iterate_cells
from mediar_infer.exports.export import export_labels
from mediar_infer.exports.geojson import writing_geojson
from mediar_infer.exports.label_rows import ArrayLabelRows
from mediar_infer.exports.options import ExportOptions, geojson_path, roi_path
from mediar_infer.exports.rois import writing_rois
from mediar_infer.labels.files import write_labels

RING = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 0], [0, 0, 0, 2]], np.uint8)


def write_all(labels, writing):
    rows = ArrayLabelRows(labels)
    with writing as add:
        for cell in iterate_cells(rows, index_cells(rows)):
            add(cell)


def test_rois_are_named_after_their_labels_and_traced_or_composite(tmp_path):
    write_all(RING, writing_rois(tmp_path / "a_rois.zip", 2))
    rois = {roi.name: roi for roi in roiread(tmp_path / "a_rois.zip")}
    assert sorted(rois) == ["0001", "0002"]
    assert rois["0002"].roitype == ROI_TYPE.TRACED
    assert sorted(rois["0002"].coordinates().tolist()) == [[3, 3], [3, 4], [4, 3], [4, 4]]
    assert rois["0001"].composite
    outer, hole = rois["0001"].coordinates(multi=True)
    assert (outer.max(), hole.min(), hole.max()) == (3, 1, 2)


def test_rois_beyond_16_bits_keep_their_place(tmp_path):
    labels = np.zeros((3, 70_000), np.uint8)
    labels[1, 40_000:40_005] = 1
    labels[1, 66_000] = 2
    write_all(labels, writing_rois(tmp_path / "a_rois.zip", 2))
    first, second = sorted(roiread(tmp_path / "a_rois.zip"), key=lambda roi: roi.name)
    assert set(first.subpixel_coordinates[:, 0]) == {40_000, 40_005}
    assert second.subpixel_coordinates[:, 0].max() == 66_001


@pytest.mark.slow
def test_more_rois_than_a_plain_zip_file_holds(tmp_path):
    labels = np.zeros((600, 600), np.uint32)
    labels[::2, ::2] = np.arange(1, 90_001).reshape(300, 300)
    write_all(labels, writing_rois(tmp_path / "a_rois.zip", 90_000))
    with zipfile.ZipFile(tmp_path / "a_rois.zip") as archive:
        assert len(archive.namelist()) == 90_000


def test_geojson_holds_detections_with_stable_ids_and_areas(tmp_path):
    write_all(RING, writing_geojson(tmp_path / "a.geojson", "a.tif", (0.5, 0.25)))
    collection = json.loads((tmp_path / "a.geojson").read_text("utf-8"))
    assert collection["type"] == "FeatureCollection"
    ring, dot = collection["features"]
    assert ring["id"] == str(uuid.uuid5(uuid.NAMESPACE_URL, "a.tif#1"))
    assert ring["properties"] == {
        "objectType": "detection",
        "name": "1",
        "measurements": {"Label": 1, "Area px^2": 8, "Area µm^2": 1.0},
    }
    assert shape(ring["geometry"]).area == 8
    assert len(ring["geometry"]["coordinates"]) == 2
    assert dot["geometry"]["coordinates"][0][0] == dot["geometry"]["coordinates"][0][-1]


def test_cell_in_two_parts_is_a_multipolygon(tmp_path):
    write_all(np.array([[1, 0, 1]]), writing_geojson(tmp_path / "a.geojson", "a"))
    (feature,) = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert feature["geometry"]["type"] == "MultiPolygon"
    assert shape(feature["geometry"]).area == 2


def test_compressed_geojson_is_the_same_and_equal_each_time(tmp_path):
    for name in ("a.geojson", "a.geojson.gz", "b.geojson.gz"):
        write_all(RING, writing_geojson(tmp_path / name, "a"))
    packed = (tmp_path / "a.geojson.gz").read_bytes()
    assert gzip.decompress(packed) == (tmp_path / "a.geojson").read_bytes()
    assert packed == (tmp_path / "b.geojson.gz").read_bytes()


def test_labels_without_cells_give_valid_empty_files(tmp_path):
    write_labels(tmp_path / "a_label.tiff", [np.zeros((5, 6), int)], height=5, width=6)
    options = ExportOptions(rois=True, geojson=True, table=tmp_path / "c.csv")
    exported = export_labels(tmp_path / "a_label.tiff", "a", options, tmp_path / "out")
    assert len(exported.areas) == len(exported.columns["label"]) == 0
    geojson = geojson_path(tmp_path / "out", "a", is_packed=False)
    assert json.loads(geojson.read_text())["features"] == []
    with zipfile.ZipFile(roi_path(tmp_path / "out", "a")) as archive:
        assert archive.namelist() == []


def test_pixel_size_comes_from_the_label_file_unless_it_stands_for_an_unknown_one(tmp_path):
    for name, resolution in (("a", (10_000 / 0.325,) * 2), ("b", (10.0, 10.0))):
        tifffile.imwrite(
            tmp_path / f"{name}_label.tiff", RING, resolution=resolution,
            resolutionunit="CENTIMETER",
        )  # fmt: skip
    options = ExportOptions(table=tmp_path / "c.csv")
    areas = {
        name: export_labels(tmp_path / f"{name}_label.tiff", name, options, tmp_path)
        .columns["area_um2"][0]
        for name in "ab"
    }  # fmt: skip
    assert areas["a"] == pytest.approx(8 * 0.325**2, rel=1e-6)
    assert np.isnan(areas["b"])


@pytest.mark.parametrize("kind", ["rois", "geojson"])
def test_error_on_the_way_leaves_neither_a_new_file_nor_a_damaged_old_one(tmp_path, kind):
    path = tmp_path / "result"
    path.write_text("of an earlier run")
    writing = writing_rois(path, 2) if kind == "rois" else writing_geojson(path, "a")

    def fill_the_disk():
        with writing as add:
            rows = ArrayLabelRows(RING)
            add(next(iterate_cells(rows, index_cells(rows))))
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match="result: cannot be written"):
        fill_the_disk()
    assert [file.name for file in tmp_path.iterdir()] == ["result"]
    assert path.read_text() == "of an earlier run"


def test_table_is_read_back_as_it_was_measured(tmp_path):
    write_labels(tmp_path / "a_label.tiff", [RING], height=4, width=4)
    from mediar_infer.cli import main

    arguments = ["export", str(tmp_path / "a_label.tiff"), "-o", str(tmp_path), "--quiet"]
    assert main([*arguments, "--table", "c.csv", "--pixel-size", "0.5"]) == 0
    with (tmp_path / "c.csv").open(newline="") as file:
        ring, dot = csv.DictReader(file)
    assert (ring["image"], ring["label"], ring["area_px"], ring["area_um2"]) == (
        "a", "1", "8", "2.0",
    )  # fmt: skip
    assert float(ring["centroid_y"]) == 1.0
    assert (dot["bbox_top"], dot["bbox_right"], dot["touches_edge"]) == ("3", "4", "True")


def test_parquet_has_typed_columns(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    from mediar_infer.cli import main

    write_labels(tmp_path / "a_label.tiff", [RING], height=4, width=4)
    arguments = ["export", str(tmp_path), "-o", str(tmp_path), "--quiet"]
    assert main([*arguments, "--table", "c.parquet"]) == 0
    table = parquet.read_table(tmp_path / "c.parquet")
    assert table["area_px"].to_pylist() == [8, 1]
    assert table["area_um2"].to_pylist() == [None, None]
    assert str(table.schema.field("perimeter").type) == "double"


def test_table_has_mean_and_largest_intensity_of_every_channel(tmp_path, rng):
    from skimage.measure import regionprops_table

    from mediar_infer.cli import main

    labels = np.kron(np.arange(12).reshape(3, 4), np.ones((40, 30), int)).astype(np.uint16)
    image = rng.integers(0, 60_000, (4, *labels.shape), np.uint16)
    (tmp_path / "images").mkdir()
    metadata = {"axes": "CYX", "Channel": {"Name": ["a", "DAPI", "", "a"]}}
    tifffile.imwrite(tmp_path / "images" / "one.ome.tif", image, metadata=metadata)
    write_labels(tmp_path / "one_label.tiff", [labels], height=120, width=120)
    arguments = ["export", str(tmp_path / "one_label.tiff"), "-o", str(tmp_path), "--quiet"]
    options = ["--table", "c.csv", "--images", str(tmp_path / "images")]
    assert main([*arguments, *options]) == 0
    with (tmp_path / "c.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = regionprops_table(
        labels, np.moveaxis(image, 0, 2), properties=("intensity_mean", "intensity_max")
    )
    for k, name in enumerate(("a_0", "DAPI", "2", "a_3")):
        for column, prop in ((f"mean_{name}", "intensity_mean"), (f"max_{name}", "intensity_max")):
            found = [float(row[column]) for row in rows]
            np.testing.assert_allclose(found, expected[f"{prop}-{k}"], rtol=1e-12)


def test_image_of_another_size_fails_by_name_and_the_others_are_exported(tmp_path, caplog):
    from mediar_infer.cli import main

    (tmp_path / "images").mkdir()
    for name, side in (("a", 4), ("b", 5)):
        write_labels(tmp_path / f"{name}_label.tiff", [RING], height=4, width=4)
        image = np.ones((side, side), np.uint8)
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", image)
    arguments = ["export", str(tmp_path), "-o", str(tmp_path / "out"), "--table", "c.csv"]
    assert main([*arguments, "--images", str(tmp_path / "images")]) == 1
    rows = (tmp_path / "out" / "c.csv").read_text().splitlines()
    assert [row[0] for row in rows[1:]] == ["a", "a"]


def test_images_are_found_by_names_with_dots_kept(tmp_path, capsys):
    from mediar_infer.cli import main

    labels = np.zeros((8, 8), np.uint16)
    labels[2:5, 2:5] = 1
    for value, name in enumerate(("exp.w1", "exp.w2"), start=7):
        write_labels(tmp_path / f"{name}_label.tiff", [labels], height=8, width=8)
        (tmp_path / "images").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", np.full((8, 8), value, np.uint8))
    options = ["--table", "c.csv", "--images", str(tmp_path / "images")]
    assert main(["export", str(tmp_path), "-o", str(tmp_path / "out"), *options]) == 0
    rows = (tmp_path / "out" / "c.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["exp.w1", "exp.w2"]
    assert [row.rpartition(",")[2] for row in rows[1:]] == ["7.0", "8.0"]
    write_labels(tmp_path / "exp_label.tiff", [labels], height=8, width=8)
    assert main(["export", str(tmp_path), "-o", str(tmp_path / "out"), *options]) == 1
    assert "exp: found labels for exp.w1.tif and exp.w2.tif, expected one image" in (
        capsys.readouterr().err
    )


def test_geojson_of_a_name_that_is_not_text_is_written(tmp_path):
    path = tmp_path / "a.geojson"
    write_all(RING, writing_geojson(path, os.fsdecode(b"\xff.tif")))
    assert json.loads(path.read_text("utf-8"))["type"] == "FeatureCollection"
