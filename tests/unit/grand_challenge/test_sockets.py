"""Sockets and interfaces of grand-challenge.org: known ones are found, all else is told apart."""

import json
from pathlib import PurePosixPath

import pytest

from mediar_infer.errors import SocketError, UsageError
from mediar_infer.grand_challenge.interfaces import (
    SHIPPED_TABLE,
    Interface,
    choose_table,
    find_interface,
    read_interfaces,
    result_path,
)
from mediar_infer.grand_challenge.sockets import Socket, find_image, read_sockets

IMAGE = {
    "slug": "microscopy-image",
    "kind": "Image",
    "super_kind": "Image",
    "relative_path": "images/microscopy-image",
}
AGE = {"slug": "age", "kind": "Integer", "super_kind": "Value", "relative_path": "age.json"}
CELLS = Interface("cells", PurePosixPath("images/labels"))
CELLS_AND_AGE = Interface("cells", PurePosixPath("images/labels-by-age"), ("age",))


def write_inputs(folder, content):
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "inputs.json").write_text(text)
    return folder


@pytest.mark.parametrize("key", ["socket", "interface", "component_interface"])
def test_sockets_are_read_whatever_the_platform_calls_them(tmp_path, key):
    write_inputs(
        tmp_path,
        [
            {key: IMAGE, "image": {"name": "a.tif"}, "file": None, "value": None, "pk": 1},
            {key: AGE, "image": None, "file": None, "value": 3, "pk": 2},
        ],
    )
    assert read_sockets(tmp_path) == [
        Socket("microscopy-image", PurePosixPath("images/microscopy-image"), is_image=True),
        Socket("age", PurePosixPath("age.json"), is_image=False),
    ]


@pytest.mark.parametrize(
    ("description", "entry"),
    [
        ({"super_kind": "Image"}, {}),
        ({"super_kind": "image", "kind": "Segmentation"}, {}),
        ({"kind": "Image"}, {}),
        ({"kind": "Segmentation"}, {"image": {"pk": "1"}}),
    ],
)
def test_image_sockets_are_reported_by_any_sign(tmp_path, description, entry):
    write_inputs(tmp_path, [{"socket": {"slug": "a", **description}, **entry}])
    assert read_sockets(tmp_path) == [Socket("a", None, is_image=True)]


BROKEN = {
    "text": ("not json", "found no JSON"),
    "cut off": ('[{"socket": {', "found no JSON"),
    "object": ({"socket": IMAGE}, "found JSON of type dict, expected the list"),
    "no object": (["a"], "entry 0: found str, expected"),
    "no socket": ([{"pk": 1, "value": 2}], "entry 0: found pk, value, expected"),
    "no slug": ([{"socket": IMAGE}, {"socket": {"kind": "Image"}}], "entry 1: found socket"),
    "twice": ([{"socket": IMAGE}, {"socket": IMAGE}], "found microscopy-image twice"),
    "leads out": ([{"socket": IMAGE | {"relative_path": "../a"}}], "path '../a', expected a rel"),
    "absolute": ([{"socket": IMAGE | {"relative_path": "/etc"}}], "path '/etc', expected a rel"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_list_of_inputs_that_is_none_is_an_error(tmp_path, fault):
    content, message = BROKEN[fault]
    write_inputs(tmp_path, content)
    with pytest.raises(SocketError, match=message):
        read_sockets(tmp_path)


def test_missing_list_of_inputs_says_what_to_mount(tmp_path):
    with pytest.raises(SocketError, match=r"inputs\.json: there is no such file, .*mount the job"):
        read_sockets(tmp_path)
    (tmp_path / "inputs.json").mkdir()
    with pytest.raises(SocketError, match=r"inputs\.json: cannot be read \(Is a directory\)"):
        read_sockets(tmp_path)


def test_interface_is_found_by_all_its_sockets_in_any_order():
    known = [CELLS, CELLS_AND_AGE]
    assert find_interface(["cells"], known) == CELLS
    assert find_interface(["cells", "age"], known) == CELLS_AND_AGE
    assert find_interface(["age", "cells"], known) == CELLS_AND_AGE


@pytest.mark.parametrize("slugs", [[], ["age"], ["cells", "mask"], ["cells", "age", "mask"]])
def test_unknown_interface_lists_what_was_found_and_what_is_known(slugs):
    found = f"the input sockets {', '.join(sorted(slugs))}" if slugs else "no input socket"
    with pytest.raises(SocketError, match=f"found {found}, expected .*: cells; or age, cells; "):
        find_interface(slugs, [CELLS, CELLS_AND_AGE])


def test_given_image_socket_is_taken_whatever_comes_with_it():
    found = find_interface(["b", "cells", "a"], [CELLS_AND_AGE], image_slug="cells")
    assert found == Interface("cells", CELLS_AND_AGE.result, ("a", "b"))
    found = find_interface(["other"], [CELLS], image_slug="other")
    assert found == Interface("other", CELLS.result)
    known = [CELLS, CELLS_AND_AGE]
    assert find_interface(["age", "cells"], known, image_slug="cells") == CELLS_AND_AGE
    with pytest.raises(SocketError, match="input sockets cells, expected the socket other of"):
        find_interface(["cells"], [CELLS], image_slug="other")


def test_given_result_replaces_that_of_the_table():
    result = PurePosixPath("images/elsewhere")
    assert find_interface(["cells"], [CELLS], result=result).result == result
    found = find_interface(["other"], [CELLS], image_slug="other", result=result)
    assert found.result == result


def test_result_is_a_slug_or_a_path_inside():
    assert result_path("cells", "x") == PurePosixPath("images/cells")
    assert result_path("a/b", "x") == PurePosixPath("a/b")
    assert result_path("images/", "x") == PurePosixPath("images")
    assert result_path("./", "x") == PurePosixPath()
    for path in ("/a", "../a", "a/../b", ".."):
        with pytest.raises(UsageError, match="expected a relative one"):
            result_path(path, "x")


def test_shipped_table_is_read_and_replaced_by_that_of_the_model(tmp_path):
    # What the platform itself defines; no other slug is known to exist.
    assert read_interfaces(SHIPPED_TABLE) == [
        Interface("generic-medical-image", PurePosixPath("images"))
    ]
    assert choose_table(None, tmp_path) == SHIPPED_TABLE
    (tmp_path / "sockets.toml").touch()
    assert choose_table(None, tmp_path) == tmp_path / "sockets.toml"
    assert choose_table(tmp_path / "given.toml", tmp_path) == tmp_path / "given.toml"


def test_commented_examples_of_the_shipped_table_are_tables(tmp_path):
    lines = SHIPPED_TABLE.read_text().splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("# [[interface]]"))
    text = "\n".join(line.removeprefix("# ") for line in lines[start:] if line != "#")
    (tmp_path / "a.toml").write_text(text)
    assert read_interfaces(tmp_path / "a.toml") == [
        Interface("my-cell-image", PurePosixPath("images/my-cell-labels")),
        Interface(
            "my-cell-image", PurePosixPath("images/labels-of-my-cells"),
            ("my-pixel-size", "my-tissue-mask"),
        ),
    ]  # fmt: skip


def test_table_names_further_sockets_and_paths(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(
        '[[interface]]\nimage = "cells"\nalso = ["age"]\nresult = "labels-by-age"\n'
        '[[interface]]\nimage = "cells"\nresult = "images/labels"\n'
    )
    assert read_interfaces(path) == [CELLS_AND_AGE, CELLS]


ENTRY = '[[interface]]\nimage = "a"\nresult = "b"\n'
NO_TABLE = {
    "empty": ("", "found nothing, expected tables"),
    "no TOML": ("[[interface", "found no TOML"),
    "another key": (ENTRY + "[more]\n", "found interface, more, expected"),
    "no list": ('interface = "a"', "found interface, expected"),
    "unknown field": (ENTRY + 'results = "c"\n', "found the interface .*'results'"),
    "no result": ('[[interface]]\nimage = "a"\n', "found the interface {'image': 'a'}"),
    "a number": ('[[interface]]\nimage = 1\nresult = "b"\n', "found the interface"),
    "no list of more": (ENTRY + 'also = "c"\n', "found the interface"),
    "twice": (ENTRY + ENTRY, "two interfaces with the same sockets"),
    "leads out": ('[[interface]]\nimage = "a"\nresult = "../b"\n', "found the path '../b'"),
}


@pytest.mark.parametrize("fault", NO_TABLE)
def test_table_that_is_none_is_an_error(tmp_path, fault):
    text, message = NO_TABLE[fault]
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_interfaces(tmp_path / "a.toml")


def test_missing_table_is_an_error(tmp_path):
    with pytest.raises(UsageError, match=r"a\.toml: cannot be read \(No such file"):
        read_interfaces(tmp_path / "a.toml")


SOCKET = Socket("cells", PurePosixPath("images/cells"), is_image=True)


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize("name", ["a.mha", "b.tif", "c.TIFF", "d.ome.tif"])
def test_one_image_is_found_beside_other_files(tmp_path, name):
    fill(tmp_path / "images/cells", name, "notes.txt", ".hidden.tif")
    assert find_image(tmp_path, SOCKET) == tmp_path / "images/cells" / name


def test_image_at_the_input_folder_itself_is_found(tmp_path):
    """The platform gives generic-medical-image an empty path."""
    generic = IMAGE | {"slug": "generic-medical-image", "relative_path": ""}
    listed = {"slug": "notes", "kind": "String", "super_kind": "Value", "relative_path": ""}
    write_inputs(tmp_path, [{"socket": listed, "value": "x"}, {"socket": generic}])
    fill(tmp_path, "b0b2e6a6.mha", "images/cells/another.mha")
    socket = read_sockets(tmp_path)[1]
    assert socket == Socket("generic-medical-image", PurePosixPath(), is_image=True)
    assert find_image(tmp_path, socket) == tmp_path / "b0b2e6a6.mha"


@pytest.mark.parametrize("path", ["a\0b", "\ud800", "a" * 300])
def test_path_that_no_file_system_holds_is_an_error(tmp_path, path):
    write_inputs(tmp_path, [{"socket": IMAGE | {"relative_path": path}}])
    (socket,) = read_sockets(tmp_path)
    with pytest.raises(SocketError, match=r"cannot be listed \("):
        find_image(tmp_path, socket)


def test_none_or_several_images_are_an_error(tmp_path):
    folder = tmp_path / "images/cells"
    with pytest.raises(SocketError, match=r"cells: cannot be listed \(No such file.*one image"):
        find_image(tmp_path, SOCKET)
    folder.mkdir(parents=True)
    with pytest.raises(SocketError, match=r"found no image \(empty folder\), expected one image"):
        find_image(tmp_path, SOCKET)
    fill(folder, "a.png")
    with pytest.raises(SocketError, match=r"found no image \(a\.png\)"):
        find_image(tmp_path, SOCKET)
    fill(folder, "a.tif", "b.mha")
    with pytest.raises(SocketError, match=r"found 2 images \(a\.tif, b\.mha\)"):
        find_image(tmp_path, SOCKET)
    fill(folder, *(f"{k}.tif" for k in range(5)))
    with pytest.raises(SocketError, match=r"found 7 images \(0\.tif, .*, … \(7 files\)\)"):
        find_image(tmp_path, SOCKET)


def test_socket_that_holds_no_image_is_an_error(tmp_path):
    with pytest.raises(SocketError, match="found no image in the socket age"):
        find_image(tmp_path, Socket("age", PurePosixPath("age.json"), is_image=False))
    with pytest.raises(SocketError, match="found no relative_path in the socket cells"):
        find_image(tmp_path, Socket("cells", None, is_image=True))
