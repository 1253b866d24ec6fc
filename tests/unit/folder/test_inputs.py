"""Images of a run: folders and folders below, patterns, lists, several inputs."""

import os
from pathlib import Path

import numpy as np
import pytest

from mediar_infer.errors import UsageError
from mediar_infer.folder import inputs
from mediar_infer.folder.inputs import find_inputs, matches
from mediar_infer.folder.selection import Selection
from mediar_infer.labels.files import write_labels

LABELS = np.eye(4, dtype=np.uint16)


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names_of_images(*given, outputs=(), **choices):
    found = find_inputs(Selection(tuple(given), **choices), outputs=outputs)
    return [image.name for image in found.images]


def reasons(*given, outputs=(), **choices):
    found = find_inputs(Selection(tuple(given), **choices), outputs=outputs)
    return {name: file.reason for name, file in found.skipped.items()}


def test_folders_below_are_searched_on_request(tmp_path):
    touch(tmp_path, "b10.tif", "b9.tif", "p10/w/f.tif", "p9/w2/f.tif", "p9/w10/f.tif", "notes.txt")
    assert names_of_images(tmp_path) == ["b9.tif", "b10.tif"]
    assert reasons(tmp_path)["p9"] == "sub-folder: searched with --recursive only"
    assert names_of_images(tmp_path, recursive=True) == [
        "b9.tif", "b10.tif", "p9/w2/f.tif", "p9/w10/f.tif", "p10/w/f.tif",
    ]  # fmt: skip
    assert list(reasons(tmp_path, recursive=True)) == ["notes.txt"]


def test_paths_are_absolute_and_named_from_the_folder(tmp_path, monkeypatch):
    touch(tmp_path, "in/p/a.tif")
    monkeypatch.chdir(tmp_path / "in")
    found = find_inputs(Selection((Path("../in"),), recursive=True))
    [image] = found.images
    assert image.name == "p/a.tif"
    assert image.path.is_absolute()
    assert image.path.samefile(tmp_path / "in" / "p" / "a.tif")


def test_hidden_folders_are_skipped(tmp_path):
    touch(tmp_path, "a.tif", ".snapshot/a.tif", "p/.cache/b.tif")
    assert names_of_images(tmp_path, recursive=True) == ["a.tif"]
    assert reasons(tmp_path, recursive=True) == {
        ".snapshot": "hidden folder", "p/.cache": "hidden folder",
    }  # fmt: skip


@pytest.mark.parametrize("recursive", [False, True])
def test_inputs_that_are_links_to_each_other_are_searched_once(tmp_path, recursive):
    touch(tmp_path, "day1/a.tif", "day1/p/b.tif", "day2/a.tif")
    (tmp_path / "link").symlink_to(tmp_path / "day1")
    (tmp_path / "below").symlink_to(tmp_path / "day1" / "p")
    given = [tmp_path / name for name in ("day1", "link", "day1", "below", "day2")]
    expected = ["day1/a.tif", "day1/p/b.tif"] if recursive else ["below/b.tif", "day1/a.tif"]
    assert names_of_images(*given, recursive=recursive) == [*expected, "day2/a.tif"]
    found = reasons(*given, recursive=recursive)
    assert found["link"] == f"the same folder as {tmp_path / 'day1'}, which is searched"
    assert ("below" in found) == recursive
    assert names_of_images(*given[1::-1]) == ["link/a.tif"]


def test_loops_of_links_end(tmp_path):
    touch(tmp_path, "p/w/a.tif", "q/b.tif")
    (tmp_path / "p" / "w" / "up").symlink_to(tmp_path)
    (tmp_path / "q" / "self").symlink_to(".")
    (tmp_path / "q" / "broken").symlink_to(tmp_path / "nowhere")
    assert names_of_images(tmp_path, recursive=True) == ["p/w/a.tif", "q/b.tif"]
    found = reasons(tmp_path, recursive=True)
    assert found["p/w/up"].startswith("the same folder as ")
    assert list(found) == ["p/w/up", "q/broken", "q/self"]


def test_linked_folder_is_searched_once_under_its_own_name(tmp_path):
    touch(tmp_path, "in/z/a.tif", "elsewhere/b.tif")
    (tmp_path / "in" / "a").symlink_to("z")
    (tmp_path / "in" / "other").symlink_to(tmp_path / "elsewhere")
    assert names_of_images(tmp_path / "in", recursive=True) == ["other/b.tif", "z/a.tif"]


def test_output_folder_inside_the_input_folder_is_not_searched(tmp_path, caplog):
    touch(tmp_path, "a.tif", "results/overlays/a_label.png", "p/b.tif")
    outputs = [tmp_path / "results", tmp_path / "no" / "such"]
    assert names_of_images(tmp_path, recursive=True, outputs=outputs) == ["a.tif", "p/b.tif"]
    assert reasons(tmp_path, recursive=True, outputs=outputs) == {
        "results": "output folder of this run"
    }
    assert not caplog.records
    names_of_images(tmp_path, recursive=True, outputs=[tmp_path / "p"])
    assert "p: found images in the output folder; they are skipped" in caplog.text


def test_results_of_earlier_runs_are_no_images(tmp_path):
    touch(tmp_path, "p/a.tif", "old/overlays/p/a_label.png", "old/overlays/b_label.png")
    (tmp_path / "old" / "p").mkdir()
    for name in ("p/a", "c.d"):
        write_labels(tmp_path / "old" / f"{name}_label.tiff", [LABELS], height=4, width=4)
    assert names_of_images(tmp_path, recursive=True) == ["old/overlays/b_label.png", "p/a.tif"]
    found = reasons(tmp_path, recursive=True)
    assert found == {
        "old/c.d_label.tiff": "label file that mediar-infer wrote",
        "old/overlays/p/a_label.png": "overlay of a label file",
        "old/p/a_label.tiff": "label file that mediar-infer wrote",
    }


def test_links_that_cannot_be_followed_stop_no_folder(tmp_path):
    touch(tmp_path, "a.tif", "p/b.tif")
    for name in ("c.tif", "c.txt", "p/d"):
        (tmp_path / name).symlink_to("x" * 300)
    assert names_of_images(tmp_path, recursive=True) == ["a.tif", "c.tif", "p/b.tif"]
    found = reasons(tmp_path, recursive=True)
    assert list(found) == ["c.txt", "p/d"]
    assert found["c.txt"] == "found a link that cannot be followed (File name too long)"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every folder")
def test_links_into_a_folder_of_others_stop_no_folder(tmp_path):
    touch(tmp_path, "in/a.tif", "private/b.tif", "private/b.txt")
    for name in ("b.tif", "b.txt"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "private" / name)
    (tmp_path / "private").chmod(0)
    found = names_of_images(tmp_path / "in"), reasons(tmp_path / "in")
    (tmp_path / "private").chmod(0o700)
    assert found[0] == ["a.tif", "b.tif"]
    assert found[1] == {"b.txt": "found a link that cannot be followed (Permission denied)"}


def test_pipes_are_skipped_without_waiting_for_a_writer(tmp_path):
    touch(tmp_path, "a.tif")
    for name in ("pipe", "pipe.tif", "pipe.txt"):
        os.mkfifo(tmp_path / name)
    assert names_of_images(tmp_path) == ["a.tif"]
    assert reasons(tmp_path) == dict.fromkeys(
        ("pipe", "pipe.tif", "pipe.txt"), "not a regular file"
    )


def test_exports_of_earlier_runs_are_no_images(tmp_path):
    touch(
        tmp_path, "a.tif", "old/zarr/a.ome.zarr/zarr.json", "old/zarr/a.ome.zarr/labels/zarr.json",
        "old/zarr/a.ome.zarr/labels/cells/zarr.json", "b.zarr/zarr.json", "b.zarr/s0/zarr.json",
        "b.zarr/labels/cells/zarr.json",
    )  # fmt: skip
    assert names_of_images(tmp_path, recursive=True) == ["a.tif", "b.zarr"]
    assert reasons(tmp_path, recursive=True) == {
        "old/zarr/a.ome.zarr": "labels that mediar-infer exported"
    }
    assert reasons(tmp_path / "old" / "zarr") == {"a.ome.zarr": "labels that mediar-infer exported"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_folder_that_cannot_be_listed_is_told(tmp_path):
    touch(tmp_path, "a.tif", "p/b.tif")
    (tmp_path / "p").chmod(0)
    found = find_inputs(Selection((tmp_path,), recursive=True))
    (tmp_path / "p").chmod(0o700)
    assert [image.name for image in found.images] == ["a.tif"]
    assert "cannot be listed" in found.unreadable["p"]


def test_folder_that_is_gone_is_told(tmp_path, monkeypatch):
    touch(tmp_path, "a.tif", "p/b.tif")
    plain = inputs.list_images

    def list_images(folder):
        found = plain(folder)
        if folder == tmp_path:
            (tmp_path / "p").rename(tmp_path / ".gone")
        return found

    monkeypatch.setattr(inputs, "list_images", list_images)
    found = find_inputs(Selection((tmp_path,), recursive=True))
    assert "found nothing there" in found.unreadable["p"]


@pytest.mark.parametrize(
    ("name", "pattern", "is_match"),
    [
        ("p/w/a_ch1.tif", "*_ch1.tif", True),
        ("p/w/a_ch2.tif", "*_ch1.tif", False),
        ("p/w/a_ch2.tif", "*_ch[12].tif", True),
        ("p/w/a.tif", "p/w/*.tif", True),
        ("p/w/a.tif", "p/*.tif", False),
        ("p/w/a.tif", "p/**/*.tif", True),
        ("p/a.tif", "p/**/*.tif", True),
        ("p/w/a.tif", "**/a.tif", True),
        ("a.tif", "*/a.tif", False),
        ("a.TIF", "*.tif", False),
        ("p/w/a.tif", "w/*.tif", False),
    ],
)
def test_patterns_are_those_of_a_shell(name, pattern, is_match):
    assert matches(name, [pattern]) is is_match
    assert matches(name, ["no", pattern, "none"]) is is_match


def test_only_what_matches_is_found(tmp_path):
    touch(tmp_path, "p/a_ch1.tif", "p/a_ch2.tif", "q/a_ch1.tif", "q/a_ch1.txt", "notes.txt")
    choices = {"recursive": True, "patterns": ("*_ch1.*",)}
    assert names_of_images(tmp_path, **choices) == ["p/a_ch1.tif", "q/a_ch1.tif"]
    assert list(reasons(tmp_path, **choices)) == ["q/a_ch1.txt"]
    assert names_of_images(tmp_path, recursive=True, patterns=("p/*",)) == [
        "p/a_ch1.tif", "p/a_ch2.tif",
    ]  # fmt: skip


def test_list_names_images_from_its_own_folder(tmp_path, monkeypatch):
    touch(tmp_path, "data/p/b.tif", "data/a.dat")
    text = "\ufeff# two images\r\n\r\n  p/b.tif  \r\na.dat\np/b.tif\nmissing.tif\n"
    (tmp_path / "data" / "list.txt").write_bytes(text.encode())
    monkeypatch.chdir(tmp_path)
    found = find_inputs(Selection((Path("@data/list.txt"),)))
    assert [image.name for image in found.images] == ["a.dat", "missing.tif", "p/b.tif"]
    assert found.images[2].path == tmp_path / "data" / "p" / "b.tif"


def test_listed_images_elsewhere_are_named_from_the_folder_they_share(tmp_path):
    touch(tmp_path, "data/p/b.tif", "data/q/w/b.tif", "lists/c.tif")
    listed = [tmp_path / "data" / "p" / "b.tif", "../data/q/w/b.tif"]
    (tmp_path / "lists" / "list.txt").write_text("\n".join(map(str, listed)))
    listed_file = Path(f"@{tmp_path}/lists/list.txt")
    assert names_of_images(listed_file) == ["p/b.tif", "q/w/b.tif"]
    assert names_of_images(listed_file, tmp_path / "lists" / "c.tif") == [
        "data/p/b.tif", "data/q/w/b.tif", "lists/c.tif",
    ]  # fmt: skip


def test_files_behind_a_link_and_two_dots_have_names_of_their_own(tmp_path):
    touch(tmp_path, "data/a.tif", "other/a.tif", "other/deep/b.tif")
    (tmp_path / "data" / "link").symlink_to(tmp_path / "other" / "deep")
    (tmp_path / "data" / "list.txt").write_text("a.tif\nlink/../a.tif\nlink/../../data/a.tif\n")
    listed = Path(f"@{tmp_path}/data/list.txt")
    assert names_of_images(listed) == ["data/a.tif", "other/a.tif"]
    found = find_inputs(Selection((tmp_path / "data" / "link" / "..", tmp_path / "data")))
    assert [image.name for image in found.images] == ["data/a.tif", "other/a.tif"]
    for image in found.images:
        assert image.path.samefile(tmp_path / image.name)


def test_two_dots_in_paths_without_links_change_no_name(tmp_path):
    touch(tmp_path, "real/data/a.tif", "real/data/p/b.tif")
    (tmp_path / "link").symlink_to("real")
    data = tmp_path / "link" / "data"
    (data / "list.txt").write_text("p/../a.tif\np/b.tif\np/../p/../a.tif\n")
    found = find_inputs(Selection((Path(f"@{data}/list.txt"),)))
    assert [image.path for image in found.images] == [data / "a.tif", data / "p" / "b.tif"]
    assert names_of_images(data / "p" / "..") == ["a.tif"]


def test_names_of_other_encodings_are_kept(tmp_path):
    name = os.fsdecode(b"caf\xe9.tif")
    touch(tmp_path, name)
    (tmp_path / "list.txt").write_bytes(b"caf\xe9.tif\n")
    assert names_of_images(Path(f"@{tmp_path}/list.txt")) == [name]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), (b"II*\0", "found a binary file.*without @")],
)
def test_list_that_is_none_is_wrong_use(tmp_path, content, message):
    path = tmp_path / "list.txt"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        names_of_images(Path(f"@{path}"))


def test_several_inputs_are_named_from_the_folder_they_share(tmp_path):
    touch(tmp_path, "d1/a.tif", "d2/a.tif", "d2/w/b.tif")
    days = [tmp_path / "d1", tmp_path / "d2"]
    assert names_of_images(*days) == ["d1/a.tif", "d2/a.tif"]
    assert names_of_images(*days, recursive=True)[2:] == ["d2/w/b.tif"]
    assert names_of_images(tmp_path / "d1" / "a.tif", tmp_path / "d2") == ["d1/a.tif", "d2/a.tif"]


def test_input_that_is_given_twice_is_done_once(tmp_path):
    touch(tmp_path, "a.tif", "p/b.tif")
    assert names_of_images(tmp_path, tmp_path / "a.tif") == ["a.tif"]
    assert names_of_images(tmp_path / "p", tmp_path, recursive=True) == ["a.tif", "p/b.tif"]


def test_missing_input_is_wrong_use(tmp_path):
    with pytest.raises(UsageError, match="found nothing there"):
        names_of_images(tmp_path / "nowhere")
