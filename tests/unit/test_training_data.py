"""Manifest, sampling weights, and loading with cached flows."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from mediar_infer.errors import ImageReadError, ShapeError, UsageError
from mediar_infer.flows import compute_unit_flow
from mediar_infer.training.data import (
    ImageRecord,
    compute_sampling_weights,
    load_samples,
    read_manifest,
)

HEADER = "id,split,modality,source_repo,licence,image,label"


def make_record(image_id="dsb_1", modality="fluorescence", repo="dsb", folder=Path()):
    return ImageRecord(
        image_id, "train", modality, repo, folder / f"{image_id}.png", folder / f"{image_id}.tiff"
    )


def write_image(record, height=24, width=20):
    labels = np.zeros((height, width), np.uint16)
    labels[4:11, 5:10] = 1
    cv2.imwrite(str(record.image_path), (100 * labels + 20).astype(np.uint8))
    tifffile.imwrite(record.label_path, labels)
    return labels


def write_manifest(folder, *lines):
    (folder / "manifest.csv").write_text("\n".join((HEADER, *lines)) + "\n")


def test_manifest_keeps_only_the_asked_split(tmp_path):
    write_manifest(
        tmp_path,
        "dsb_1,train,fluorescence,a/b,CC0,images/1.png,labels/1.tiff",
        "dsb_2,val,fluorescence,a/b,CC0,images/2.png,labels/2.tiff",
    )
    (record,) = read_manifest(tmp_path, "train")
    assert record.image_id == "dsb_1"
    assert record.image_path == tmp_path / "images" / "1.png"
    assert record.label_path == tmp_path / "labels" / "1.tiff"


def test_missing_manifest_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"manifest\.csv: no such file"):
        read_manifest(tmp_path, "train")


def test_missing_column_is_named(tmp_path):
    (tmp_path / "manifest.csv").write_text("id,split,modality,source_repo,image\n")
    with pytest.raises(UsageError, match=r"\['label'\] are missing"):
        read_manifest(tmp_path, "train")


def test_empty_split_is_an_error(tmp_path):
    write_manifest(tmp_path, "dsb_1,train,fluorescence,a/b,CC0,1.png,1.tiff")
    with pytest.raises(UsageError, match="no image of split 'test'"):
        read_manifest(tmp_path, "test")


@pytest.mark.parametrize(
    ("image_id", "role"),
    [
        ("dsb_1", "public"),
        ("bbbc039_A1_s2", "public"),
        ("wbc1_007", "target"),
        ("generated_1_2", "generated"),
    ],
)
def test_role_follows_the_source(image_id, role):
    assert make_record(image_id).role == role


def test_weights_fall_with_the_root_of_the_count():
    records = [make_record(modality="common")] * 4 + [make_record(modality="rare")]
    weights = compute_sampling_weights(records)
    # 4 images of 4**-0.5 = 0.5 each, one of 1: sum 3
    np.testing.assert_allclose(weights, [1 / 6] * 4 + [1 / 3])


def test_sources_of_one_modality_are_counted_apart():
    records = [make_record(repo="a")] * 4 + [make_record(repo="b")]
    assert compute_sampling_weights(records)[-1] == pytest.approx(1 / 3)


def test_sample_holds_normalised_image_labels_and_flow(tmp_path):
    record = make_record(folder=tmp_path)
    labels = write_image(record)
    (sample,) = load_samples([record], tmp_path / "cache")
    assert sample.image.shape == (24, 20, 3)
    assert sample.image.dtype == np.uint8
    np.testing.assert_array_equal(sample.image[..., 0], 255 * labels)
    np.testing.assert_array_equal(sample.labels, labels)
    expected = compute_unit_flow(labels.astype(np.int32))
    np.testing.assert_allclose(sample.unit_flow, expected, atol=1e-3)


def test_flow_is_read_from_the_cache(tmp_path):
    record = make_record(folder=tmp_path)
    write_image(record)
    load_samples([record], tmp_path / "cache")
    (cached,) = (tmp_path / "cache").iterdir()
    np.save(cached, np.full((2, 24, 20), 7, np.float16))
    (sample,) = load_samples([record], tmp_path / "cache")
    assert (sample.unit_flow == 7).all()


def test_changed_labels_never_get_the_old_flow(tmp_path):
    record = make_record(folder=tmp_path)
    write_image(record)
    load_samples([record], tmp_path / "cache")
    tifffile.imwrite(record.label_path, np.zeros((24, 20), np.uint16))
    (sample,) = load_samples([record], tmp_path / "cache")
    assert not sample.unit_flow.any()


def test_unequal_sizes_are_an_error(tmp_path):
    record = make_record(folder=tmp_path)
    write_image(record)
    tifffile.imwrite(record.label_path, np.zeros((24, 21), np.uint16))
    with pytest.raises(ShapeError, match=r"dsb_1\.tiff: labels are \(24, 21\)"):
        load_samples([record], tmp_path / "cache")


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_unreadable_file_is_named(tmp_path, suffix):
    record = make_record(folder=tmp_path)
    write_image(record)
    (tmp_path / f"dsb_1.{suffix}").write_bytes(b"not an image")
    with pytest.raises(ImageReadError, match=rf"dsb_1\.{suffix}"):
        load_samples([record], tmp_path / "cache")


def test_training_split_of_the_cell_images_shares_nothing_with_val(cells_dir):
    train, val = read_manifest(cells_dir, "train"), read_manifest(cells_dir, "val")
    assert (len(train), len(val)) == (636, 71)
    assert not {r.image_path for r in train} & {r.image_path for r in val}
    assert {r.role for r in train} == {"public", "target"}
