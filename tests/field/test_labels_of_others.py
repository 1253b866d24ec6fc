"""Labels as other programs, and our own 'predict', leave them: read, refused, or warned of."""

import csv

import numpy as np
import pytest
import tifffile
from small_data import save_image, save_labels

from mediar_infer.cli import main
from mediar_infer.labels.files import write_labels
from mediar_infer.training.__main__ import main as train


def draw_cells(n_cells=5):
    """Square cells in a row."""
    labels = np.zeros((30, 12 * n_cells + 4), np.uint8)
    for i in range(n_cells):
        labels[10:20, 12 * i + 4 : 12 * i + 12] = i + 1
    return labels


def save(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, labels)


def evaluate(folder, predicted, true):
    save(folder / "predicted" / "a_label.tiff", predicted)
    save(folder / "true" / "a_label.tiff", true)
    return main(
        ["evaluate", str(folder / "predicted"), str(folder / "true"), "-o", str(folder / "scores")]
    )


def read_f1(folder):
    with (folder / "scores" / "scores.csv").open() as file:
        return [float(row["f1"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("value", [1, 255])
def test_evaluate_refuses_masks_as_truth(tmp_path, capsys, value):
    cells = draw_cells()

    assert evaluate(tmp_path, cells, np.where(cells > 0, value, 0).astype(np.uint8)) == 1
    told = capsys.readouterr().err
    assert f"found 5 separate regions, but no numbers other than {value}; expected a number" in told
    assert read_f1(tmp_path) == []


def test_evaluate_warns_of_predicted_masks_and_scores_them(tmp_path, capsys):
    cells = draw_cells()

    assert evaluate(tmp_path, np.where(cells > 0, 255, 0).astype(np.uint8), cells) == 0
    assert "WARNING a_label.tiff: found 5 separate regions" in capsys.readouterr().err
    assert read_f1(tmp_path)[0] == 0


def test_evaluate_refuses_truth_whose_background_has_a_number(tmp_path, capsys):
    assert evaluate(tmp_path, draw_cells(), draw_cells() + 1) == 1
    assert "found no pixel that is 0, and label 1 covers 79%" in capsys.readouterr().err


@pytest.mark.parametrize("axes", [np.s_[..., None], np.s_[None, ..., None]])
def test_evaluate_reads_labels_with_axes_of_length_1(tmp_path, axes):
    assert evaluate(tmp_path, draw_cells(), draw_cells()[axes]) == 0
    assert set(read_f1(tmp_path)) == {1.0}


@pytest.mark.parametrize("name", ["a_label.png", "a_label.TIF", "a_label.Tiff", "a.tif"])
def test_evaluate_finds_true_labels_of_other_names(tmp_path, name):
    predicted, true = tmp_path / "predicted", tmp_path / "true"
    save(predicted / "a_label.tiff", draw_cells())
    true.mkdir()
    if name.endswith("png"):
        import cv2

        cv2.imwrite(str(true / name), draw_cells())
    else:
        tifffile.imwrite(true / name, draw_cells())

    assert main(["evaluate", str(predicted), str(true), "-o", str(tmp_path / "scores")]) == 0
    assert set(read_f1(tmp_path)) == {1.0}


def test_evaluate_names_the_file_that_was_perhaps_meant(tmp_path, capsys):
    save(tmp_path / "predicted" / "a_label.tiff", draw_cells())
    save(tmp_path / "true" / "a_truth.tif", draw_cells())

    folders = [str(tmp_path / "predicted"), str(tmp_path / "true")]
    assert main(["evaluate", *folders, "-o", str(tmp_path / "scores")]) == 1
    assert "found only a_truth.tif" in capsys.readouterr().err


def test_training_does_not_take_its_own_predictions_for_truth(tmp_path, capsys):
    for name, value in (("a", 50), ("b", 60)):
        save_image(tmp_path / "images" / f"{name}.png", value)
        labels = tifffile.imread(save_labels(tmp_path / "labels" / f"{name}_label.tiff"))
        facts = {"mediar_infer": "0.1.0", "weights": {"from_phase1.safetensors": "12ab"}}
        path = tmp_path / "labels" / f"{name}_label.tiff"
        write_labels(path, [labels], height=12, width=16, facts=facts)
    output = str(tmp_path / "mine.safetensors")

    assert train(["tune", str(tmp_path / "images"), "-o", output]) in (1, 2)
    told = capsys.readouterr().err
    assert "a_label.tiff: predicted labels: found labels that mediar-infer 0.1.0 predicted" in told
    assert "--accept-predictions" in told
    table = str(tmp_path / "table.csv")
    assert train(["index", str(tmp_path / "images"), "-o", table]) == 1
    assert train(["index", str(tmp_path / "images"), "--accept-predictions", "-o", table]) == 0


@pytest.mark.parametrize(
    ("image", "label"),
    [("Images/{}.png", "Labels/{}_label.tif"), ("images/{}.png", "masks/{}.tif"),
     ("train/{}.png", "train/{}_label.tif"), ("images/{}.png", "labels/{}.tif")],
)  # fmt: skip
def test_training_folders_of_other_names_are_read(tmp_path, image, label):
    for name, value in (("a", 50), ("b", 60)):
        save_image(tmp_path / "in" / image.format(name), value)
        save_labels(tmp_path / "in" / label.format(name))

    assert train(["index", str(tmp_path / "in"), "-o", str(tmp_path / "table.csv")]) == 0
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 3
    assert len((tmp_path / "table.problems.csv").read_text().splitlines()) == 1


def test_challenge_refuses_masks_as_truth_before_anything_is_run(tmp_path, capsys):
    save_image(tmp_path / "in" / "a.png", shape=draw_cells().shape)
    save(tmp_path / "true" / "a_label.tiff", np.minimum(draw_cells(), 1))

    folders = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    assert main(["challenge", *folders, "--gt", str(tmp_path / "true")]) == 1
    assert "found 5 separate regions, but no numbers other than 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
