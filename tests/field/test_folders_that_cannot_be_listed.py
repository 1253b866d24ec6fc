"""Folders that may be entered but not listed, such as those of other users of mode 711."""

import errno
from pathlib import Path

import pytest
from folder_helpers import noise, write_image

from mediar_infer import cli


@pytest.fixture
def closed(tmp_path, monkeypatch):
    """A folder that nobody may list: root may list any, so the refusal is put in its place."""
    folder = tmp_path / "closed"
    folder.mkdir()
    plain = Path.iterdir

    def iterdir(path):
        if folder in (path, *path.parents):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "CLOSED", "OPEN", "-o", "OUT"),
        ("evaluate", "OPEN", "CLOSED", "-o", "OUT"),
        ("export", "CLOSED", "-o", "OUT", "--rois"),
        ("submission", "OUT/a.zip", "-l", "CLOSED"),
        ("challenge", "-i", "IN", "-o", "OUT", "--gt", "CLOSED"),
        ("challenge", "-i", "IN", "-o", "CLOSED"),
    ],
)
def test_commands_name_the_folder_in_one_line(closed, tmp_path, capsys, command):
    write_image(tmp_path / "in" / "a.png", noise(20, 30))
    (tmp_path / "open").mkdir()
    for word in ("CLOSED", "OPEN", "OUT", "IN"):
        command = [text.replace(word, str(tmp_path / word.lower())) for text in command]
    assert cli.main(command) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "found a folder that cannot be listed (Permission denied), expected " in line
    assert str(closed) in line
