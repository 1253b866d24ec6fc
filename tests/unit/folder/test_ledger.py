"""The ledger: every line survives, or is named."""

import errno
import json
import os
from dataclasses import replace

import pytest
from ledger_entries import DONE, FAILED, LATE

from mediar_infer.errors import OutputError
from mediar_infer.folder.ledger import (
    Ledger,
    LedgerEntry,
    summarise_entries,
    write_summary,
)
from mediar_infer.output_files import write_bytes


def test_entry_knows_its_budget():
    assert (DONE.tolerance_s, DONE.margin_s, DONE.counted_s) == (30.0, 5.5, 0.0)
    assert DONE.within_tolerance
    assert (LATE.tolerance_s, LATE.margin_s, LATE.counted_s) == (10.0, -4.0, 4.0)
    assert LATE.within_tolerance is False


def test_entry_of_unknown_size_has_no_budget():
    assert FAILED.tolerance_s is FAILED.margin_s is FAILED.counted_s is None
    assert FAILED.within_tolerance is None


def test_entry_survives_json():
    for entry in (DONE, FAILED, LATE):
        assert LedgerEntry.from_dict(json.loads(json.dumps(entry.to_dict()))) == entry


def test_line_holds_every_field_of_the_contract(tmp_path):
    Ledger(tmp_path).append(DONE)
    fields = json.loads((tmp_path / "ledger.jsonl").read_text())
    expected = "file status height width dtype plan stages_s wall_s tolerance_s margin_s counted_s "
    expected += "within_tolerance n_cells warnings error weights versions device started_at output "
    expected += "peak_memory_bytes budget worker pixel_size_mm flow_check scale"
    assert set(fields) == set(expected.split())


def test_ledger_returns_what_was_appended(tmp_path):
    ledger = Ledger(tmp_path / "new" / "folder")
    assert ledger.read().entries == ()
    ledger.append(DONE)
    Ledger(tmp_path / "new" / "folder").append(FAILED)
    content = ledger.read()
    assert content.entries == (DONE, FAILED)
    assert content.problems == ()


def test_latest_entry_of_a_file_wins(tmp_path):
    ledger = Ledger(tmp_path)
    retried = replace(FAILED, status="done", error=None)
    for entry in (FAILED, DONE, retried):
        ledger.append(entry)
    assert ledger.read().latest == {"torn.tif": retried, "nuclei.tif": DONE}


@pytest.mark.parametrize("n_lost", [1, 2, 300])
def test_torn_last_line_is_reported_and_closed_by_the_next_append(tmp_path, n_lost):
    ledger = Ledger(tmp_path)
    ledger.append(DONE)
    ledger.append(LATE)
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole[:-n_lost])
    # Without its newline alone, the last entry is still complete.
    kept = (DONE, LATE) if n_lost == 1 else (DONE,)
    content = ledger.read()
    assert content.entries == kept
    assert len(content.problems) == 2 - len(kept)
    ledger.append(FAILED)
    after = ledger.read()
    assert after.entries == (*kept, FAILED)
    assert all("line 2 is not a ledger entry" in problem for problem in after.problems)


@pytest.mark.parametrize(
    "line",
    [b"[1, 2]", b"nonsense", b"\xff\xfe", b'{"file": "a"}', b'{"file":"a","status":"x"}', b"null"],
)
def test_foreign_lines_are_reported_not_raised(tmp_path, line):
    ledger = Ledger(tmp_path)
    ledger.path.write_bytes(line + b"\n")
    ledger.append(DONE)
    content = ledger.read()
    assert content.entries == (DONE,)
    assert len(content.problems) == 1
    assert "line 1 is not a ledger entry" in content.problems[0]


def test_unknown_status_is_refused():
    fields = DONE.to_dict() | {"status": "perhaps"}
    with pytest.raises(ValueError, match="'perhaps' is none of done, failed"):
        LedgerEntry.from_dict(fields)


def test_file_name_with_any_bytes_is_kept(tmp_path):
    odd = replace(DONE, file=os.fsdecode(b"caf\xe9 \xe2\x98\x83\n.tif"))
    ledger = Ledger(tmp_path)
    ledger.append(odd)
    assert ledger.read().entries == (odd,)


def test_folder_that_is_a_file_is_an_output_error(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match=r"ledger.jsonl: cannot be written .* choose another"):
        Ledger(tmp_path / "out").append(DONE)
    with pytest.raises(OutputError, match=r"summary.json: cannot be written"):
        write_summary(tmp_path / "out", {})


@pytest.mark.skipif(os.geteuid() != 0, reason="concerns root only")
def test_root_follows_no_link_named_like_the_ledger(tmp_path):
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "ledger.jsonl").symlink_to(tmp_path / "precious")
    with pytest.raises(OutputError, match=r"ledger\.jsonl: found a link, expected a file"):
        Ledger(tmp_path).append(DONE)
    assert (tmp_path / "precious").read_text() == "kept"


def test_others_may_keep_the_ledger_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    (tmp_path / "ledger.jsonl").symlink_to(tmp_path / "elsewhere")
    Ledger(tmp_path).append(DONE)
    assert (tmp_path / "elsewhere").is_file()


def test_unreadable_ledger_is_an_output_error(tmp_path):
    (tmp_path / "ledger.jsonl").mkdir()
    with pytest.raises(OutputError, match=r"ledger.jsonl: cannot be read"):
        Ledger(tmp_path).read()


def test_full_disk_is_an_output_error(tmp_path, monkeypatch):
    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OutputError, match="No space left on device"):
        Ledger(tmp_path).append(DONE)
    with pytest.raises(OutputError, match="No space left on device"):
        write_summary(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.jsonl"]


def test_line_written_in_part_is_an_output_error(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:10]))
    with pytest.raises(OutputError, match=r"10 of .* bytes of an entry were written"):
        Ledger(tmp_path).append(DONE)
    monkeypatch.undo()
    ledger = Ledger(tmp_path)
    ledger.append(LATE)
    assert ledger.read().entries == (LATE,)


def test_failed_rewrite_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_bytes(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_summary_counts_and_names_what_matters(tmp_path):
    skipped = LedgerEntry(file="notes.txt", status="skipped", started_at=DONE.started_at)
    resumed = replace(DONE, file="old.tif", status="resumed", wall_s=0.0)
    summary = summarise_entries(
        [DONE, FAILED, LATE, skipped, resumed], config={"plan": "paper"}, versions={"torch": "2"}
    )
    written = json.loads(write_summary(tmp_path, summary).read_text())
    assert written == summary
    assert summary["n_files"] == 5
    assert summary["status"] == {"done": 2, "failed": 1, "skipped": 1, "resumed": 1}
    assert summary["n_cells"] == 930
    assert summary["megapixels"] == pytest.approx(3.01)
    assert summary["wall_s"] == pytest.approx(38.6)
    assert summary["counted_s"] == pytest.approx(4.0)
    assert [each["file"] for each in summary["slowest"]] == ["nuclei.tif", "late.png", "torn.tif"]
    assert [each["file"] for each in summary["missed_tolerance"]] == ["late.png"]
    assert summary["failed"] == [{"file": "torn.tif", "error": "torn.tif: 0 bytes"}]
    assert (summary["config"], summary["versions"]) == ({"plan": "paper"}, {"torch": "2"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("file", ["a.png"]),
        ("status", None),
        ("height", "2000"),
        ("wall_s", None),
        ("warnings", None),
        ("warnings", "late"),
        ("plan", None),
        ("stages_s", [1.0]),
        ("weights", "a"),
        ("versions", 3),
        ("peak_memory_bytes", []),
        ("output", 1),
    ],
)
def test_fields_of_another_type_make_a_line_a_problem(tmp_path, name, value):
    ledger = Ledger(tmp_path)
    ledger.path.write_text(json.dumps(DONE.to_dict() | {name: value}) + "\n")
    ledger.append(LATE)
    content = ledger.read()
    assert content.entries == (LATE,)
    (problem,) = content.problems
    assert f"line 1 is not a ledger entry ({name} is of type {type(value).__name__}" in problem
