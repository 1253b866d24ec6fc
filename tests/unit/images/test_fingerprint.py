"""The fingerprint follows the content of an image, and nothing else."""

import os
import shutil

import pytest

from mediar_infer.images import fingerprint
from mediar_infer.images.fingerprint import compute_fingerprint, count_bytes


@pytest.fixture(params=["whole", "in places"])
def content(request, monkeypatch):
    """Bytes of a file that is read as the parameter says."""
    if request.param == "in places":
        monkeypatch.setattr(fingerprint, "WHOLE_BYTES", 1 << 12)
    return os.urandom(1 << 16)


def test_copies_and_touched_files_keep_it(tmp_path, content):
    one, other = tmp_path / "one.tif", tmp_path / "other.tif"
    one.write_bytes(content)
    shutil.copy(one, other)
    os.utime(other, ns=(0, 0))
    assert len(compute_fingerprint(one)) == 32
    assert compute_fingerprint(other) == compute_fingerprint(one)


def test_another_content_of_the_same_size_changes_it(tmp_path, content):
    path = tmp_path / "image.tif"
    path.write_bytes(content)
    before = compute_fingerprint(path)
    path.write_bytes(content[::-1])
    os.utime(path, ns=(1, 1))
    assert compute_fingerprint(path) != before


@pytest.mark.parametrize("place", [0, 12345, -1])
def test_every_byte_of_a_file_counts(tmp_path, place):
    content = bytearray(os.urandom(1 << 16))
    path = tmp_path / "image.tif"
    path.write_bytes(content)
    before = compute_fingerprint(path)
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    assert compute_fingerprint(path) != before


def test_a_large_file_is_read_from_its_beginning_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "WHOLE_BYTES", 1 << 12)
    content = bytearray(os.urandom(1 << 16))
    path, found = tmp_path / "image.tif", set()
    for place in (0, (1 << 16) // 63 * 30, -1):
        content[place] ^= 1
        path.write_bytes(content)
        os.utime(path, ns=(place + 10, place + 10))
        found.add(compute_fingerprint(path))
    assert len(found) == 3


@pytest.mark.parametrize("n_files", [3, 2000])
def test_names_sizes_and_contents_of_a_folder_count(tmp_path, n_files):
    def write(name, changed=-1):
        folder = tmp_path / name
        folder.mkdir()
        for i in range(n_files):
            (folder / f"{i}").write_bytes(b"a" if i != changed else b"b")
        return folder

    one = write("one.zarr")
    assert compute_fingerprint(write("same.zarr")) == compute_fingerprint(one)
    assert compute_fingerprint(write("changed.zarr", changed=0)) != compute_fingerprint(one)
    assert count_bytes(one) == n_files
    renamed = write("renamed.zarr")
    (renamed / "1").rename(renamed / "other")
    assert compute_fingerprint(renamed) != compute_fingerprint(one)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        compute_fingerprint(tmp_path / "image.tif")
