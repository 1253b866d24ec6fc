import pytest

from mediar_infer.errors import DataError, OutputError, UsageError
from mediar_infer.training.data.csv_files import read_rows, write_rows


def read(path):
    return list(read_rows(path, ("a", "b"), "a small table"))


def test_rows_come_back_as_written(tmp_path):
    path = tmp_path / "new" / "t.csv"
    rows = [("1", 'with "quotes", commas'), ("two\nlines", ""), ("Zell\udcfcn", "µm")]

    write_rows(path, ("a", "b"), rows)

    assert [tuple(row.values()) for _, row in read(path)] == rows


def test_place_names_file_and_line_and_short_lines_are_filled(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("\ufeffa,b,c\n1,2,3\n4\n", encoding="utf-8")

    assert read(path) == [
        (f"{path}, line 2", {"a": "1", "b": "2", "c": "3"}),
        (f"{path}, line 3", {"a": "4", "b": "", "c": ""}),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,c\n", "found the columns a, c without b, expected a small table"),
        (b"", "found the columns none without a, b"),
        (b"a,b\n1,2,3\n", r"t\.csv, line 2: found more cells than columns"),
        (b'a,b\n"' + b"x" * 200_000, r"t\.csv: found no CSV \(field larger"),
        (b"\xff\xd8\xff\xe0" * 50_000, "found no CSV"),
    ],
)
def test_what_is_no_such_table_is_an_error(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)

    with pytest.raises(DataError, match=message):
        read(tmp_path / "t.csv")


def test_missing_file_and_unwritable_folder_are_errors(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        read(tmp_path / "t.csv")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_rows(tmp_path / "file" / "t.csv", ("a",), [])
