"""The table and lines that a run shows."""

import os
from dataclasses import replace
from pathlib import Path

from ledger_entries import DONE, FAILED, LATE

from mediar_infer.exports.options import ExportOptions
from mediar_infer.folder.console import console_table, describe_results
from mediar_infer.folder.options import RunOptions
from mediar_infer.folder.selection import Selection


def test_console_table_is_aligned():
    assert console_table([DONE, FAILED, LATE], with_budget=True).splitlines() == [
        "image            size  cells  seconds  tolerance  margin  note",
        "----------  ---------  -----  -------  ---------  ------  ----------------",
        "nuclei.tif  2000×1500    310     24.5       30.0     5.5  done, 1 warning",
        "torn.tif            -      -      0.1          -       -  failed",
        "late.png      100×100    310     14.0       10.0    -4.0  done, 1 warning",
        "----------  ---------  -----  -------  ---------  ------  ----------------",
        "3 files                  620     38.6             1 late  2 done, 1 failed",
    ]


def test_budget_is_shown_only_where_it_is_asked_for():
    warned = replace(LATE, warnings=("a", "b"))
    assert console_table([DONE, FAILED, warned]).splitlines() == [
        "image            size  cells  seconds  note",
        "----------  ---------  -----  -------  ----------------",
        "nuclei.tif  2000×1500    310     24.5  done, 1 warning",
        "torn.tif            -      -      0.1  failed",
        "late.png      100×100    310     14.0  done, 2 warnings",
        "----------  ---------  -----  -------  ----------------",
        "3 files                  620     38.6  2 done, 1 failed",
    ]


def test_end_of_a_run_says_in_three_lines_what_there_is_to_open(tmp_path):
    options = RunOptions(Selection((Path("in"),)), Path("out"))
    assert describe_results([DONE, LATE], options).splitlines() == [
        "620 cells in 2 of 2 images",
        "labels: out/NAME_label.tiff",
    ]
    more = replace(options, report=True, exports=ExportOptions(table=Path("cells.csv")))
    assert describe_results([DONE, FAILED, replace(DONE, status="skipped")], more).splitlines() == [
        "310 cells in 1 of 2 images; 1 failed, see the errors above",
        "labels: out/NAME_label.tiff",
        "look at: out/cells.csv, out/report.html",
    ]
    assert describe_results([FAILED], options).splitlines() == [
        "0 cells in 0 of 1 images; 1 failed, see the errors above"
    ]


def test_console_table_of_nothing_has_totals():
    assert console_table([]).splitlines()[-1].split() == [
        "0",
        "files",
        "0",
        "0.0",
        "none",
    ]


def test_long_and_wide_names_do_not_break_the_columns():
    long, wide = replace(DONE, file="x" * 80), replace(DONE, file="細胞.tif")
    lines = console_table([long, wide]).splitlines()
    assert "x" * 39 + "…  2000×1500" in lines[2]
    assert lines[3].startswith("細胞.tif" + " " * 32 + "  2000×1500")


def test_name_with_odd_bytes_is_one_printable_line():
    odd = replace(DONE, file=os.fsdecode(b"caf\xe9 \xe2\x98\x83\n.tif"))
    assert "caf? ☃?.tif" in console_table([odd])
