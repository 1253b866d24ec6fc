from dataclasses import replace
from pathlib import Path

import pytest

from mediar_infer.errors import DataError, OutputError, UsageError
from mediar_infer.training.data.table import TrainingImage, read_table, select_records, write_table


def make_record(folder, name="a", **changes):
    record = TrainingImage(
        image_id=name,
        role="target",
        split="train",
        modality="phase_contrast",
        source="set, one",
        image_path=folder / "images" / f"{name}.png",
        label_path=folder / "labels" / f"{name}_label.tiff",
        height=30,
        width=40,
        dtype="uint16",
        n_cells=70_000,
        digest="0f" * 32,
    )
    return replace(record, **changes)


def edited(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_table_comes_back_as_written(tmp_path):
    records = [
        make_record(tmp_path),
        make_record(tmp_path / "elsewhere", "b", role="public", split="val"),
        make_record(tmp_path, "c", role="tuning", label_path=None, n_cells=0),
    ]

    write_table(records, tmp_path / "made" / "table.csv")

    assert read_table(tmp_path / "made" / "table.csv") == records


def test_table_moves_with_its_folder(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    write_table([make_record(old)], old / "table.csv")

    old.rename(new)

    assert read_table(new / "table.csv") == [make_record(new)]


def test_table_in_working_folder_has_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_table([make_record(tmp_path)], Path("table.csv"))

    assert read_table(Path("table.csv"))[0].image_path == tmp_path / "images" / "a.png"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("height", "rows", r"table\.csv: found the columns .* without height"),
        (
            ",30,",
            ",thirty,",
            r"line 2, column height: found 'thirty', expected a whole",
        ),
        (
            "target",
            "goal",
            r"line 2, column role: found 'goal', expected one of target",
        ),
        (
            "train",
            "test",
            r"line 2, column split: found 'test', expected one of train",
        ),
        ("images/a.png", "", r"table\.csv, line 2, column image: found an empty cell"),
        (
            "labels/a_label.tiff",
            "",
            r"column label: found a of role target with no label file",
        ),
        (",70000," + "0f" * 32, "", r"line 2, column n_cells: found '', expected a whole number"),
    ],
)
def test_wrong_table_names_file_line_and_column(tmp_path, old, new, message):
    path = tmp_path / "table.csv"
    write_table([make_record(tmp_path)], path)
    edited(path, old, new)

    with pytest.raises(DataError, match=message):
        read_table(path)


def test_image_named_twice_is_an_error(tmp_path):
    write_table([make_record(tmp_path)] * 2, tmp_path / "table.csv")

    with pytest.raises(DataError, match=r"line 3, column image_id: found 'a', .* also in .*line 2"):
        read_table(tmp_path / "table.csv")


def test_missing_table_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        read_table(tmp_path / "table.csv")


def test_binary_file_is_no_table(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"\xff\xd8\xff")

    with pytest.raises(DataError, match=r"without image_id, "):
        read_table(path)


def test_table_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(OutputError, match="cannot be written"):
        write_table([], tmp_path / "file" / "table.csv")


def test_image_without_labels_cannot_be_held_out(tmp_path):
    with pytest.raises(DataError, match="held out without labels"):
        make_record(tmp_path, role="unlabelled", label_path=None, split="val")


def test_records_are_selected_by_role_and_split(tmp_path):
    kept = make_record(tmp_path, "a")
    records = [
        make_record(tmp_path, "b", role="public"),
        kept,
        make_record(tmp_path, "c", split="val"),
    ]

    assert select_records(records, ["target"], "train") == [kept]
    assert select_records(records, ["tuning"], "train") == []
    with pytest.raises(UsageError, match="expected roles among target, public"):
        select_records(records, ["targets"], "train")
