"""OME-Zarr labels, as the models of the specification and zarr read them."""

import errno
import os

import numpy as np
import pytest

from mediar_infer.errors import OutputError
from mediar_infer.exports.earlier import remove_exports
from mediar_infer.exports.label_rows import ArrayLabelRows
from mediar_infer.exports.options import ExportOptions
from mediar_infer.exports.zarr_labels import write_zarr

zarr = pytest.importorskip("zarr", reason="zarr is not installed")


@pytest.fixture
def labels(rng):
    array = rng.integers(0, 70_000, (700, 900))
    array[:, 450:] = 0
    return array


def rows_of(labels, pixel_size_um=None):
    rows = ArrayLabelRows(labels)
    rows.pixel_size_um = pixel_size_um
    return rows


def test_levels_take_every_second_pixel_and_state_their_scale(tmp_path, labels):
    path = tmp_path / "a.ome.zarr"
    write_zarr(path, rows_of(labels), (0.325, 0.325))
    group = zarr.open_group(path / "labels" / "cells", mode="r")
    (multiscale,) = group.attrs["ome"]["multiscales"]
    assert [axis["unit"] for axis in multiscale["axes"]] == ["micrometer"] * 2
    for k, level in enumerate(multiscale["datasets"]):
        array = group[level["path"]]
        assert array.dtype == np.uint32
        np.testing.assert_array_equal(array[:], labels[:: 2**k, :: 2**k])
        scale = level["coordinateTransformations"][0]["scale"]
        assert scale == [0.325 * 2**k, 0.325 * 2**k]
    assert max(array.shape) <= 256


def test_models_of_the_specification_accept_it(tmp_path, labels):
    models = pytest.importorskip("ome_zarr_models", reason="ome-zarr-models is not installed")
    write_zarr(tmp_path / "a.ome.zarr", rows_of(labels), (0.5, 0.5))
    for place, expected in (("labels", "Labels"), ("labels/cells", "ImageLabel")):
        group = zarr.open_group(tmp_path / "a.ome.zarr" / place, mode="r")
        assert type(models.open_ome_zarr(group)).__name__ == expected


def test_rows_of_several_shards_give_the_same_levels(tmp_path, monkeypatch, labels):
    from mediar_infer.exports import zarr_labels

    monkeypatch.setattr(zarr_labels, "_CHUNK", 64)
    monkeypatch.setattr(zarr_labels, "_SHARD", 128)
    write_zarr(tmp_path / "a.ome.zarr", rows_of(labels))
    group = zarr.open_group(tmp_path / "a.ome.zarr" / "labels" / "cells", mode="r")
    for k in range(3):
        np.testing.assert_array_equal(group[f"s{k}"][:], labels[:: 2**k, :: 2**k])


def test_labels_go_into_an_image_and_replace_older_ones(tmp_path, labels):
    path = tmp_path / "a.ome.zarr"
    image = zarr.open_group(path, mode="w", zarr_format=3)
    image.attrs["ome"] = {"version": "0.5", "multiscales": [{"name": "image"}]}
    image.create_array("s0", data=np.ones((700, 900)))
    zarr.open_group(path / "labels", mode="w", zarr_format=3).attrs["ome"] = {
        "version": "0.5", "labels": ["nuclei"],
    }  # fmt: skip
    for written in (labels * 0, labels):
        write_zarr(path, rows_of(written))
    assert zarr.open_group(path / "labels", mode="r").attrs["ome"]["labels"] == ["nuclei", "cells"]
    cells = zarr.open_group(path / "labels" / "cells", mode="r")
    assert cells.attrs["ome"]["image-label"]["source"] == {"image": "../../"}
    assert cells["s0"][:].max() == labels.max()
    assert zarr.open_group(path, mode="r")["s0"].shape == (700, 900)
    assert not list((path / "labels").glob(".*.part"))


def test_labels_that_no_reader_lists_count_as_missing(tmp_path, labels):
    path, options = tmp_path / "zarr" / "a.ome.zarr", ExportOptions(zarr=True)
    write_zarr(path, rows_of(labels))
    assert not options.without_files(tmp_path, "a").zarr
    zarr.open_group(path / "labels", mode="r+").attrs["ome"] = {"version": "0.5", "labels": []}
    assert (path / "labels" / "cells").is_dir()
    assert options.without_files(tmp_path, "a").zarr
    (path / "labels" / "zarr.json").write_text("{}")
    assert options.without_files(tmp_path, "a").zarr


def test_earlier_labels_that_cannot_be_removed_are_an_error(tmp_path, monkeypatch, labels):
    path = tmp_path / "zarr" / "a.ome.zarr"
    write_zarr(path, rows_of(labels))

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", refuse)
        with pytest.raises(OutputError, match=r"a\.ome\.zarr: cannot be written \(Permission"):
            remove_exports(tmp_path, "a")
    remove_exports(tmp_path, "a")
    assert not path.exists()


@pytest.mark.parametrize("others", [["s0"], ["labels/nuclei"], ["s0", "labels/nuclei"]])
def test_only_our_labels_are_removed_from_a_group_that_holds_more(tmp_path, labels, others):
    path = tmp_path / "zarr" / "a.ome.zarr"
    write_zarr(path, rows_of(labels))
    for name in others:
        (path / name).mkdir()
    for _ in range(2):
        remove_exports(tmp_path, "a")
        assert not (path / "labels" / "cells").exists()
        assert all((path / name).is_dir() for name in others)


def test_a_folder_that_is_no_zarr_is_left_alone(tmp_path, labels):
    (tmp_path / "a.ome.zarr").mkdir()
    (tmp_path / "a.ome.zarr" / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match=r"a\.ome\.zarr: found something that is no zarr group"):
        write_zarr(tmp_path / "a.ome.zarr", rows_of(labels))
    assert (tmp_path / "a.ome.zarr" / "mine.txt").read_text() == "keep"
