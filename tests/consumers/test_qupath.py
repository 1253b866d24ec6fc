"""GeoJSON by the keys that QuPath's importer reads, and by the pixels that its shapes cover."""

import gzip
import json
import math
import uuid

import numpy as np
import pytest

from mediar_infer.cli import main
from mediar_infer.labels.files import write_labels

OBJECT_TYPES = {"annotation", "detection", "cell", "tile"}
FEATURE_KEYS = {"type", "id", "geometry", "properties"}
PROPERTY_KEYS = {"objectType", "name", "color", "classification", "isLocked", "measurements"}
"""What the importer reads; anything else is ignored or, as ``object_type``, out of date."""


@pytest.fixture(params=["--geojson", "--gzip"])
def exported(request, tmp_path, rng):
    """Labels of many shapes, and the collection that is made of them."""
    rows, columns = np.indices((300, 320))
    labels = 1 + rows // 25 * 13 + columns // 25
    labels[(rows % 25 - 12) ** 2 + (columns % 25 - 12) ** 2 > 150] = 0
    labels[rng.random(labels.shape) < 0.02] = 0  # holes, crumbs and contacts by corners
    write_labels(tmp_path / "a_label.tiff", [labels], height=300, width=320)
    arguments = ["export", str(tmp_path / "a_label.tiff"), "-o", str(tmp_path), "--quiet"]
    assert main([*arguments, request.param, "--pixel-size", "0.5"]) == 0
    (path,) = (tmp_path / "geojson").iterdir()
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        # NaN and Infinity are no JSON, and are refused.
        collection = json.load(file, parse_constant=lambda name: pytest.fail(name))
    return labels, collection


def test_features_are_detections_with_numbers_and_ids_that_are_kept(exported):
    labels, collection = exported
    assert collection.keys() == {"type", "features"}
    assert collection["type"] == "FeatureCollection"
    assert len(collection["features"]) == len(np.unique(labels)) - 1
    ids = set()
    for feature in collection["features"]:
        assert feature.keys() == FEATURE_KEYS
        assert feature["type"] == "Feature"
        ids.add(str(uuid.UUID(feature["id"])))
        properties = feature["properties"]
        assert properties.keys() <= PROPERTY_KEYS
        assert properties["objectType"] in OBJECT_TYPES
        assert isinstance(properties["name"], str)
        for name, value in properties["measurements"].items():
            assert isinstance(name, str)
            assert math.isfinite(value)
    assert len(ids) == len(collection["features"])


def test_geometry_is_valid_and_covers_the_pixels_of_each_cell(exported):
    shapely = pytest.importorskip("shapely", reason="shapely is not installed")
    labels, collection = exported
    for feature in collection["features"]:
        geometry = feature["geometry"]
        assert geometry["type"] in ("Polygon", "MultiPolygon")
        shape = shapely.geometry.shape(geometry)
        assert shape.is_valid
        mask = labels == feature["properties"]["measurements"]["Label"]
        assert shape.area == np.count_nonzero(mask)
        y, x = np.nonzero(mask)
        assert shapely.contains_xy(shape, x + 0.5, y + 0.5).all()
