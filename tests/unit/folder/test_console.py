"""The table and lines that a run shows."""

import os
from dataclasses import replace

from ledger_entries import DONE, FAILED, LATE

from mediar_infer.folder.console import console_table


def test_console_table_is_aligned():
    assert console_table([DONE, FAILED, LATE]).splitlines() == [
        "file             size  cells  seconds  tolerance  margin  status",
        "----------  ---------  -----  -------  ---------  ------  ----------------",
        "nuclei.tif  2000×1500    310     24.5       30.0     5.5  done",
        "torn.tif            -      -      0.1          -       -  failed",
        "late.png      100×100    310     14.0       10.0    -4.0  done",
        "----------  ---------  -----  -------  ---------  ------  ----------------",
        "3 files                  620     38.6             1 late  2 done, 1 failed",
    ]


def test_console_table_of_nothing_has_totals():
    assert console_table([]).splitlines()[-1].split() == [
        "0",
        "files",
        "0",
        "0.0",
        "0",
        "late",
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
