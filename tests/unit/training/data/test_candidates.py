import pytest

from mediar_infer.errors import DataError, UsageError
from mediar_infer.training.data.candidates import (
    CandidateImage,
    find_candidates,
    make_ids_unique,
    read_data_manifest,
    write_data_manifest,
)
from mediar_infer.training.data.problems import MISSING_IMAGE


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def pairs(folder):
    candidates, _ = find_candidates(folder)
    return {
        each.image_path.relative_to(folder).as_posix(): each.label_path
        and each.label_path.relative_to(folder).as_posix()
        for each in candidates
    }


def test_labels_lie_beside_the_images(tmp_path):
    touch(tmp_path, "a.png", "a_label.tiff", "b.TIF", "b_label.tif", "c.jpg", "notes.txt")

    assert pairs(tmp_path) == {"a.png": "a_label.tiff", "b.TIF": "b_label.tif", "c.jpg": None}


def test_labels_lie_in_labels_beside_images(tmp_path):
    touch(tmp_path, "images/a.png", "images/b.png", "images/b_label.tiff", "labels/a_label.tiff")
    expected = {"images/a.png": "labels/a_label.tiff", "images/b.png": "images/b_label.tiff"}

    assert pairs(tmp_path) == expected
    inside, _ = find_candidates(tmp_path / "images")
    assert [each.label_path for each in inside] == [tmp_path / each for each in expected.values()]


def test_name_with_dots_matches_whole_or_up_to_first_dot(tmp_path):
    touch(tmp_path, "a.1.png", "a.1_label.tiff", "b.1.png", "b_label.tiff")

    assert pairs(tmp_path) == {"a.1.png": "a.1_label.tiff", "b.1.png": "b_label.tiff"}


def test_labels_of_a_name_up_to_the_first_dot_are_those_of_one_image(tmp_path):
    touch(tmp_path, "a.t1.png", "a.t2.png", "a_label.tiff", "b.png", "b.ome.tif", "b_label.tiff")
    touch(tmp_path, "c.1.png", "c.1.tif", "c_label.tiff")

    assert pairs(tmp_path) == {
        "a.t1.png": None, "a.t2.png": None, "b.ome.tif": None, "b.png": "b_label.tiff",
        "c.1.png": "c_label.tiff", "c.1.tif": "c_label.tiff",
    }  # fmt: skip
    _, problems = find_candidates(tmp_path)
    assert [(each.path.name, each.kind) for each in problems] == [("a_label.tiff", MISSING_IMAGE)]
    assert "2 images of this name up to the first dot, such as a.t1" in problems[0].found


def test_images_are_in_natural_order(tmp_path):
    touch(tmp_path, "cell10.png", "cell2.png")

    assert list(pairs(tmp_path)) == ["cell2.png", "cell10.png"]


def test_label_without_image_and_second_label_file_are_problems(tmp_path):
    touch(tmp_path, "a.png", "a_label.tif", "a_label.tiff", "b_label.tiff")

    candidates, problems = find_candidates(tmp_path)

    assert [each.label_path.name for each in candidates] == ["a_label.tif"]
    assert {(each.kind.name, each.path.name) for each in problems} == {
        ("second label file", "a_label.tiff"),
        ("label without image", "b_label.tiff"),
    }


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="found nothing there"):
        find_candidates(tmp_path / "nowhere")


def test_manifest_comes_back_as_written(tmp_path):
    written = [
        CandidateImage(
            "a", tmp_path / "images/a.png", tmp_path / "labels/a_label.tiff", "public", "val"
        ),
        CandidateImage("b", tmp_path.parent / "b.png", None, "tuning", "", "dic", "set, two"),
    ]

    write_data_manifest(written, tmp_path / "manifest.csv")

    assert read_data_manifest(tmp_path / "manifest.csv") == written
    assert find_candidates(tmp_path) == (written, [])


def test_manifest_may_hold_id_and_image_only_or_more(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("\ufeffimage,id,source_repo,licence\nx/a.png,a,repo,MIT\n", encoding="utf-8")

    assert read_data_manifest(path) == [CandidateImage("a", tmp_path / "x/a.png", source="repo")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,label\na,b\n", "found the columns id, label without image"),
        ("id,image\n,b\n", "line 2, column id: found an empty cell"),
        (
            "id,image,split\na,b,test\n",
            "line 2, column split: found 'test', expected one of train",
        ),
        ("id,image,role\na,b,goal\n", "line 2, column role: found 'goal', expected one of target"),
        ("", "found the columns none without id, image"),
    ],
)
def test_wrong_manifest_names_file_line_and_column(tmp_path, text, message):
    path = tmp_path / "list.csv"
    path.write_text(text)

    with pytest.raises(DataError, match=rf"list\.csv.*{message}"):
        read_data_manifest(path)


def test_missing_manifest_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        read_data_manifest(tmp_path / "list.csv")


def test_same_name_in_two_folders_gets_the_folder_in_front(tmp_path):
    one, two = tmp_path / "one/images/a.png", tmp_path / "two/images/a.png"

    unique, problems = make_ids_unique([CandidateImage("a", one), CandidateImage("a", two)])

    assert [each.image_id for each in unique] == ["a", "two_a"]
    assert [(each.kind.name, each.path, each.kind.is_kept) for each in problems] == [
        ("duplicate id", two, True)
    ]


def test_second_image_of_one_name_in_a_folder_is_left_out(tmp_path):
    png, tif = tmp_path / "a.png", tmp_path / "a.tif"

    unique, problems = make_ids_unique([CandidateImage("a", png), CandidateImage("a", tif)])

    assert [each.image_path for each in unique] == [png]
    assert [(each.kind.name, each.path) for each in problems] == [("duplicate name", tif)]


def test_second_image_of_one_name_is_left_out_of_every_folder(tmp_path):
    for folder in ("day1", "day2"):
        touch(tmp_path / folder, "a.png", "a.tif", "a_label.tiff")
    found, _ = find_candidates(tmp_path)

    unique, problems = make_ids_unique(found)

    assert [each.image_id for each in unique] == ["a", "day2_a"]
    names = [each.kind.name for each in problems]
    assert sorted(names) == ["duplicate id", "duplicate name", "duplicate name"]


def test_two_pictures_of_one_name_stay_where_a_manifest_tells_them_apart(tmp_path):
    images = [
        CandidateImage(f"a_{kind}", tmp_path / f"a.{kind}", tmp_path / f"{kind}_label.tiff")
        for kind in ("png", "tif")
    ]
    assert make_ids_unique(images) == (images, [])


def test_file_listed_twice_counts_once(tmp_path):
    image = CandidateImage("a", tmp_path / "a.png")

    unique, problems = make_ids_unique([image, image])

    assert unique == [image]
    assert [each.kind.name for each in problems] == ["file listed twice"]
