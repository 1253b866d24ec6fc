"""Label files as napari's layers; what napari makes of them is in tests/consumers."""

import csv

import numpy as np
import pytest
import tifffile
from fakes import draw_cells

from mediar_infer.cli import main
from mediar_infer.demo.scenes import make_scene
from mediar_infer.images.geometry import Geometry
from mediar_infer.labels.files import write_labels
from mediar_infer.napari_plugin.reader import get_label_reader

UM = 0.325
PLACE = Geometry((UM / 1000, UM / 1000), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))


@pytest.fixture
def labels(rng):
    return draw_cells(rng, 100, 130)


def write(path, labels, **settings):
    path.parent.mkdir(exist_ok=True)
    write_labels(path, [labels], height=labels.shape[0], width=labels.shape[1], **settings)
    return str(path)


def test_a_label_file_is_a_labels_layer(tmp_path, labels):
    facts = {"mediar_infer": "0.1.0", "weights": {"a": "b"}}
    path = write(tmp_path / "cells_label.tiff", labels, geometry=PLACE, facts=facts)
    ((data, settings, kind),) = get_label_reader(path)(path)
    assert kind == "labels"
    assert (data == labels).all()
    assert settings["scale"] == pytest.approx((UM, UM))
    assert settings["units"] == ("um", "um")
    assert (settings["name"], settings["metadata"]) == ("cells_label", {"mediar_infer": facts})
    assert "features" not in settings


def test_an_unknown_pixel_size_is_no_scale(tmp_path, labels):
    path = write(tmp_path / "cells_label.tiff", labels)
    ((_, settings, _),) = get_label_reader([path])([path])
    assert settings == {"name": "cells_label"}


def test_the_table_beside_it_becomes_features(tmp_path, labels):
    path = write(tmp_path / "cells_label.tiff", labels, geometry=PLACE)
    write(tmp_path / "others_label.tiff", labels)
    assert (
        main(["export", str(tmp_path), "-o", str(tmp_path), "--table", "cells.csv", "--quiet"]) == 0
    )
    ((_, settings, _),) = get_label_reader(path)(path)
    features = settings["features"]
    ids = np.unique(labels[labels > 0]).tolist()
    assert features["index"] == ids
    assert features["area_px"] == np.bincount(labels.ravel())[ids].tolist()
    assert set(map(type, features["touches_edge"])) == {bool}
    assert "image" not in features


@pytest.mark.parametrize("text", ["", "image,label\ncells,x\n", "image\ncells\n", "\0", "a\nb\n"])
def test_a_table_of_another_kind_is_left_out(tmp_path, labels, text):
    path = write(tmp_path / "cells_label.tiff", labels)
    (tmp_path / "cells.csv").write_text(text)
    ((_, settings, _),) = get_label_reader(path)(path)
    assert settings == {"name": "cells_label"}


def test_labels_that_another_program_saved_are_recognised(tmp_path, labels):
    beside, alone = tmp_path / "a_label.tif", tmp_path / "alone" / "b_label.png"
    tifffile.imwrite(beside, labels.astype(np.uint16))
    (tmp_path / "a.png").write_bytes(b"")
    alone.parent.mkdir()
    tifffile.imwrite(alone.with_suffix(".tif"), labels.astype(np.int32))
    assert get_label_reader(str(beside)) is not None
    assert get_label_reader(str(alone.with_suffix(".tif"))) is not None


def test_everything_else_is_left_to_others(tmp_path, labels):
    image = tmp_path / "dye_label.tif"
    tifffile.imwrite(image, make_scene("fluorescence", 200, 200, 0)[0])
    plain = write(tmp_path / "cells.tif", labels)
    damaged = tmp_path / "bad_label.tiff"
    damaged.write_bytes(b"II*\0")
    stack = [plain, write(tmp_path / "a_label.tiff", labels)]
    for path in (str(image), plain, str(damaged), str(tmp_path / "no_label.tiff"), stack):
        assert get_label_reader(path) is None, path


def test_table_is_read_as_export_writes_it(tmp_path):
    with (tmp_path / "cells.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["image", "label", "area_um2"], ["a", "3", ""], ["b", "1", "2"]]
        )
    path = write(tmp_path / "a_label.tiff", np.full((9, 9), 3))
    ((_, settings, _),) = get_label_reader(path)(path)
    assert settings["features"]["index"] == [3]
    assert np.isnan(settings["features"]["area_um2"][0])
