"""A folder of slides whose extensions are rare."""

import logging

import numpy as np
import pytest
import tifffile

from mediar_infer.images.open import list_images, open_image

IMAGE = np.random.default_rng(0).integers(0, 255, (32, 40), np.uint8)


@pytest.mark.parametrize("extension", ["qptiff", "scn", "bif", "lsm", "stk", "flex", "TF8"])
def test_tiff_by_another_name_counts_as_an_image(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    tifffile.imwrite(path, IMAGE)
    assert list_images(tmp_path) == ([path], [])
    with open_image(path) as source:
        np.testing.assert_array_equal(source.read_rows(0, 32)[..., 0], IMAGE)


def test_skipped_image_is_named_in_a_warning_and_other_files_are_not(tmp_path, caplog):
    tifffile.imwrite(tmp_path / "a.slide", IMAGE)
    (tmp_path / "b.czi").write_bytes(b"ZISRAWFILE" + bytes(60))
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "results.csv").write_text("a,b")
    (tmp_path / "empty.xyz").touch()
    with caplog.at_level(logging.WARNING):
        images, skipped = list_images(tmp_path)
    assert (images, len(skipped)) == ([], 5)
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("a.slide: skipped: found TIFF with the extension .slide, expected one")
    assert second.startswith("b.czi: skipped: found Zeiss CZI, expected BMP, JPEG")
