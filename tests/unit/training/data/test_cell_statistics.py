import argparse
import csv

import cv2
import numpy as np
import pytest
from skimage.draw import disk, ellipse
from skimage.measure import regionprops_table

from mediar_infer.errors import ShapeError, UsageError
from mediar_infer.labels.files import write_labels
from mediar_infer.training.commands import stats as stats_command
from mediar_infer.training.data.candidates import CandidateImage, write_data_manifest
from mediar_infer.training.data.cell_statistics import measure_cells, median_diameter
from mediar_infer.training.data.index import index_folders
from mediar_infer.training.data.table import write_table


def run(*arguments):
    parser = argparse.ArgumentParser()
    stats_command.add_arguments(parser)
    return stats_command.run(parser.parse_args([str(each) for each in arguments]))


def save(path, labels):
    labels = np.asarray(labels)
    write_labels(path, [labels], height=labels.shape[0], width=labels.shape[1])


@pytest.mark.parametrize("with_images", [True, False])
def test_command_measures_images_of_one_name_in_several_folders(tmp_path, with_images):
    for number, place in enumerate(("train", "test"), start=1):
        for name in ("0", "1"):
            labels = np.zeros((12, 16), np.uint16)
            labels[2:4, 2 : 3 + number] = 1
            save(tmp_path / "data" / place / f"{name}_label.tiff", labels)
            if with_images:
                cv2.imwrite(str(tmp_path / "data" / place / f"{name}.png"), np.ones((12, 16)))
    assert run(tmp_path / "data", "-o", tmp_path / "out") == 0
    lines = (tmp_path / "out" / "cells.csv").read_text().splitlines()[1:]
    assert sorted(int(line.rpartition(",")[2]) for line in lines) == [4, 4, 6, 6]
    assert len({line.partition(",")[0] for line in lines}) == 4


def test_round_cell_measures_one_one_and_its_area():
    labels = np.zeros((60, 60), np.int32)
    labels[disk((30, 30), 20)] = 7

    cells = measure_cells(labels)

    assert cells.ids.tolist() == [7]
    assert cells.cell_size.tolist() == [(labels > 0).sum()]
    assert cells.eccentricity[0] == pytest.approx(1, abs=1e-3)
    assert cells.solidity[0] > 0.95


def test_eccentricity_is_short_axis_by_long_axis_in_any_direction():
    labels = np.zeros((120, 120), np.int32)
    labels[ellipse(40, 40, 30, 10)] = 1
    labels[ellipse(80, 80, 30, 10, rotation=0.7)] = 2

    assert measure_cells(labels).eccentricity == pytest.approx([1 / 3, 1 / 3], abs=0.02)


def test_dented_cell_has_solidity_of_area_by_hull():
    labels = np.zeros((8, 8), np.int32)
    labels[1:7, 1:7] = 1
    labels[1:7, 3:5] = 0  # two bars of one id: 24 of the 36 pixels of their hull

    assert measure_cells(labels).solidity.tolist() == [24 / 36]


def test_measures_agree_with_scikit_image(rng):
    noise = cv2.GaussianBlur(rng.random((200, 200)).astype(np.float32), (0, 0), 5)
    labels = cv2.connectedComponents((noise > np.median(noise)).astype(np.uint8))[1]
    labels[np.isin(labels, np.flatnonzero(np.bincount(labels.ravel()) < 30))] = 0
    names = ("area", "solidity", "axis_minor_length", "axis_major_length")
    theirs = regionprops_table(labels, properties=names)

    ours = measure_cells(labels)

    assert len(ours.ids) > 10
    np.testing.assert_array_equal(ours.cell_size, theirs["area"])
    np.testing.assert_allclose(ours.solidity, theirs["solidity"], rtol=1e-12)
    ratio = theirs["axis_minor_length"] / theirs["axis_major_length"]
    np.testing.assert_allclose(ours.eccentricity, ratio, atol=0.02)


@pytest.mark.parametrize(("shape", "ratio"), [((1, 1), 1), ((1, 5), 1 / 5), ((4, 1), 1 / 4)])
def test_smallest_cells_are_solid_and_have_a_short_axis(shape, ratio):
    labels = np.zeros((9, 9), np.uint16)
    labels[2 : 2 + shape[0], 3 : 3 + shape[1]] = 1

    cells = measure_cells(labels)

    assert cells.solidity.tolist() == [1]
    assert cells.eccentricity.tolist() == pytest.approx([ratio])


def test_no_cells_give_no_measures():
    assert len(measure_cells(np.zeros((5, 5), np.int32)).solidity) == 0


def test_stack_is_an_error():
    with pytest.raises(ShapeError, match=r"\(2, 3, 4\), expected \(H, W\)"):
        measure_cells(np.zeros((2, 3, 4), np.int32))


def test_folder_of_label_files_gives_cells_medians_and_plot(tmp_path):
    save(tmp_path / "a_label.tiff", [[1, 1, 0], [0, 0, 0], [2, 2, 2]])
    save(tmp_path / "b_label.tif", [[0, 9], [0, 9]])
    (tmp_path / "c_label.tif").write_bytes(b"II*\0damaged")

    assert run(tmp_path, "-o", tmp_path / "out") == 0

    with (tmp_path / "out" / "cells.csv").open(newline="") as file:
        cells = [(row["image_id"], row["label"], row["cell_size"]) for row in csv.DictReader(file)]
    assert cells == [("a", "1", "2"), ("a", "2", "3"), ("b", "9", "2")]
    medians = (tmp_path / "out" / "medians.csv").read_text().splitlines()
    assert medians[1] == "all,2,3,0.5000,1.0000,2.0000"
    assert cv2.imread(str(tmp_path / "out" / "statistics.png")) is not None


def test_table_gives_medians_per_group(tmp_path):
    lines = []
    for name, size, modality in (("a", 2, "dic"), ("b", 4, "dic"), ("c", 1, "")):
        image = np.full((5, 5), len(lines), np.uint8)
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
        labels = np.zeros((5, 5), np.int32)
        labels[0, :size] = 1
        save(tmp_path / f"{name}_label.tiff", labels)
        paths = (tmp_path / f"{name}.png", tmp_path / f"{name}_label.tiff")
        lines.append(CandidateImage(name, *paths, modality=modality))
    write_data_manifest(lines, tmp_path / "manifest.csv")
    write_table(index_folders([tmp_path]).records, tmp_path / "table.csv")

    assert run(tmp_path / "table.csv", "-o", tmp_path / "out", "--group", "modality") == 0

    medians = (tmp_path / "out" / "medians.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in medians[1:]] == ["all", "unknown", "dic"]
    assert [line.split(",")[-1] for line in medians[1:]] == ["2.0000", "1.0000", "3.0000"]


def test_folder_without_cells_fails_and_grouping_needs_a_table(tmp_path, caplog):
    save(tmp_path / "a_label.tiff", [[0, 0]])

    assert run(tmp_path, "-o", tmp_path / "out") == 1
    assert "no labelled cell" in caplog.text
    with pytest.raises(UsageError, match="expected a data table"):
        run(tmp_path, "-o", tmp_path / "out", "--group", "source")


def test_median_diameter_counts_images_not_cells(tmp_path):
    for name, radii in (("many.tif", [4] * 9), ("few.tif", [10, 10, 14]), ("one.tif", [20])):
        labels = np.zeros((50, 50 * len(radii)), np.int32)
        for number, radius in enumerate(radii, start=1):
            labels[disk((25, 50 * number - 25), radius)] = number
        save(tmp_path / name, labels)
    save(tmp_path / "none.tif", np.zeros((5, 5), np.int32))
    (tmp_path / "damaged.tif").write_bytes(b"II*")
    assert median_diameter(sorted(tmp_path.iterdir())) == pytest.approx(20, abs=0.5)
    assert median_diameter([tmp_path / "none.tif"]) is None
