import argparse
import csv
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tifffile

from mediar_infer.commands.evaluate import add_arguments, read_image_manifest, run
from mediar_infer.errors import DataError, OutputError, UsageError
from mediar_infer.labels.metrics import evaluate_labels
from mediar_infer.labels.scoring import evaluate_folders, write_evaluation


@pytest.fixture
def cells(rng):
    """Three images of square cells: all found, half of them found, none found."""
    labels = np.zeros((60, 60), np.uint16)
    for number in range(16):
        y, x = 4 + number // 4 * 14, 4 + number % 4 * 14
        labels[y : y + 8, x : x + 8] = number + 1
    half = np.where(labels % 2 == 0, labels, 0).astype(np.uint16)
    return {
        "all": (labels, labels),
        "half": (labels, half),
        "none": (labels, np.zeros_like(labels)),
    }


@pytest.fixture
def folders(tmp_path, cells):
    true_dir, predicted_dir = tmp_path / "true", tmp_path / "predicted"
    for folder in (true_dir, predicted_dir):
        folder.mkdir()
    for stem, (true, predicted) in cells.items():
        tifffile.imwrite(true_dir / f"{stem}_label.tiff", true)
        tifffile.imwrite(predicted_dir / f"{stem}_label.tif", predicted)
    return predicted_dir, true_dir


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_text("id,split,modality\nall,val,phase\nhalf,val,bright\nnone,train,phase\n")
    return path


def parse(*options):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([str(option) for option in options])


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_pair_is_scored_as_by_the_metric(folders, cells):
    evaluation = evaluate_folders(*folders)
    assert [image.image for image in evaluation.images] == ["all", "half", "none"]
    assert evaluation.errors == {}
    for image in evaluation.images:
        assert list(image.scores) == evaluate_labels(*cells[image.image])


def test_mean_and_pooled_scores_differ_as_they_should(folders):
    group = evaluate_folders(*folders, thresholds=[0.5]).groups[0]
    assert (group.group, group.n_images) == ("all", 3)
    assert group.mean["precision"] == pytest.approx(2 / 3)
    assert group.mean["recall"] == pytest.approx(0.5)
    assert group.mean["f1"] == pytest.approx((1 + 2 / 3) / 3)
    assert group.median_f1 == pytest.approx(2 / 3)
    assert (group.pooled.tp, group.pooled.fp, group.pooled.fn) == (24, 0, 24)
    assert group.pooled.f1 == pytest.approx(2 / 3)


def test_files_that_cannot_be_scored_are_errors_and_the_rest_is_scored(folders, caplog):
    predicted_dir, true_dir = folders
    empty = np.zeros((60, 60), np.uint16)
    tifffile.imwrite(predicted_dir / "extra_label.tiff", empty)
    tifffile.imwrite(true_dir / "missing_label.tiff", empty)
    tifffile.imwrite(true_dir / "narrow_label.tiff", empty)
    tifffile.imwrite(predicted_dir / "narrow_label.tiff", empty[:, :50])
    tifffile.imwrite(predicted_dir / "all_label.tiff", empty)
    (true_dir / "torn_label.tiff").write_bytes(b"II*\0")
    tifffile.imwrite(predicted_dir / "torn_label.tiff", empty)
    (predicted_dir / "notes.txt").write_text("not a label file")
    (predicted_dir / ".half_label.tiff").write_text("hidden")
    evaluation = evaluate_folders(predicted_dir, true_dir)
    assert [image.image for image in evaluation.images] == ["half", "none"]
    assert list(evaluation.errors) == ["all", "extra", "missing", "narrow", "torn"]
    assert "found all_label.tif, all_label.tiff; expected one" in evaluation.errors["all"]
    assert "true: found nothing; expected one file extra_label" in evaluation.errors["extra"]
    assert "predicted: found nothing; expected one file missing" in evaluation.errors["missing"]
    assert "predicted labels are 60×50 pixels" in evaluation.errors["narrow"]
    assert "torn_label.tiff" in evaluation.errors["torn"]
    assert "narrow: predicted labels are 60×50" in caplog.text


def test_files_written_hold_every_number(folders, tmp_path):
    evaluation = evaluate_folders(*folders, groups={"all": "phase", "none": "phase"})
    paths = write_evaluation(tmp_path / "out", evaluation)
    assert [path.name for path in paths] == ["scores.csv", "summary.csv", "scores.png"]
    scores = read_csv(paths[0])
    assert len(scores) == 3 * 5
    assert scores[5] == {
        "image": "half",
        "threshold": "0.5",
        "n_true": "16",
        "n_pred": "8",
        "tp": "8",
        "fp": "0",
        "fn": "8",
        "precision": "1.0",
        "recall": "0.5",
        "f1": str(2 / 3),
    }
    summary = read_csv(paths[1])
    assert [(row["group"], row["n_images"], row["threshold"]) for row in summary] == [
        (group, n, threshold)
        for group, n in (("all", "3"), ("phase", "2"))
        for threshold in ("0.5", "0.6", "0.7", "0.8", "0.9")
    ]
    assert float(summary[5]["mean_f1"]) == 0.5
    assert float(summary[5]["pooled_recall"]) == 0.5
    plot = cv2.imread(str(paths[2]))
    assert plot.shape == (600, 900, 3)
    assert (plot != 255).any()


def test_evaluation_without_images_writes_headers_and_no_plot(tmp_path):
    for name in ("predicted", "true"):
        (tmp_path / name).mkdir()
    evaluation = evaluate_folders(tmp_path / "predicted", tmp_path / "true")
    paths = write_evaluation(tmp_path / "out", evaluation)
    assert [path.name for path in paths] == ["scores.csv", "summary.csv"]
    assert all(len(path.read_text().splitlines()) == 1 for path in paths)


def test_command_scores_groups_of_the_selected_rows(folders, manifest, tmp_path, caplog):
    out = tmp_path / "out"
    options = ["--manifest", manifest, "--group", "modality", "--where", "split=val"]
    with caplog.at_level("INFO"):
        assert run(parse(*folders, "-o", out, *options, "--thresholds", 0.5, 0.75)) == 0
    summary = read_csv(out / "summary.csv")
    assert [(row["group"], row["n_images"], float(row["threshold"])) for row in summary] == [
        (group, n, threshold)
        for group, n in (("all", "2"), ("bright", "1"), ("phase", "1"))
        for threshold in (0.5, 0.75)
    ]
    assert "all: 2 images, F1 at IoU 0.5: mean 0.8333, median 0.8333, pooled 0.8571" in caplog.text


def test_command_reports_unscored_images_by_its_exit_code(folders, tmp_path, caplog):
    (folders[0] / "all_label.tif").unlink()
    assert run(parse(*folders, "-o", tmp_path / "out")) == 1
    assert "1 images were not scored" in caplog.text
    assert len(read_csv(tmp_path / "out" / "scores.csv")) == 2 * 5


def test_command_fails_when_nothing_is_to_be_scored(tmp_path, caplog):
    (tmp_path / "empty").mkdir()
    assert run(parse(tmp_path / "empty", tmp_path / "empty", "-o", tmp_path / "out")) == 1
    assert "no image was scored" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--group", "modality"], "expected --manifest with them"),
        (
            ["--manifest", "MANIFEST", "--group", "colour"],
            "no column 'colour', expected one of id, split",
        ),
        (["--manifest", "MANIFEST", "--where", "val"], "--where val, expected COLUMN=VALUE"),
        (["--manifest", "MANIFEST", "--where", "split=vla"], "no row whose split is 'vla'"),
        (["--thresholds", "0"], r"thresholds \[0.0\]; expected IoU values"),
        (["--thresholds", "0.5", "50"], "expected IoU values above 0 and up to 1"),
    ],
)
def test_options_that_do_not_fit_are_named(folders, manifest, tmp_path, options, message):
    options = [str(manifest) if option == "MANIFEST" else option for option in options]
    with pytest.raises(UsageError, match=message):
        run(parse(*folders, "-o", tmp_path / "out", *options))


def test_missing_folder_is_named(folders, tmp_path):
    with pytest.raises(UsageError, match="nowhere: found no folder, expected one of NAME_label"):
        evaluate_folders(tmp_path / "nowhere", folders[1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no rows"),
        ("name,split\na,val\n", "found the columns name, split, expected a column 'id'"),
    ],
)
def test_manifest_without_ids_is_refused(tmp_path, content, message):
    path = tmp_path / "manifest.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_image_manifest(path)


def test_two_rows_for_one_image_are_refused(tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_text("id,split\na,val\nb,val\na,test\n")
    with pytest.raises(DataError, match="found 2 rows for a, expected one per image"):
        read_image_manifest(path)


def test_missing_manifest_is_wrong_use_and_an_unreadable_one_bad_data(tmp_path):
    with pytest.raises(UsageError, match=r"absent\.csv: found no such file.*--manifest"):
        read_image_manifest(tmp_path / "absent.csv")
    with pytest.raises(DataError, match="found a file that cannot be read"):
        read_image_manifest(tmp_path)


def test_unwritable_output_is_an_output_error(folders, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match=r"scores.csv: cannot be written"):
        run(parse(*folders, "-o", tmp_path / "out"))


def test_importing_the_command_imports_neither_scipy_nor_matplotlib():
    command = "mediar_infer.commands.evaluate"
    code = f"import sys, {command}; print({{'scipy', 'matplotlib'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("row", ["half", "half,val", "half,val,bright,more"])
def test_manifest_row_of_another_length_is_refused(folders, manifest, tmp_path, row):
    with manifest.open("a") as file:
        file.write(f"{row}\n")
    options = (*folders, "-o", tmp_path, "--manifest", manifest, "--group", "modality")
    with pytest.raises(DataError, match=r"row 4 .* expected one per column"):
        run(parse(*options))
