"""Weight files: which are found, in which order, and what a manifest says of them."""

import json

import pytest

from mediar_infer.errors import CheckpointError
from mediar_infer.network import weight_files
from mediar_infer.network.weight_files import (
    MANIFEST_NAME,
    WEIGHTS_VARIABLE,
    ListedWeights,
    default_weights_dir,
    find_weights,
    read_weights_manifest,
    write_weights_manifest,
)


def touch(folder, *names):
    for name in names:
        (folder / name).write_bytes(b"")
    return [folder / name for name in names]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"files": {"a": {"sha256": "0", "flow_threshold": "none"}}}', "flow_threshold 'none'"),
        ('{"files": {"a": {"sha256": "0", "cell_diameter": 0}}}', "cell_diameter 0"),
        ('{"files": {"a": {"sha256": "0",}}}', "line 1 column"),
    ],
)
def test_what_is_wrong_in_a_manifest_is_named(tmp_path, content, problem):
    (tmp_path / MANIFEST_NAME).write_text(content)
    with pytest.raises(CheckpointError, match=problem):
        read_weights_manifest(tmp_path)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"files": ["a"]}', '{"files": {"a": "b"}}', "\x00", "{",
     '{"files": {"a": {"sha256": "0", "cell_diameter": -1}}}',
     '{"files": {"a": {"sha256": "0", "cell_diameter": "large"}}}',
     '{"files": {"a": {"sha256": "0", "flow_threshold": -0.1}}}',
     '{"files": {"a": {"sha256": "0", "flow_threshold": NaN}}}'],
)  # fmt: skip
def test_unreadable_manifest_is_refused(tmp_path, content):
    (tmp_path / MANIFEST_NAME).write_text(content)
    with pytest.raises(CheckpointError, match=r"manifest\.json: found no readable list"):
        find_weights([tmp_path])


def test_manifest_reads_back_what_was_written(tmp_path):
    assert read_weights_manifest(tmp_path) == {}
    written = {
        "b.pth": ListedWeights("0" * 64, 31.46, flow_threshold=0.55),
        "a.pth": ListedWeights("1" * 64),
    }
    write_weights_manifest(tmp_path, written)
    assert list(read_weights_manifest(tmp_path).items()) == [
        ("b.pth", ListedWeights("0" * 64, 31.5, flow_threshold=0.55)),
        ("a.pth", ListedWeights("1" * 64)),
    ]
    json.loads((tmp_path / MANIFEST_NAME).read_text())


def test_folder_with_one_or_two_files_gives_them_in_the_order_of_their_names(tmp_path):
    paths = touch(tmp_path, "b.pth")
    assert find_weights([tmp_path]) == paths
    paths = touch(tmp_path, "a.safetensors", "b.pth")
    touch(tmp_path, "README.md", "notes.txt", "._b.pth")
    assert find_weights([tmp_path]) == paths


@pytest.mark.parametrize(
    "stems", [("from_phase1", "from_phase2"), ("main_model", "sub_model")], ids=lambda s: s[0]
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_published_pair_is_found_among_other_files(tmp_path, stems, suffix):
    paths = touch(tmp_path, *(f"{stem}{suffix}" for stem in stems))
    touch(tmp_path, "another.pth", "zzz.pth")
    assert find_weights([tmp_path]) == paths


def test_folder_with_three_files_is_refused_with_their_names(tmp_path):
    touch(tmp_path, "a.pth", "b.pth", "c.pth")
    with pytest.raises(CheckpointError, match=r"found 3 weight files \(a\.pth, b\.pth, c\.pth\)"):
        find_weights([tmp_path])


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="found 0 weight files"):
        find_weights([tmp_path])


def test_one_or_two_files_are_taken_in_the_order_given(tmp_path):
    a, b, c = touch(tmp_path, "a.pth", "b.pth", "c.pth")
    assert find_weights([b]) == [b]
    assert find_weights([c, a]) == [c, a]
    with pytest.raises(CheckpointError, match="found 3 weight files, expected 1 or 2"):
        find_weights([a, b, c])


def test_folder_and_file_together_are_refused(tmp_path):
    [a] = touch(tmp_path, "a.pth")
    with pytest.raises(CheckpointError):
        find_weights([tmp_path, a])


def test_manifest_gives_files_and_their_order(tmp_path):
    touch(tmp_path, "a.pth", "b.pth", "c.pth")
    write_weights_manifest(tmp_path, {name: ListedWeights("0" * 64) for name in ("c.pth", "b.pth")})
    assert [path.name for path in find_weights([tmp_path])] == ["c.pth", "b.pth"]
    (tmp_path / "b.pth").unlink()
    with pytest.raises(CheckpointError, match=r"found no b\.pth, expected all files of manifest"):
        find_weights([tmp_path])


def test_variable_names_the_default_folder(tmp_path, monkeypatch):
    [a] = touch(tmp_path, "a.pth")
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    assert default_weights_dir() == tmp_path
    assert find_weights() == [a]
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match=r"found no weights in .*nowhere; expected"):
        find_weights()


def test_first_default_folder_with_weights_is_taken(tmp_path, monkeypatch):
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    empty, full, last = (tmp_path / name for name in ("empty", "full", "last"))
    for folder in (empty, full, last):
        folder.mkdir()
    touch(empty, "README.md")
    touch(last, "b.pth")
    [a] = touch(full, "a.pth")
    folders = (tmp_path / "missing", empty, full, last)
    monkeypatch.setattr(weight_files, "_DEFAULT_DIRS", folders)
    assert find_weights() == [a]
    monkeypatch.setattr(weight_files, "_DEFAULT_DIRS", folders[:2])
    with pytest.raises(CheckpointError, match="name them with --weights DIR"):
        find_weights()


def test_what_people_have_added_to_a_manifest_stays_with_the_files(tmp_path):
    added = {"by": "Zoë", "files": {
        "a": {"sha256": "0", "cell_diameter": 9, "note": "plate 7"},
        "b": {"sha256": "1", "note": "of other weights"},
    }}  # fmt: skip
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(added), encoding="utf-8")
    weights = read_weights_manifest(tmp_path) | {"b": ListedWeights("2")}
    write_weights_manifest(tmp_path, weights)
    assert json.loads((tmp_path / MANIFEST_NAME).read_text(encoding="utf-8")) == {
        "by": "Zoë",
        "files": {"a": added["files"]["a"], "b": {"sha256": "2"}},
    }
