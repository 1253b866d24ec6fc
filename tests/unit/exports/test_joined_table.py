"""Tables of parts as one table."""

import csv
import errno
from unittest.mock import Mock

import numpy as np
import pytest

from mediar_infer.errors import DataError, OutputError
from mediar_infer.exports import joined_table
from mediar_infer.exports.joined_table import join_tables
from mediar_infer.exports.measures import COLUMNS
from mediar_infer.exports.table import writing_table


def columns(n_cells, **more):
    values = {name: np.arange(n_cells, dtype=float) for name in COLUMNS}
    values |= {"label": np.arange(n_cells), "touches_edge": np.zeros(n_cells, bool)}
    return values | {name: np.full(n_cells, value) for name, value in more.items()}


def write(path, rows, **more):
    with writing_table(path, [*COLUMNS, *more]) as add:
        for image, n_cells in rows:
            add(image, columns(n_cells, **more))
    return path


def read(path):
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            return list(csv.reader(file))
    from pyarrow import parquet

    table = parquet.read_table(path)
    return [table.column_names, *map(list, zip(*table.to_pydict().values(), strict=True))]


@pytest.fixture(params=[".csv", ".parquet"])
def suffix(request):
    if request.param == ".parquet":
        pytest.importorskip("pyarrow")
    return request.param


def test_rows_follow_each_other_as_in_one_table(tmp_path, suffix):
    rows = [("a", 3), ("b,\n\"c", 1), ("é", 0)], [("d", 2)], []  # fmt: skip
    parts = [write(tmp_path / f"p{n}{suffix}", part) for n, part in enumerate(rows)]
    whole = write(tmp_path / f"whole{suffix}", [each for part in rows for each in part])
    join_tables(parts, tmp_path / f"joined{suffix}")
    assert read(tmp_path / f"joined{suffix}") == read(whole)
    if suffix == ".csv":
        assert (tmp_path / "joined.csv").read_bytes() == whole.read_bytes()


def test_columns_of_all_parts_are_there(tmp_path, suffix):
    one = write(tmp_path / f"p1{suffix}", [("a", 1)], DAPI=1.5)
    two = write(tmp_path / f"p2{suffix}", [("b", 1)], GFP=2.5)
    join_tables([one, two], tmp_path / f"joined{suffix}")
    header, first, second = read(tmp_path / f"joined{suffix}")
    assert header == ["image", *COLUMNS, "DAPI", "GFP"]
    nothing = "" if suffix == ".csv" else None
    assert first[-1] == second[-2] == nothing
    assert [float(value) for value in (first[-2], second[-1])] == [1.5, 2.5]


def test_names_that_are_no_text_stay(tmp_path):
    part = write(tmp_path / "p.csv", [("a\udcff", 1)])
    join_tables([part], tmp_path / "joined.csv")
    assert (tmp_path / "joined.csv").read_bytes() == part.read_bytes()


@pytest.mark.parametrize(
    "damage", [b"", b"label,area\n", b"image,label\na\n", b"image,label\na,\0"]
)
def test_what_is_no_table_is_named_and_an_earlier_result_stays(tmp_path, suffix, damage):
    good, bad, joined = (tmp_path / f"{name}{suffix}" for name in ("good", "bad", "joined"))
    write(good, [("a", 1)])
    joined.write_bytes(b"earlier")
    bad.write_bytes(damage)
    if suffix == ".csv" and b"\0" in damage:
        bad.write_bytes(b"image,label\na,1,2\n")
    with pytest.raises(DataError, match=rf"bad{suffix}: found no table of cells \(.+\), expected"):
        join_tables([good, bad], joined)
    assert joined.read_bytes() == b"earlier"
    assert len(list(tmp_path.iterdir())) == 3


def test_parquet_columns_of_other_types_are_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for name, value in (("a", 1), ("b", "one")):
        table = pyarrow.table({"image": ["x"], "label": [value]})
        parquet.write_table(table, tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match="found tables of parts that contradict each other"):
        join_tables([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "c.parquet")


def test_a_table_that_cannot_be_read_is_named(tmp_path, suffix):
    good = write(tmp_path / f"good{suffix}", [("a", 1)])
    bad = tmp_path / f"bad{suffix}"
    bad.symlink_to(bad)  # as unreadable for root as for anybody else
    expected = rf"bad{suffix}: found a table that cannot be read \(.+\), expected one of cells"
    with pytest.raises(DataError, match=expected) as caught:
        join_tables([good, bad], tmp_path / f"joined{suffix}")
    assert "\n" not in str(caught.value)


def test_a_joined_table_that_cannot_be_written_is_an_error_of_its_own(
    tmp_path, suffix, monkeypatch
):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    parts = [write(tmp_path / f"p{n}{suffix}", [(f"{n}", 1)]) for n in (1, 2)]
    if suffix == ".csv":
        monkeypatch.setattr(joined_table.csv, "writer", lambda *_, **__: Mock(writerow=fail))
    else:
        monkeypatch.setattr(joined_table, "_with_columns", fail)
    with pytest.raises(OutputError, match=f"joined{suffix}: cannot be written"):
        join_tables(parts, tmp_path / f"joined{suffix}")
