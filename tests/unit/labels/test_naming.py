"""Label files find their images by name."""

from pathlib import Path

import pytest

from mediar_infer.labels.naming import find_marked_stem, group_label_files


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a_label.tiff", "a"),
        ("a_label.TIF", "a"),
        ("a_Label.png", "a"),
        ("a.b_label.bmp", "a.b"),
        ("a_label_label.tif", "a_label"),
        ("a_masks.png", "a"),
        ("a_cp_masks.tif", "a"),
        ("a_mask.tif", "a"),
        ("a_labels.tif", "a"),
        ("a.tif", None),
        ("_label.tif", None),
        ("a_label.jpg", None),
        ("a_label", None),
        ("labels.tif", None),
    ],
)
def test_stem_of_a_label_file(name, stem):
    assert find_marked_stem(Path(name)) == stem


def group(*names):
    groups = group_label_files(Path(name) for name in names)
    return {stem: [path.name for path in paths] for stem, paths in groups.items()}


def test_files_named_label_count_alone():
    found = group(
        "a_label.tif", "a_label.png", "b_masks.tif", "c.tif", "scores.csv", ".d_label.tif"
    )

    assert found == {"a": ["a_label.tif", "a_label.png"]}


def test_other_marks_count_without_files_named_label():
    assert group("a_masks.png", "b.png") == {"a": ["a_masks.png"]}


def test_plain_names_count_without_any_mark():
    assert group("a.png", "b.tif", "notes.txt") == {"a": ["a.png"], "b": ["b.tif"]}
