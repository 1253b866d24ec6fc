"""Converters on tiny made-up copies of the layouts in which the sets are distributed."""

import argparse
import json

import cv2
import numpy as np
import pytest
import tifffile
from small_data import save_image, save_labels

from mediar_infer.errors import DataError, ImageReadError, ShapeError, UsageError
from mediar_infer.labels.reading import read_labels
from mediar_infer.training.commands import convert as convert_command
from mediar_infer.training.converters import DATA_SETS
from mediar_infer.training.converters.dsb2018 import draw_runs, merge_masks
from mediar_infer.training.converters.livecell import draw_polygons
from mediar_infer.training.data.index import IndexOptions, index_folders
from mediar_infer.training.data.problems import UNUSUAL_IMAGE


def run(*arguments):
    parser = argparse.ArgumentParser()
    convert_command.add_arguments(parser)
    return convert_command.run(parser.parse_args([str(each) for each in arguments]))


def convert(data_set, folder, *options):
    """Convert, index what came out, and give the records by their id."""
    out = folder.parent / "out"
    assert run(data_set, folder, "-o", out, *options) == 0
    index = index_folders([out], options=IndexOptions(hold_out=0))
    assert [each for each in index.problems if each.kind != UNUSUAL_IMAGE] == []
    assert {record.source for record in index.records} == {data_set}
    assert all(record.image_path.is_relative_to(out) for record in index.records)
    return {record.image_id: record for record in index.records}


def problems_of(folder):
    lines = (folder.parent / "out" / "problems.csv").read_text().splitlines()[1:]
    return [line.split(",")[0] for line in lines]


@pytest.fixture
def download(tmp_path):
    folder = tmp_path / "download"
    folder.mkdir()
    return folder


def save_mask(path, inside, shape=(12, 16), value=255):
    mask = np.zeros(shape, np.uint8)
    mask[inside] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), mask)
    return path


def test_the_public_sets_make_the_papers_7242_images():
    assert sum(each.n_images for name, each in DATA_SETS.items() if name != "challenge") == 7242


# Omnipose


def test_omnipose_takes_bacteria_and_leaves_worms_out(download, caplog):
    for place in (
        "bact_phase/train_sorted/caulobacter",
        "bact_fluor/test_sorted/wiggins",
        "worm/test",
    ):
        save_image(download / place / "a 1.tif", value=len(place))
        save_labels(download / place / "a 1_masks.tif", n_cells=3)
        save_image(download / place / "a 1_flows.tif")
    save_image(download / "worm_high_res" / "b.tif")

    with caplog.at_level("INFO"):
        records = convert("omnipose", download)

    assert {name: record.modality for name, record in records.items()} == {
        "omnipose_bact_phase_train_sorted_caulobacter_a_1": "phase_contrast",
        "omnipose_bact_fluor_test_sorted_wiggins_a_1": "fluorescence",
    }
    assert {(record.role, record.n_cells) for record in records.values()} == {("public", 3)}
    assert "2 images excluded" in caplog.text
    assert "2 labelled images; the paper uses 611, without 118 worm images" in caplog.text


def test_omnipose_names_images_without_masks_and_masks_without_images(download):
    save_image(download / "bact_phase" / "good.tif")
    save_labels(download / "bact_phase" / "good_masks.tif")
    save_image(download / "bact_phase" / "lonely.tif")
    save_labels(download / "bact_phase" / "alone_masks.tif")

    assert list(convert("omnipose", download)) == ["omnipose_bact_phase_good"]
    assert problems_of(download) == ["image without label", "label without image"]


def test_folder_of_another_data_set_is_not_written_over(download):
    save_image(download / "train" / "000_img.png")
    save_mask(download / "train" / "000_masks.png", slice(2, 5))
    convert("cellpose", download)
    manifest = (download.parent / "out" / "manifest.csv").read_bytes()
    with pytest.raises(UsageError, match=r"manifest\.csv: found cellpose, expected omnipose or"):
        run("omnipose", download, "-o", download.parent / "out")
    assert (download.parent / "out" / "manifest.csv").read_bytes() == manifest


def test_images_that_stay_as_they_are_are_not_changed(download):
    image = save_image(download / "bact_phase" / "a.tif", dtype=np.uint16, value=4000)
    save_labels(download / "bact_phase" / "a_masks.tif")

    (record,) = convert("omnipose", download).values()
    (again,) = convert("omnipose", download).values()

    assert record.image_path.read_bytes() == image.read_bytes()
    assert again == record


# Cellpose


def save_cellpose(folder, split, number, colour=(10, 20, 200)):
    image = np.zeros((12, 16, 3), np.uint8)
    image[2:4, :10] = colour
    image[0, 0] = number
    (folder / split).mkdir(exist_ok=True)
    cv2.imwrite(str(folder / split / f"{number:03d}_img.png"), image)
    masks = np.zeros((12, 16), np.uint16)
    masks[2:4, 0:4], masks[2:4, 5:9] = 1, 300
    cv2.imwrite(str(folder / split / f"{number:03d}_masks.png"), masks)


def test_cellpose_becomes_grey_with_its_masks(download):
    save_cellpose(download, "train", 0)
    save_cellpose(download, "test", 0, colour=(50, 60, 70))

    records = convert("cellpose", download)

    assert list(records) == ["cellpose_test_000", "cellpose_train_000"]
    image = cv2.imread(str(records["cellpose_train_000"].image_path), cv2.IMREAD_UNCHANGED)
    assert image.shape == (12, 16)
    assert image[2, 0] == round(0.114 * 10 + 0.587 * 20 + 0.299 * 200)
    assert [record.n_cells for record in records.values()] == [2, 2]


def test_cellpose_leaves_out_the_images_of_a_list(download, tmp_path):
    for number in range(3):
        save_cellpose(download, "train", number)
    save_cellpose(download, "test", 1)
    names = tmp_path / "photographs.txt"
    names.write_text("# fruit\ntrain/001_img.png\ncellpose_train_002\n")

    records = convert("cellpose", download, "--exclude", names)

    assert list(records) == ["cellpose_test_001", "cellpose_train_000"]


def test_name_in_the_list_that_fits_no_image_is_an_error(download, tmp_path):
    save_cellpose(download, "train", 0)
    names = tmp_path / "photographs.txt"
    names.write_text("train/007_img.png\n")

    with pytest.raises(UsageError, match=r"no image named train/007_img\.png, expected names such"):
        run("cellpose", download, "-o", tmp_path / "out", "--exclude", names)


def test_cellpose_masks_in_colours_are_skipped(download):
    save_cellpose(download, "train", 0)
    save_cellpose(download, "train", 1)
    path = download / "train" / "001_masks.png"
    cv2.imwrite(str(path), np.arange(12 * 16 * 3).reshape(12, 16, 3).astype(np.uint8))
    (download / "train" / "002_masks.png").touch()

    assert list(convert("cellpose", download)) == ["cellpose_train_000"]
    assert problems_of(download) == ["label without image", "unreadable labels"]


# LIVECell


def save_livecell(folder, split, names, annotations, *, by_id=False):
    images = [
        {"id": 10 + i, "file_name": name, "height": 12, "width": 16} for i, name in enumerate(names)
    ]
    cells = [
        {"id": i, "image_id": 10 + number, "segmentation": polygons, "iscrowd": 0}
        for i, (number, polygons) in enumerate(annotations)
    ]
    path = folder / "annotations" / f"livecell_coco_{split}.json"
    path.parent.mkdir(exist_ok=True)
    content = {str(cell["id"]): cell for cell in cells} if by_id else cells
    path.write_text(json.dumps({"images": images, "annotations": content}))


SQUARE = [2, 3, 6, 3, 6, 7, 2, 7]


def test_livecell_draws_the_outlines_of_all_annotation_files(download):
    images = download / "images"
    save_image(images / "livecell_train_val_images" / "A172_Phase_1.tif", value=60)
    save_image(images / "livecell_train_val_images" / "BV2_Phase_2.tif", value=70)
    save_image(images / "livecell_test_images" / "MCF7_Phase_3.tif", value=80)
    far, low = [10, 3, 14, 3, 14, 7], [2, 8, 6, 8, 6, 12, 2, 12]
    save_livecell(download, "train", ["A172_Phase_1.tif"], [(0, [SQUARE]), (0, [far])])
    save_livecell(download, "val", ["BV2_Phase_2.tif"], [(0, [SQUARE])], by_id=True)
    save_livecell(download, "test", ["MCF7_Phase_3.tif"], [(0, [SQUARE, far]), (0, [low])])

    records = convert("livecell", download)

    assert {name: record.n_cells for name, record in records.items()} == {
        "livecell_A172_Phase_1": 2,
        "livecell_BV2_Phase_2": 1,
        "livecell_MCF7_Phase_3": 2,
    }
    assert {record.modality for record in records.values()} == {"phase_contrast"}
    labels = read_labels(records["livecell_BV2_Phase_2"].label_path)
    assert np.argwhere(labels == 1).min(axis=0).tolist() == [3, 2]
    assert (labels == 1).sum() == 16


def test_livecell_names_images_and_annotations_without_the_other(download):
    save_image(download / "images" / "a.tif")
    save_image(download / "images" / "lonely.tif")
    save_livecell(download, "train", ["a.tif", "gone.tif"], [(0, [SQUARE]), (1, [SQUARE])])

    assert list(convert("livecell", download)) == ["livecell_a"]
    assert problems_of(download) == ["label without image", "image without label"]


def test_livecell_outline_that_is_no_polygon_skips_its_image(download):
    save_image(download / "a.tif")
    save_image(download / "b.tif", value=60)
    runs = {"counts": [1, 2], "size": [12, 16]}
    save_livecell(download, "val", ["a.tif", "b.tif"], [(0, [SQUARE]), (1, runs)])

    assert list(convert("livecell", download)) == ["livecell_a"]
    assert problems_of(download) == ["unreadable labels"]


@pytest.mark.parametrize("text", ["{", "[]", '{"images": [{"id": 1}], "annotations": []}'])
def test_livecell_file_that_is_not_coco_is_an_error(download, tmp_path, text):
    (download / "livecell_coco_val.json").write_text(text)

    with pytest.raises(DataError, match=r"livecell_coco_val\.json: found no COCO annotations"):
        run("livecell", download, "-o", tmp_path / "out")


def test_livecell_without_annotation_files_is_an_error(download, tmp_path):
    with pytest.raises(UsageError, match=r"no livecell_coco_\*\.json at any depth"):
        run("livecell", download, "-o", tmp_path / "out")


def test_outline_covers_the_pixels_whose_centres_it_holds():
    labels = draw_polygons(
        [[[0, 0, 3, 0, 3, 2, 0, 2]], [[4.4, 0.6, 6.6, 0.6, 6.6, 1.6, 4.4, 1.6]]], 3, 8
    )

    assert labels.tolist() == [
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 2, 2, 2, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]


def test_smaller_of_two_overlapping_cells_is_seen_whatever_their_order():
    small, large = [[1, 1, 3, 1, 3, 3, 1, 3]], [[0, 0, 5, 0, 5, 5, 0, 5]]

    assert draw_polygons([small, large], 5, 5)[2, 2] == 1
    assert draw_polygons([large, small], 5, 5)[2, 2] == 2


def test_outline_past_the_edge_is_cut():
    labels = draw_polygons([[[-3, -3, 2, -3, 2, 9, -3, 9]]], 4, 5)

    assert labels.tolist() == [[1, 1, 0, 0, 0]] * 4


# Data Science Bowl 2018


def test_dsb2018_merges_mask_folders_and_draws_solutions(download):
    one = download / "stage1_train" / "aa"
    rgba = np.full((12, 16, 4), 255, np.uint8)
    rgba[3, 3] = 0
    (one / "images").mkdir(parents=True)
    cv2.imwrite(str(one / "images" / "aa.png"), rgba)
    save_mask(one / "masks" / "m1.png", np.s_[1:4, 1:4])
    save_mask(one / "masks" / "m2.png", np.s_[6:9, 1:4])
    for stage, name in (
        ("stage1_test", "bb"),
        ("stage2_test_final", "cc"),
        ("stage2_test_final", "dd"),
    ):
        save_image(download / stage / name / "images" / f"{name}.png", value=ord(name[0]))
    header = "ImageId,EncodedPixels,Height,Width,Usage\n"
    (download / "stage1_solution.csv").write_text(
        header + "bb,1 2 13 2,12,16,Public\nbb,50 3,12,16,Public\n"
    )
    (download / "stage2_solution_final.csv").write_text(
        header + "cc,5 2,12,16,Private\ndd,1 1,12,16,Ignored\n"
    )

    records = convert("dsb2018", download)

    assert {name: record.n_cells for name, record in records.items()} == {
        "dsb2018_aa": 2,
        "dsb2018_bb": 2,
        "dsb2018_cc": 1,
    }
    labels = read_labels(records["dsb2018_bb"].label_path)
    assert np.argwhere(labels == 1).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert problems_of(download) == []


def test_dsb2018_names_images_without_any_labels(download):
    save_image(download / "stage1_test" / "bb" / "images" / "bb.png")
    save_image(download / "stage1_train" / "aa" / "images" / "aa.png", value=60)
    save_mask(download / "stage1_train" / "aa" / "masks" / "m.png", np.s_[1:4, 1:4])

    assert list(convert("dsb2018", download)) == ["dsb2018_aa"]
    assert problems_of(download) == ["image without label"]


def test_dsb2018_masks_of_two_sizes_skip_their_image(download):
    for name, shape in (("aa", (12, 16)), ("bb", (12, 17))):
        save_image(download / "stage1_train" / name / "images" / f"{name}.png", value=ord(name[0]))
        masks = download / "stage1_train" / name / "masks"
        save_mask(masks / "m1.png", np.s_[1:4, 1:4])
        save_mask(masks / "m2.png", np.s_[6:9, 1:4], shape=shape)

    assert list(convert("dsb2018", download)) == ["dsb2018_aa"]
    assert problems_of(download) == ["unreadable labels"]


def test_first_of_overlapping_masks_is_seen(tmp_path):
    one = save_mask(tmp_path / "1.png", np.s_[0:2, :], shape=(3, 2))
    two = save_mask(tmp_path / "2.png", np.s_[1:3, :], shape=(3, 2), value=1)

    assert merge_masks([one, two]).tolist() == [[1, 1], [1, 1], [2, 2]]
    with pytest.raises(ShapeError, match="no mask file"):
        merge_masks([])


def test_runs_go_down_the_columns_from_one():
    assert draw_runs(["1 1 4 3", "3 2"], 3, 2).tolist() == [[1, 1], [0, 1], [2, 1]]


@pytest.mark.parametrize("text", ["1", "a b", "0 1", "5 3", "1 -1", ""])
def test_run_outside_the_image_or_without_numbers_is_an_error(text):
    with pytest.raises(ImageReadError, match="expected pairs of start and length within 3 × 2"):
        draw_runs([text], 3, 2)


def test_wrong_solution_files_are_errors(download, tmp_path):
    path = download / "stage1_solution.csv"
    for text, message in (
        ("ImageId\nbb\n", "without EncodedPixels, Height, Width"),
        ("ImageId,EncodedPixels,Height,Width\nbb,1 1,x,3\n", "line 2: found height 'x'"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            run("dsb2018", download, "-o", tmp_path / "out")


# The challenge


def test_challenge_archives_become_target_unlabelled_and_tuning(download):
    save_image(download / "Training-labeled" / "images" / "cell_00001.bmp", value=60)
    save_labels(download / "Training-labeled" / "labels" / "cell_00001_label.tiff")
    save_image(download / "Training-labeled" / "images" / "cell_00002.png", value=61)
    save_image(download / "train-unlabeled-part1" / "unlabeled_cell_00000.png", value=62)
    save_image(download / "Tuning" / "images" / "cell_00001.tif", value=63, dtype=np.uint16)
    save_labels(download / "Tuning" / "labels" / "cell_00001_label.tiff")
    save_image(download / "Testing" / "Public" / "images" / "OpenTest_001.tif", value=64)
    (download / "Training-labeled.zip").touch()

    records = convert("challenge", download)

    assert {name: record.role for name, record in records.items()} == {
        "challenge_Training-labeled_cell_00001": "target",
        "challenge_train-unlabeled-part1_unlabeled_cell_00000": "unlabelled",
        "challenge_Tuning_cell_00001": "tuning",
    }
    assert [record.n_cells for record in records.values() if record.role == "target"] == [2]
    assert problems_of(download) == ["image without label"]


def test_challenge_archive_itself_may_be_named(tmp_path):
    save_image(tmp_path / "Tuning" / "images" / "cell_00001.png")

    assert [each.role for each in convert("challenge", tmp_path / "Tuning").values()] == ["tuning"]


def test_name_of_the_download_does_not_make_labelled_images_tests(tmp_path):
    download = tmp_path / "latest_test_copy"
    save_image(download / "Train_Labeled" / "images" / "cell_00001.png")
    save_labels(download / "Train_Labeled" / "labels" / "cell_00001_label.tiff")

    assert [each.role for each in convert("challenge", download).values()] == ["target"]


# All sets


@pytest.mark.parametrize("data_set", ["omnipose", "cellpose", "dsb2018"])
def test_empty_folder_fails(download, tmp_path, caplog, data_set):
    assert run(data_set, download, "-o", tmp_path / "out") == 1
    assert f"no image of {data_set} to convert" in caplog.text


@pytest.mark.parametrize("data_set", DATA_SETS)
def test_missing_folder_is_an_error(tmp_path, data_set):
    with pytest.raises(UsageError, match="no such folder"):
        run(data_set, tmp_path / "nowhere", "-o", tmp_path / "out")


def test_negative_labels_are_skipped(download):
    save_image(download / "bact_phase" / "a.tif")
    path = save_labels(download / "bact_phase" / "a_masks.tif")
    tifffile.imwrite(path, tifffile.imread(path).astype(np.int16) - 1)

    assert run("omnipose", download, "-o", download.parent / "out") == 1
    assert problems_of(download) == ["unreadable labels"]
