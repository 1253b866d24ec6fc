"""A folder that holds label files beside its images: ``predict`` leaves the label files alone."""

import numpy as np
import pytest
import tifffile
from folder_helpers import latest_records, names_of, noise, write_image

from mediar_infer import cli
from mediar_infer.images.listing import list_images
from mediar_infer.labels.files import write_labels

LABELS = np.eye(40, 50, dtype=np.uint16)


def _skipped(folder):
    images, skipped = list_images(folder)
    return [path.name for path in images], {each.path.name: each.reason for each in skipped}


def test_predict_does_not_segment_the_labels_beside_its_images(weights_dir, tmp_path, capsys):
    write_image(tmp_path / "in" / "a.png", noise(40, 50))
    tifffile.imwrite(tmp_path / "in" / "a_label.tif", LABELS)
    options = ("-i", tmp_path / "in", "-o", tmp_path / "out", "--weights", weights_dir)
    arguments = map(str, (*options, "--plan", "fast", "--threads", "1"))
    assert cli.main(["predict", *arguments]) == 0
    assert names_of(tmp_path / "out") == ["a_label.tiff", "ledger.jsonl", "summary.json"]
    reason = "label file of a.png by its name; rename it to segment it"
    folder = tmp_path / "in"
    assert f"WARNING {folder}: skipped 1 label file(s): a_label.tif" in capsys.readouterr().err
    record = latest_records(tmp_path / "out")["a_label.tif"]
    assert (record["status"], record["error"]) == ("skipped", reason)


@pytest.mark.parametrize("name", ["a_label.tif", "a_label.png", "A_label.TIFF", "a_label.mha"])
def test_label_file_is_recognised_by_the_image_beside_it(tmp_path, name):
    (tmp_path / "a.ome.tif").touch()
    (tmp_path / "A.png").touch()
    (tmp_path / name).touch()
    images, skipped = _skipped(tmp_path)
    assert sorted(images) == ["A.png", "a.ome.tif"]
    assert list(skipped) == [name]


def test_label_file_of_a_name_with_dots_is_recognised_by_its_own_image(tmp_path):
    for name in ("exp.w1.tif", "exp.w2.tif", "exp.w1_label.png"):
        (tmp_path / name).touch()
    images, skipped = _skipped(tmp_path)
    assert images == ["exp.w1.tif", "exp.w2.tif"]
    reason = "label file of exp.w1.tif by its name; rename it to segment it"
    assert skipped == {"exp.w1_label.png": reason}


def test_label_file_without_its_image_is_recognised_by_what_made_it(tmp_path):
    write_labels(tmp_path / "a_label.tiff", [LABELS], height=40, width=50)
    assert _skipped(tmp_path) == (
        [], {"a_label.tiff": "label file that mediar-infer wrote"},
    )  # fmt: skip


def test_image_of_such_a_name_stays_an_image(tmp_path):
    """A dye is a label, too."""
    tifffile.imwrite(tmp_path / "red_label.tif", LABELS, software="microscope")
    (tmp_path / "damaged_label.tif").write_bytes(b"II*\0")
    (tmp_path / "blue_label.png").touch()
    assert _skipped(tmp_path)[0] == ["blue_label.png", "damaged_label.tif", "red_label.tif"]


def test_label_file_that_is_named_alone_is_segmented(tmp_path):
    write_labels(tmp_path / "a_label.tiff", [LABELS], height=40, width=50)
    assert list_images(tmp_path / "a_label.tiff") == ([tmp_path / "a_label.tiff"], [])
