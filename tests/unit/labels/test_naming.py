"""Label files are named after their images, and find them by name."""

from pathlib import Path

import pytest

from mediar_infer.labels.naming import (
    check_collisions,
    find_marked_stem,
    group_label_files,
    label_path,
)


def test_name_is_cut_at_the_first_dot():
    out = Path("out")
    assert label_path(out, Path("in/cell.png")) == out / "cell_label.tiff"
    assert label_path(out, Path("in/a.b.ome.tif")) == out / "a_label.tiff"
    assert label_path(out, Path("plain")) == out / "plain_label.tiff"


def test_inputs_with_one_output_name_are_found():
    paths = [Path("in/a.b.tif"), Path("in/b.tif"), Path("in/a.c.tif"), Path("in/a_b.tif")]
    assert check_collisions(paths) == {Path("a_label.tiff"): [paths[0], paths[2]]}
    assert check_collisions(paths[:2]) == {}


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("exp.2024.w1.tif", "exp.2024.w1"),
        ("cell.png", "cell"),
        ("exp.2024.OME.TIFF", "exp.2024"),
        ("ome.tif", "ome"),
        ("plain", "plain"),
    ],
)
def test_full_name_keeps_its_dots(name, kept):
    assert label_path(Path("out"), Path("in") / name, names="full") == Path(
        f"out/{kept}_label.tiff"
    )


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
