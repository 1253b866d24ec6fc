"""The tables of the parts of a run are joined with their ledgers."""

import csv
import json

import pytest
from folder_helpers import slide, write_image

from mediar_infer import cli
from mediar_infer.folder import gathering

pytestmark = pytest.mark.usefixtures("perfect_network")


@pytest.fixture
def inputs(tmp_path):
    for number in range(5):
        write_image(tmp_path / "in" / f"i{number}.png", slide(number)[0])
    return tmp_path / "in"


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def run_parts(predict, inputs, out, *numbers, table="cells.csv", of=2):
    for number in numbers:
        options = ["--part", f"{number}/{of}", "--table", str(table)]
        assert predict(inputs, out, *options) == 0


def merge(folder):
    return cli.main(["ledger", "merge", str(folder)])


def test_parts_give_the_rows_of_one_run_part_by_part(predict, inputs, tmp_path, capsys):
    assert predict(inputs, tmp_path / "whole", "--table", "cells.csv") == 0
    out = tmp_path / "out"
    run_parts(predict, inputs, out, 2, 1)
    assert merge(out) == 0
    assert capsys.readouterr().out.endswith(f"complete: 5 done\ntable: {out / 'cells.csv'}\n")
    whole, joined = rows_of(tmp_path / "whole" / "cells.csv"), rows_of(out / "cells.csv")
    assert joined[0] == whole[0]
    assert sorted(joined[1:]) == sorted(whole[1:])
    assert list(dict.fromkeys(row[0] for row in joined[1:])) == ["i0", "i2", "i4", "i1", "i3"]
    before = (out / "cells.csv").read_bytes()
    assert merge(out) == 0
    assert (out / "cells.csv").read_bytes() == before


def test_tables_as_parquet(predict, inputs, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "out"
    run_parts(predict, inputs, out, 1, 2, table="cells.parquet")
    assert merge(out) == 0
    tables = [parquet.read_table(out / f"cells{mark}.parquet") for mark in (".1of2", ".2of2", "")]
    assert tables[2].num_rows == tables[0].num_rows + tables[1].num_rows > 0
    assert tables[2].schema.equals(tables[0].schema)


def test_tables_and_ledgers_may_lie_elsewhere(predict, inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDIAR_LEDGER", str(tmp_path / "ledgers"))
    run_parts(predict, inputs, tmp_path / "out", 1, 2, table=tmp_path / "tables" / "all.v2.csv")
    assert merge(tmp_path / "ledgers") == 0
    assert len(rows_of(tmp_path / "tables" / "all.v2.csv")) > 1


def test_the_folder_of_ledgers_may_be_a_link(predict, inputs, tmp_path, monkeypatch):
    (tmp_path / "disk" / "deep" / "ledgers").mkdir(parents=True)
    (tmp_path / "ledgers").symlink_to(tmp_path / "disk" / "deep" / "ledgers")
    (tmp_path / "disk" / "out").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "out")
    monkeypatch.setenv("MEDIAR_LEDGER", str(tmp_path / "ledgers"))
    run_parts(predict, inputs, tmp_path / "out", 1, 2)
    for folder in ("ledgers", "disk/deep/ledgers"):
        assert merge(tmp_path / folder) == 0
        assert len(rows_of(tmp_path / "disk" / "out" / "cells.csv")) > 1
        (tmp_path / "disk" / "out" / "cells.csv").unlink()


def test_a_folder_that_moved_keeps_its_tables(predict, inputs, tmp_path):
    run_parts(predict, inputs, tmp_path / "out", 1, 2)
    (tmp_path / "out").rename(tmp_path / "moved")
    assert merge(tmp_path / "moved") == 0
    assert len(rows_of(tmp_path / "moved" / "cells.csv")) > 1


def test_a_missing_table_is_named_like_a_missing_ledger(predict, inputs, tmp_path, capsys):
    out = tmp_path / "out"
    run_parts(predict, inputs, out, 1, 3, of=3)
    assert predict(inputs, out, "--part", "2/3") == 0
    assert merge(out) == 1
    shown = capsys.readouterr()
    assert (
        "part 2 of 3: found no table, expected cells.2of3.csv; run it again with --part 2/3"
        " --resume and --table" in shown.err
    )
    assert "3 parts, incomplete: 5 done\ntable: " in shown.out
    assert predict(inputs, out, "--part", "2/3", "--resume", "--table", "cells.csv") == 0
    assert merge(out) == 0
    assert {row[0] for row in rows_of(out / "cells.csv")} == {"image", *(f"i{n}" for n in range(5))}


def stop_before_the_table(monkeypatch):
    """Let runs end as if they were killed when all their images are done."""

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(gathering.Gathering, "write", stop)


def test_a_part_killed_before_its_table_is_not_complete(
    predict, inputs, tmp_path, capsys, monkeypatch
):
    out, options = tmp_path / "out", ("--table", "cells.csv", "--report")
    for number in (1, 2):
        assert predict(inputs, out, "--part", f"{number}/2", *options) == 0
    with monkeypatch.context() as patch:
        stop_before_the_table(patch)
        again = ("--overlap", "0.5", *options)
        assert predict(inputs, out, "--part", "2/2", *again) == 130
    assert not (out / "cells.2of2.csv").exists()
    assert not (out / "report.2of2.html").exists()
    assert (out / "cells.1of2.csv").exists()
    assert merge(out) == 1
    shown = capsys.readouterr()
    assert (
        "part 2 of 2: found an attempt that did not come to its end, expected its table and report"
        " too, if they are asked for; run it again with --part 2/2 --resume" in shown.err
    )
    assert "found no table, expected cells.2of2.csv" in shown.err
    assert {row[0] for row in rows_of(out / "cells.csv")} == {"image", "i0", "i2", "i4"}
    assert predict(inputs, out, "--part", "1/2", *again) == 0
    assert predict(inputs, out, "--part", "2/2", "--resume", *again) == 0
    assert merge(out) == 0


def test_a_table_that_cannot_be_written_leaves_its_part_unfinished(predict, inputs, tmp_path):
    out = tmp_path / "out"
    (out / "cells.1of1.csv").mkdir(parents=True)
    assert predict(inputs, out, "--part", "1/1", "--table", "cells.csv") == 1
    summary = json.loads((out / "summary.1of1.json").read_text())
    assert (summary["part"]["is_finished"], summary["status"]["done"]) == (False, 5)


def test_a_table_that_the_last_attempt_did_not_write_is_not_joined(
    predict, inputs, tmp_path, capsys
):
    out = tmp_path / "out"
    run_parts(predict, inputs, out, 1, 2)
    assert predict(inputs, out, "--part", "2/2") == 0
    assert merge(out) == 1
    assert "part 2 of 2: found no table, expected cells.2of2.csv" in capsys.readouterr().err
    assert {row[0] for row in rows_of(out / "cells.csv")} == {"image", "i0", "i2", "i4"}


def test_a_damaged_table_is_named(predict, inputs, tmp_path, capsys):
    out = tmp_path / "out"
    run_parts(predict, inputs, out, 1, 2)
    (out / "cells.2of2.csv").write_text("nothing")
    assert merge(out) == 1
    assert "cells.2of2.csv: found no table of cells" in capsys.readouterr().err
    assert not (out / "cells.csv").exists()
    assert (out / "ledger.jsonl").exists()


def test_tables_of_several_names_are_told(predict, inputs, tmp_path, capsys):
    out = tmp_path / "out"
    run_parts(predict, inputs, out, 1)
    run_parts(predict, inputs, out, 2, table="other.csv")
    assert merge(out) == 1
    assert "found tables of different names (cells.csv, other.csv)" in capsys.readouterr().err


@pytest.mark.parametrize("value", [7, None, ""])
def test_a_summary_that_names_no_table_has_none(predict, inputs, tmp_path, value):
    out = tmp_path / "out"
    run_parts(predict, inputs, out, 1, of=1)
    summary = json.loads((out / "summary.1of1.json").read_text())
    summary["part"]["table"] = value
    (out / "summary.1of1.json").write_text(json.dumps(summary))
    assert merge(out) == 0
    assert not (out / "cells.csv").exists()


def test_a_part_without_images_has_an_empty_table(predict, inputs, tmp_path):
    out = tmp_path / "out"
    run_parts(predict, inputs, out, *range(1, 8), of=7)
    assert merge(out) == 0
    assert len(rows_of(out / "cells.7of7.csv")) == 1
    assert len({row[0] for row in rows_of(out / "cells.csv")}) == 6


def test_a_part_of_damaged_images_only(predict, inputs, tmp_path, capsys):
    (inputs / "i1.png").write_bytes(b"no image")
    (inputs / "i3.png").write_bytes(b"no image")
    out = tmp_path / "out"
    run_parts(predict, inputs, out, 1)
    assert predict(inputs, out, "--part", "2/2", "--table", "cells.csv") == 1
    assert merge(out) == 1
    assert "no table" not in capsys.readouterr().err
    assert {row[0] for row in rows_of(out / "cells.csv")} == {"image", "i0", "i2", "i4"}
