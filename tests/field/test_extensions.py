"""A folder of slides whose extensions are rare."""

import numpy as np
import pytest
import tifffile

from mediar_infer.errors import ImageReadError
from mediar_infer.images.formats import IMAGE_FORMATS, UNREAD_FORMATS
from mediar_infer.images.listing import list_images
from mediar_infer.images.open import open_image

IMAGE = np.random.default_rng(0).integers(0, 255, (32, 40), np.uint8)


@pytest.mark.parametrize("extension", ["qptiff", "scn", "bif", "lsm", "stk", "flex", "TF8"])
def test_tiff_by_another_name_counts_as_an_image(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    tifffile.imwrite(path, IMAGE)
    assert list_images(tmp_path) == ([path], [])
    with open_image(path) as source:
        np.testing.assert_array_equal(source.read_rows(0, 32)[..., 0], IMAGE)


def test_skipped_image_is_named_and_other_files_are_not(tmp_path):
    tifffile.imwrite(tmp_path / "a.slide", IMAGE)
    (tmp_path / "b.dat").write_bytes(b"NRRD0005\n" + bytes(60))
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "results.csv").write_text("a,b")
    (tmp_path / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(60))
    (tmp_path / "empty.xyz").touch()
    images, skipped = list_images(tmp_path)
    assert (images, len(skipped)) == ([], 6)
    assert [file.reason for file in skipped if file.is_image] == [
        f"found TIFF with the extension .slide, expected one of {' '.join(IMAGE_FORMATS['TIFF'])};"
        " rename it",
        "found NRRD with the extension .dat, expected one of .nrrd .nhdr; rename it",
    ]


@pytest.mark.parametrize(
    "extension", [extension for known in UNREAD_FORMATS.values() for extension in known.extensions]
)
def test_image_of_a_format_that_is_not_read_is_an_error_with_a_remedy(tmp_path, extension):
    path = tmp_path / f"a{extension}"
    path.write_bytes(bytes(range(128, 255)))
    assert list_images(tmp_path) == ([path], [])
    with pytest.raises(ImageReadError) as caught:
        open_image(path)
    (name,) = [name for name, known in UNREAD_FORMATS.items() if extension in known.extensions]
    assert str(caught.value).startswith(f"{path.name}: found {name}, expected an image (BMP, ")
    assert str(caught.value).endswith(f"; {UNREAD_FORMATS[name].remedy}")


def test_content_decides_except_where_it_is_that_of_a_preview(tmp_path):
    for extension in (".zvi", ".vsi"):
        tifffile.imwrite(tmp_path / f"a{extension}", IMAGE)
    with open_image(tmp_path / "a.zvi") as source:
        assert (source.height, source.width) == IMAGE.shape
    with pytest.raises(ImageReadError, match=r"a\.vsi: found Olympus VSI, .*; export it as OME-T"):
        open_image(tmp_path / "a.vsi")


def test_zarr_folder_is_an_image_even_if_it_cannot_be_read(tmp_path):
    path = tmp_path / "in" / "a.zarr"
    path.mkdir(parents=True)
    assert list_images(tmp_path / "in") == list_images(path) == ([path], [])
    with pytest.raises(ImageReadError, match=r"a\.zarr: found no zarr group, expected an OME-Z"):
        open_image(path)
