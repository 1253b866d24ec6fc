import json

import numpy as np
import pytest
import tifffile

from mediar_infer.challenge.checks import (
    Finding,
    check_label_file,
    check_outputs,
    check_run,
    check_time,
)
from mediar_infer.challenge.launchers import RunOutcome, parse_bytes
from mediar_infer.errors import UsageError

LABELS = np.array([[0, 1, 1, 0], [2, 0, 1, 3], [2, 0, 0, 3]])
GIB = 2**30


def write(folder, labels, name="a_label.tiff", **options):
    folder.mkdir(exist_ok=True)
    tifffile.imwrite(folder / name, labels, **options)
    return folder / name


def told(findings):
    return [(each.aspect, each.found, each.expected) for each in findings]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64])
def test_sound_labels_of_any_integer_type_have_no_finding(tmp_path, dtype):
    path = write(tmp_path, LABELS.astype(dtype))
    facts, findings = check_label_file("a.png", path, (3, 4))
    assert findings == []
    assert (facts.n_cells, facts.dtype, facts.shape) == (3, np.dtype(dtype).name, (3, 4))


def test_image_without_cells_has_no_finding(tmp_path):
    path = write(tmp_path, np.zeros((3, 4), np.uint16))
    facts, findings = check_label_file("a.png", path, (3, 4))
    assert (facts.n_cells, findings) == (0, [])


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (LABELS.astype(np.float32), ("data type", "float32", "integers")),
        (LABELS > 0, ("data type", "bool", "integers")),
        (LABELS.T.astype(np.uint8), ("shape", "(4, 3)", "(3, 4)")),
        (np.stack([LABELS] * 2).astype(np.uint8), ("shape", "(2, 3, 4)", "(3, 4)")),
        (
            (LABELS * 2).astype(np.uint8),
            ("ids", "3 ids up to 6 without 1, 3, 5", "1 to 3 without gaps"),
        ),
        (
            np.where(LABELS == 3, 9, LABELS).astype(np.uint8),
            ("ids", "3 ids up to 9 without 3, 4, 5 and 3 more", "1 to 3 without gaps"),
        ),
        (
            np.where(LABELS == 3, 10**6, LABELS).astype(np.int32),
            ("ids", "3 ids up to 1000000", "1 to 3 without gaps"),
        ),
        (
            np.where(LABELS == 3, 2**31, LABELS).astype(np.uint32),
            ("ids", "0 to 2147483648", "0 to 2147483647, which fit int32"),
        ),
        (
            (LABELS - 1).astype(np.int16),
            ("ids", "-1 to 2", "0 to 2147483647, which fit int32"),
        ),
    ],
)
def test_breach_of_the_array_is_reported(tmp_path, labels, expected):
    path = write(tmp_path, labels, photometric="minisblack")
    _, findings = check_label_file("a.png", path, (3, 4))
    assert told(findings) == [expected]


def test_size_is_not_judged_where_that_of_the_image_is_unknown(tmp_path):
    path = write(tmp_path, LABELS.astype(np.uint8))
    assert check_label_file("a.png", path, None)[1] == []


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"II*\0\x08\0\0\0"])
def test_file_that_is_no_complete_tiff_is_reported(tmp_path, data):
    (tmp_path / "a_label.tiff").write_bytes(data)
    facts, (finding,) = check_label_file("a.png", tmp_path / "a_label.tiff", (3, 4))
    assert facts is None
    assert finding.aspect == "file format"
    assert finding.found.startswith("a_label.tiff that cannot be read (")


def test_links_and_folders_are_no_label_files(tmp_path):
    write(tmp_path, LABELS.astype(np.uint8), "b.tiff")
    (tmp_path / "a_label.tiff").symlink_to("b.tiff")
    (tmp_path / "c_label.tiff").mkdir()
    for name, kind in (("a_label.tiff", "a link"), ("c_label.tiff", "a folder")):
        facts, findings = check_label_file("a.png", tmp_path / name, None)
        assert facts is None
        assert told(findings) == [("file format", f"{name} to be {kind}", "a TIFF file")]


def test_outputs_hold_the_label_file_alone(tmp_path):
    write(tmp_path, LABELS.astype(np.uint8))
    assert check_outputs("a.b.png", tmp_path, (3, 4))[1] == []
    (tmp_path / "log.txt").touch()
    facts, findings = check_outputs("a.b.png", tmp_path, (3, 4))
    assert facts.n_cells == 3
    assert told(findings) == [("output", "log.txt beside it", "a_label.tiff alone")]


def test_name_is_cut_at_the_first_dot(tmp_path):
    write(tmp_path, LABELS.astype(np.uint8), "a.b_label.tiff")
    facts, findings = check_outputs("a.b.png", tmp_path, (3, 4))
    assert facts is None
    assert told(findings) == [("output", "a.b_label.tiff", "a_label.tiff")]


@pytest.mark.parametrize(
    ("description", "made_of"),
    [
        (json.dumps({"plan": "fast"}), {"plan": "fast"}),
        ("[1]", {}),
        ("no JSON", {}),
        ('{"x": NaN}', {}),
        ('{"x": 1e999}', {}),
        ('{"x": ' + "[" * 700 + "]" * 700 + "}", {}),
    ],
)
def test_what_a_file_says_of_its_making_is_kept_if_it_is_an_object(tmp_path, description, made_of):
    path = write(tmp_path, LABELS.astype(np.uint8), description=description, metadata=None)
    assert check_label_file("a.png", path, None)[0].made_of == made_of


def outcome(**changes):
    return RunOutcome(**{"exit_code": 0, "wall_s": 1.0} | changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"peak_memory_bytes": GIB, "memory_limit_bytes": GIB}, []),
        ({"exit_code": 2, "log": "a\nb"}, [("exit status", "2 (b)", "0")]),
        ({"exit_code": -11}, [("exit status", "signal 11", "0")]),
        ({"peak_memory_bytes": 3 * GIB}, [("memory", "a peak of 3 GiB", "at most 1 GiB")]),
        ({"memory_limit_bytes": 0}, [("memory", "no limit in force", "1 GiB")]),
        ({"memory_limit_bytes": 2 * GIB}, [("memory", "2 GiB limit in force", "1 GiB")]),
        (
            {"exit_code": -9, "timed_out": True, "wall_s": 7.0},
            [("exit status", "a run stopped after 7.0 s", "a run that ends by itself")],
        ),
    ],
)
def test_end_and_memory_of_a_run_are_judged(changes, expected):
    assert told(check_run("a.png", outcome(**changes), GIB)) == expected


def test_kill_in_a_container_that_ends_well_is_still_told():
    (finding,) = check_run("a.png", outcome(out_of_memory=True), GIB)
    assert finding.aspect == "memory"


def test_time_counts_from_the_tolerance_on():
    assert check_time("a.png", 10.0, (100, 100)) == []
    (finding,) = check_time("a.png", 20.5, (1000, 2000))
    assert str(finding) == "a.png: time: found 20.50 s, expected at most 20.00 s"
    assert check_time("a.png", 1000.0, None) == []


def test_finding_names_image_found_and_expected():
    finding = Finding("a.png", "ids", "this", "that")
    assert str(finding) == "a.png: ids: found this, expected that"


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("28g", 28 * GIB), ("28G", 28 * GIB), ("28gb", 28 * GIB), ("5m", 5 * 2**20), ("77", 77)],
)
def test_memory_sizes_are_those_of_container_engines(text, n_bytes):
    assert parse_bytes(text) == n_bytes


@pytest.mark.parametrize("text", ["", "g", "b", "-1", "1.5g", "28 g", "0", "28x"])
def test_other_sizes_are_wrong_use(text):
    with pytest.raises(UsageError, match="expected a size such as 28g or 512m"):
        parse_bytes(text)
