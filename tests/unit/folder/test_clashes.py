"""Images whose results would overwrite each other are found before any of them is segmented."""

import errno
from pathlib import Path

import pytest

from mediar_infer import output_files
from mediar_infer.folder.clashes import explain_clashes
from mediar_infer.folder.run_image import RunImage

COMPOSED, DECOMPOSED = "caf\u00e9.tif", "cafe\u0301.tif"


def clashes(output_dir, *names, rule="challenge"):
    images = [RunImage.named(Path("in") / name, name, rule) for name in names]
    return {image.name: error for image, error in explain_clashes(images, output_dir, rule).items()}


@pytest.fixture
def folding_disk(monkeypatch):
    """A disk that keeps names but does not tell case or composition apart."""
    plain = Path.touch
    taken = set()

    def touch(self, *, exist_ok=True):
        folded = output_files.Path(str(self).casefold().replace("e\u0301", "\u00e9"))
        if folded in taken and not exist_ok:
            raise FileExistsError(errno.EEXIST, "File exists", str(self))
        taken.add(folded)
        plain(self, exist_ok=exist_ok)

    monkeypatch.setattr(output_files.Path, "touch", touch)


def test_images_that_share_a_label_file_name_each_other(tmp_path):
    found = clashes(tmp_path, "a.b.tif", "c.tif", "a.c.tif", "d/a.tif")
    assert list(found) == ["a.b.tif", "a.c.tif"]
    assert found["a.b.tif"] == (
        "a.b.tif: maps to a_label.tiff, and so does a.c.tif; expected one image per name up to the"
        " first dot; rename one of them, or keep the dots in results with --names full"
    )
    assert not list(tmp_path.iterdir())


def test_full_names_clash_by_extension_only(tmp_path):
    assert clashes(tmp_path, "a.b.tif", "a.c.tif", rule="full") == {}
    found = clashes(tmp_path, "a.b.tif", "a.b.png", rule="full")
    assert found["a.b.tif"].endswith(
        "expected one image per name without extension; rename one of them"
    )
    assert "--names" not in clashes(tmp_path, "a.tif", "a.png")["a.tif"]


def test_names_that_this_disk_tells_apart_do_not_clash(tmp_path):
    assert clashes(tmp_path / "out", "A.tif", "a.tif", COMPOSED, DECOMPOSED) == {}
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.usefixtures("folding_disk")
@pytest.mark.parametrize(
    ("first", "second"), [("A.tif", "a.tif"), (COMPOSED, DECOMPOSED), ("P/a.tif", "p/a.tif")]
)
def test_names_that_the_disk_does_not_tell_apart_clash(tmp_path, first, second):
    found = clashes(tmp_path, first, "b.tif", second)
    assert list(found) == [first, second]
    assert f"does not tell from the label file of {second}; expected names that" in found[first]
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_written_is_no_clash(tmp_path):
    (tmp_path / "out").touch()
    assert clashes(tmp_path / "out", "A.tif", "a.tif") == {}
