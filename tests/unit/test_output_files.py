"""Results appear whole or not at all, whoever else writes or tidies up in their folder."""

import fcntl
import os

import pytest

from mediar_infer import output_files
from mediar_infer.errors import OutputError
from mediar_infer.output_files import marking, remove_stale_parts, replacing, write_bytes


@pytest.mark.parametrize("letter", ["a", "é", "細"])
def test_names_up_to_the_limit_of_the_file_system_work(tmp_path, letter):
    stem = letter * ((255 - len("_label.png")) // len(letter.encode()))
    write_bytes(tmp_path / f"{stem}_label.png", b"whole")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"whole"]


@pytest.mark.parametrize("letter", ["a", "é", "細", "\N{MICROSCOPE}"])
def test_long_names_with_a_common_beginning_are_written_side_by_side(tmp_path, letter):
    stem = letter * (230 // len(letter.encode()))
    one, other = tmp_path / f"{stem}_1.tiff", tmp_path / f"{stem}_2.tiff"
    with replacing(one) as first, replacing(other) as second:
        first.write(b"one")
        second.write(b"other")
    assert (one.read_bytes(), other.read_bytes()) == (b"one", b"other")


def test_leftovers_of_another_long_name_stay(tmp_path):
    names = [f"{'a' * 230}_{number}.tiff" for number in (1, 2)]
    part = tmp_path / f".{output_files._short(names[1])}.12.part"
    part.write_bytes(b"half")
    assert remove_stale_parts(tmp_path, names[:1]) == []
    assert remove_stale_parts(tmp_path, names[1:]) == [part]


def test_parts_of_a_living_writer_stay(tmp_path):
    with replacing(tmp_path / "a.png") as file:
        file.write(b"wh")
        assert remove_stale_parts(tmp_path) == []
        file.write(b"ole")
    assert (tmp_path / "a.png").read_bytes() == b"whole"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_any_exception_leaves_the_earlier_file_alone(tmp_path, error):
    write_bytes(tmp_path / "a.png", b"old")

    def write_half():
        with replacing(tmp_path / "a.png") as file:
            file.write(b"ne")
            raise error

    with pytest.raises(error):
        write_half()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_part_left_by_a_killed_process_of_the_same_number_is_written_anew(tmp_path):
    (tmp_path / f".a.png.{os.getpid()}.part").write_bytes(b"much longer than what is to come")
    write_bytes(tmp_path / "a.png", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]


def test_link_in_place_of_the_part_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("kept")
    part = tmp_path / f".a.tiff.{os.getpid()}.part"
    part.symlink_to(tmp_path / "precious")
    with pytest.raises(OutputError, match=r"a\.tiff: cannot be written"):
        write_bytes(tmp_path / "a.tiff", b"labels")
    assert (tmp_path / "precious").read_text() == "kept"


def test_part_that_is_removed_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    flock, removed = fcntl.flock, []

    def late_flock(file, how):
        if not removed:
            (part,) = tmp_path.iterdir()
            part.unlink()
            removed.append(part)
        flock(file, how)

    monkeypatch.setattr(output_files.fcntl, "flock", late_flock)
    write_bytes(tmp_path / "a.png", b"whole")
    assert removed
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"whole"]


def test_file_system_without_locks_is_written_all_the_same(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError("no locks available")

    monkeypatch.setattr(output_files.fcntl, "flock", no_locks)
    write_bytes(tmp_path / "a.png", b"whole")
    assert (tmp_path / "a.png").read_bytes() == b"whole"
    (tmp_path / ".b.png.12.part").touch()
    assert remove_stale_parts(tmp_path) == []


def test_stop_while_the_file_is_being_opened_leaves_nothing(tmp_path, monkeypatch):
    opened = output_files.open_locked

    def stopped(part):
        opened(part).close()
        raise SystemExit(143)

    monkeypatch.setattr(output_files, "open_locked", stopped)
    with pytest.raises(SystemExit), replacing(tmp_path / "a.tiff"):
        pytest.fail("the file was opened")
    assert list(tmp_path.iterdir()) == []


def test_mark_is_there_while_it_is_held_and_survives_the_removal_of_stale_parts(tmp_path):
    folder = tmp_path / "new"
    with marking(folder) as mark:
        assert remove_stale_parts(folder) == []
        assert list(folder.iterdir()) == [mark]
    assert list(folder.iterdir()) == []


def test_mark_in_a_place_that_is_no_folder_is_an_output_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/\.\w+\.\d+\.part: cannot be written"):
        marking(tmp_path / "file").__enter__()
