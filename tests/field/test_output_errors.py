"""Output files that the system refuses: each reason is named, with its own remedy."""

import errno
import os
import re
from pathlib import Path

import pytest
from folder_helpers import latest_records, make_read_only, names_of, noise, write_image

from mediar_infer.errors import OutputError
from mediar_infer.output_files import replacing, to_output_error

EARLIER = "results of an earlier run are still there"


@pytest.fixture
def inputs(tmp_path):
    """One image with a short name."""
    write_image(tmp_path / "in" / "good.png", noise(20, 30))
    return tmp_path / "in"


def test_name_that_is_too_long_fails_alone_and_says_its_length(predict, inputs, tmp_path, capsys):
    long = f"{'n' * 246}.png"
    (inputs / long).write_bytes((inputs / "good.png").read_bytes())
    assert predict(inputs, tmp_path / "out") == 1
    records = latest_records(tmp_path / "out")
    assert records["good.png"]["status"] == "done"
    assert re.search(
        r"cannot be written \(File name too long\); found a name of 257 bytes, expected at most"
        r" 255; rename the input",
        records[long]["error"],
    )
    assert EARLIER not in records[long]["error"]
    assert "free some space" not in capsys.readouterr().err
    assert names_of(tmp_path / "out") == ["good_label.tiff", "ledger.jsonl", "summary.json"]


def test_refused_name_is_refused_before_anything_is_computed(tmp_path):
    with pytest.raises(OSError, match="too long"), replacing(tmp_path / ("n" * 257)):
        pytest.fail("the block was entered")
    assert names_of(tmp_path) == []


def test_read_only_folder_without_results_has_no_earlier_run(predict, inputs, mount_tmpfs, capsys):
    folder = mount_tmpfs("out", "1m")
    make_read_only(folder)
    assert predict(inputs, folder, "--ledger", "none") == 1
    err = capsys.readouterr().err
    assert "(Read-only file system); expected a writable folder; allow writing to it" in err
    assert EARLIER not in err


def test_earlier_results_that_cannot_be_removed_are_named(predict, inputs, mount_tmpfs, capsys):
    folder = mount_tmpfs("out", "1m")
    (folder / "good_label.tiff").write_bytes(b"old")
    make_read_only(folder)
    assert predict(inputs, folder, "--ledger", "none") == 1
    assert EARLIER in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EROFS, "allow writing"),
        (errno.EACCES, "allow writing"),
        (errno.EINVAL, "a name that this file system accepts"),
        (errno.EILSEQ, "a name that this file system accepts"),
        (errno.ENOTDIR, "choose another output folder"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EIO, "working disk"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EBUSY, "choose another output folder"),
    ],
)
def test_each_reason_has_its_own_remedy(tmp_path, number, remedy):
    error = to_output_error(tmp_path / "a.tiff", OSError(number, os.strerror(number)))
    assert isinstance(error, OutputError)
    assert re.search(rf"a\.tiff: cannot be written \(.+\); .*{remedy}", str(error))
    assert ("free some space" in str(error)) == (number in (errno.ENOSPC, errno.EDQUOT))


def test_run_without_a_result_does_not_say_where_results_are(predict, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.png").write_bytes(b"")
    assert predict(tmp_path / "in", tmp_path / "out") == 1
    assert "labels:" not in capsys.readouterr().out


def test_error_without_a_number_is_said_too():
    assert "a.tiff: cannot be written (odd); expected" in str(
        to_output_error(Path("a.tiff"), OSError("odd"))
    )
