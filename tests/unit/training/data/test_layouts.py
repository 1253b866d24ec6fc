"""Images and labels are found under the usual names, or what was seen is said."""

import pytest
from small_data import save_image, save_labels

from mediar_infer.training.__main__ import main
from mediar_infer.training.data.candidates import find_candidates
from mediar_infer.training.data.index import IndexOptions, index_folders


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def find(folder):
    """Pairs that were found, relative to the folder, and problems by kind and file."""
    candidates, problems = find_candidates(folder)
    pairs = {
        each.image_path.relative_to(folder).as_posix(): each.label_path
        and each.label_path.relative_to(folder).as_posix()
        for each in candidates
    }
    return pairs, [(each.kind.name, each.path.name) for each in problems]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("Images/a.tif", "Labels/a_label.tif"),
        ("images/a.tif", "labels/a.tif"),
        ("images/a.tif", "masks/a.tif"),
        ("images/a.jpg", "masks/a.png"),
        ("imgs/a.tif", "GT/a_mask.tif"),
        ("a.tif", "masks/a.tif"),
        ("a.tif", "Labels/a_label.tif"),
        ("a.tif", "a_masks.tif"),
        ("a.tif", "a_cp_masks.png"),
        ("a.tif", "a_label.bmp"),
        ("train/a.tif", "train/a_label.tif"),
        ("train/images/a.tif", "train/labels/a_label.tif"),
        ("train/Images/a.tif", "train/Masks/a.tif"),
    ],
)
def test_unambiguous_layouts_are_read(tmp_path, image, label):
    touch(tmp_path, image, label)

    assert find(tmp_path) == ({image: label}, [])


def test_images_of_formats_that_training_does_not_read_are_told_once_per_format(tmp_path):
    touch(
        tmp_path, "a.tif", "a_label.tif", "b.gif", "c.GIF", "stack.nii.gz", "d.ome.zarr/zarr.json"
    )
    touch(tmp_path, "own.ome.zarr/zarr.json", "own.ome.zarr/labels/cells/zarr.json")
    for pairs in ({"a.tif": "a_label.tif"}, {}):
        candidates, problems = find_candidates(tmp_path)
        assert [each.image_path.name for each in candidates] == list(pairs)
        assert [each.found for each in problems if each.kind.name == "format not read"] == [
            "2 × GIF such as b.gif",
            "1 × NIfTI such as stack.nii.gz",
            "1 × OME-Zarr such as d.ome.zarr",
        ]
        for path in tmp_path.glob("a*"):
            path.unlink()


def test_images_of_other_formats_beside_folders_of_images_are_told(tmp_path):
    touch(tmp_path, "p1/a.tif", "p1/a_label.tif", "p2/b.gif", "c.ome.zarr/zarr.json")
    pairs, problems = find(tmp_path)
    assert pairs == {"p1/a.tif": "p1/a_label.tif"}
    assert problems == [("format not read", tmp_path.name), ("format not read", "p2")]


def test_several_sub_folders_are_read_as_sets(tmp_path):
    names = [f"{split}/{kind}/a{mark}.tif" for split in ("test", "train")
             for kind, mark in (("images", ""), ("labels", "_label"))]  # fmt: skip
    touch(tmp_path, *names)

    assert find(tmp_path) == ({names[0]: names[1], names[2]: names[3]}, [])


def test_images_folder_finds_its_labels_beside_it(tmp_path):
    touch(tmp_path, "Images/a.tif", "Masks/a.tif")

    candidates, problems = find_candidates(tmp_path / "Images")

    assert [each.label_path for each in candidates] == [tmp_path / "Masks" / "a.tif"]
    assert problems == []


def test_file_named_as_labels_goes_before_one_of_the_images_name(tmp_path):
    touch(tmp_path, "images/a.tif", "labels/a.png", "labels/a_label.tif")

    assert find(tmp_path) == (
        {"images/a.tif": "labels/a_label.tif"}, [("second label file", "a.png")],
    )  # fmt: skip


def test_second_folders_are_named(tmp_path):
    touch(tmp_path, "images/a.tif", "labels/a.tif", "masks/a.tif", "img/b.tif", "c.tif")

    pairs, problems = find(tmp_path)

    assert pairs == {"images/a.tif": "labels/a.tif"}
    assert problems == [
        ("images in two places", tmp_path.name),
        ("images in two places", "img"),
        ("second folder of labels", "masks"),
    ]


def test_folder_with_files_of_the_images_names_is_named(tmp_path):
    touch(tmp_path, "images/a.tif", "images/b.tif", "annotated/a.tif")

    _, problems = find_candidates(tmp_path)

    assert [str(each) for each in problems] == [
        f"{tmp_path / 'annotated'}: folder not read: found 1 files named as the images, such as"
        " a.tif; expected labels in labels/ or masks/; rename the folder if it holds labels (kept)"
    ]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a_seg.npy", "save the masks as PNG or TIFF in Cellpose"),
        ("a.roi", "draw them into a label image"),
        ("RoiSet.zip", "perhaps ImageJ ROIs"),
        ("annotations.json", "perhaps COCO"),
        ("../labels/a.jpg", "JPEG files, which change the numbers"),
    ],
)
def test_labels_in_another_form_are_named_with_the_remedy(tmp_path, name, told):
    touch(tmp_path, "images/a.tif")
    (tmp_path / "labels").mkdir()
    touch(tmp_path / "images", name)

    _, problems = find_candidates(tmp_path)

    assert [each.kind.name for each in problems] == ["labels in another form"]
    assert told in problems[0].found


def test_other_forms_are_not_mentioned_where_labels_are_found(tmp_path):
    touch(tmp_path, "a.tif", "a_label.tif", "a_seg.npy", "notes.json")

    assert find(tmp_path) == ({"a.tif": "a_label.tif"}, [])


def test_folder_without_images_is_described(tmp_path):
    touch(tmp_path, "raw/x/a.tif", "slides/a.vsi", "slides/b.vsi", "slides/b.txt", "notes.txt")

    _, problems = find_candidates(tmp_path)

    assert [each.kind.name for each in problems] == ["no image", "format not read"]
    assert problems[1].found == "2 × Olympus VSI such as a.vsi"
    assert problems[0].found == "raw/ (1 sub-folders); slides/ (2 × .vsi, 1 × .txt); 1 × .txt"


def test_labels_are_never_taken_for_images(tmp_path):
    touch(tmp_path, "masks/a.tif", "labels/a.tif")

    assert find(tmp_path)[0] == {}


def test_index_says_what_it_saw(tmp_path, capsys):
    touch(tmp_path / "in", "slides/a.vsi")

    assert main(["index", str(tmp_path / "in"), "-o", str(tmp_path / "table.csv")]) == 1

    assert (
        "in: no image: found slides/ (1 × .vsi); expected images/ and labels/"
        in capsys.readouterr().err
    )


def test_same_names_in_two_sub_folders_become_two_ids(tmp_path):
    for split, value in (("train", 3), ("test", 4)):
        save_image(tmp_path / split / "images" / "a.png", value)
        save_labels(tmp_path / split / "masks" / "a.tif")

    index = index_folders([tmp_path], options=IndexOptions(hold_out=0))

    assert {record.image_id for record in index.records} == {"a", "train_a"}
