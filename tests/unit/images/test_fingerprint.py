"""The fingerprint follows the content of an image, and nothing else."""

import os
import shutil

import pytest

from mediar_infer.images import fingerprint
from mediar_infer.images.fingerprint import read_state


def compute_fingerprint(path):
    return fingerprint.compute_fingerprint(read_state(path))


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
    assert read_state(one).n_bytes == n_files
    renamed = write("renamed.zarr")
    (renamed / "1").rename(renamed / "other")
    assert compute_fingerprint(renamed) != compute_fingerprint(one)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        compute_fingerprint(tmp_path / "image.tif")


VMS = """[Virtual Microscope Specimen]
NoLayers=1
ImageFile=s.jpg
ImageFile(1,0)=s(1,0).jpg
MapFile=s_map2.jpg
OptimisationFile=s.opt
AuthCode=other.jpg
MacroImage=macro.jpg
"""
NAMED = ("s.jpg", "s(1,0).jpg", "s_map2.jpg", "s.opt", "macro.jpg")


def write_slide(folder, name):
    """A slide in several files: the one that stands for it, and the others."""
    folder.mkdir()
    path = folder / name
    path.write_text(VMS.replace("\n", "\r\n") if name.endswith(".vms") else "head")
    beside = {
        "s.mrxs": ("s/Slidedat.ini", "s/deep/Data0000.dat"),
        "s.vms": NAMED,
        "s.DCM": ("a.dcm", "t.dcm"),
    }[name]
    for each in beside:
        (folder / each).parent.mkdir(parents=True, exist_ok=True)
        (folder / each).write_text("pixels")
    (folder / "other.jpg").write_text("not of this slide")
    return path, [folder / each for each in beside]


@pytest.mark.parametrize("name", ["s.mrxs", "s.vms", "s.DCM"])
def test_all_files_of_a_slide_count(tmp_path, name):
    path, beside = write_slide(tmp_path / "one", name)
    copy, _ = write_slide(tmp_path / "copy", name)
    before = compute_fingerprint(path)
    assert compute_fingerprint(copy) == before
    assert read_state(path).n_bytes == sum(each.stat().st_size for each in (path, *beside))
    for file in beside:
        state = read_state(path)
        file.write_text("others")
        os.utime(file, ns=(1, 1))
        assert read_state(path) != state
        assert compute_fingerprint(path) != before
        file.write_text("pixels")
        assert compute_fingerprint(path) == before


def test_a_renamed_mirax_slide_keeps_its_fingerprint(tmp_path):
    path, _ = write_slide(tmp_path / "one", "s.mrxs")
    before = compute_fingerprint(path)
    (tmp_path / "one" / "s").rename(tmp_path / "one" / "t")
    assert compute_fingerprint(path.rename(tmp_path / "one" / "t.mrxs")) == before


@pytest.mark.parametrize("name", ["s.mrxs", "s.vms", "s.dcm"])
def test_a_slide_without_its_other_files_has_a_fingerprint(tmp_path, name):
    (tmp_path / name).write_text("ImageFile=gone.jpg\nMapFile=\nImageFile(1,0)=..\n")
    assert len(compute_fingerprint(tmp_path / name)) == 32


def test_a_state_is_that_of_one_file_at_one_time(tmp_path):
    path = tmp_path / "image.tif"
    path.write_text("one")
    state = read_state(path)
    assert read_state(path) == state
    other = tmp_path / "other.tif"
    shutil.copy2(path, other)
    other.replace(path)
    assert read_state(path) != state
