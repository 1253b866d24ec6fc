"""Slides by OpenSlide: a DICOM slide written here; the other formats only as far as errors go."""

import numpy as np
import pytest
from bif_files import write_bif
from slide_files import write_dicom_slide

from mediar_infer.errors import ImageReadError
from mediar_infer.images import slide_source, ventana_bif
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.open import open_image

openslide = pytest.importorskip("openslide")
pytest.importorskip("pydicom")

IMAGE = np.random.default_rng(0).integers(0, 256, (150, 201, 3), np.uint8)


def read_rows(path, step, **options):
    with open_image(path, ReadOptions(**options)) as source:
        steps = [(top, min(top + step, source.height)) for top in range(0, source.height, step)]
        return source, np.concatenate([source.read_rows(*rows) for rows in steps])


@pytest.mark.parametrize("step", [7, 64, 150])
def test_rows_of_a_dicom_slide(tmp_path, monkeypatch, step):
    monkeypatch.setattr(slide_source, "_REGION_BYTES", 4 * 50 * step)
    source, found = read_rows(write_dicom_slide(tmp_path / "a.dcm", IMAGE), step)
    np.testing.assert_array_equal(found, IMAGE)
    np.testing.assert_allclose(source.geometry.pixel_size_mm, (0.5e-3, 0.25e-3))
    assert (source.dtype, source.warnings) == (np.uint8, ())


def test_compressed_tiles_are_close(tmp_path):
    smooth = np.stack(np.broadcast_arrays(*np.ogrid[:150, :201], 90), axis=-1).astype(np.uint8)
    _, found = read_rows(write_dicom_slide(tmp_path / "a.dcm", smooth, compress=True), 40)
    assert np.abs(found.astype(int) - smooth).max() < 12


def test_one_colour_is_chosen_by_number(tmp_path):
    _, found = read_rows(write_dicom_slide(tmp_path / "a.dcm", IMAGE), 40, channels=(1,))
    np.testing.assert_array_equal(found, IMAGE[:, :, [1, 1, 1]])


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_dicom_slide_is_a_clean_error(tmp_path, share):
    path = write_dicom_slide(tmp_path / "a.dcm", IMAGE)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ImageReadError, match=r"^a\.dcm: .*, expected "):
        read_rows(path, 40)


@pytest.mark.parametrize("name", ["a.mrxs", "a.vms", "a.dcm"])
def test_slide_without_its_other_files_is_a_clean_error(tmp_path, name):
    data = {"a.mrxs": b"\xff\xd8\xff\xe0", "a.vms": b"[Virtual Microscope Specimen]\n"}
    (tmp_path / name).write_bytes(data.get(name, bytes(128) + b"DICM" + bytes(200)))
    with pytest.raises(ImageReadError, match=rf"^{name}: .*, expected .*; "):
        open_image(tmp_path / name)


TILES = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)


@pytest.mark.parametrize("name", ["a.bif", "a.tif"])
def test_overlapping_tiles_of_a_ventana_slide_are_stitched(tmp_path, name):
    path = write_bif(tmp_path / name, TILES, 4)
    source, found = read_rows(path, 7)
    stitched = openslide.OpenSlide(path).read_region((0, 0), 0, (28, 28))
    np.testing.assert_array_equal(found, np.asarray(stitched)[:, :, :3])
    np.testing.assert_array_equal(found[18:, 18:], TILES[22:, 22:])
    assert source.pixel_size_mm == pytest.approx((0.25e-3, 0.25e-3))


@pytest.mark.parametrize("name", ["a.bif", "a.tif"])
def test_overlapping_tiles_need_openslide(tmp_path, monkeypatch, name):
    path = write_bif(tmp_path / name, TILES, 4)
    monkeypatch.setattr(ventana_bif, "find_spec", lambda _: None)
    with pytest.raises(
        ImageReadError,
        match=rf"^{name}: found a Ventana slide \(BIF\) .* overlap, .*mediar-infer\[slides\]",
    ):
        open_image(path)


def test_tiles_of_a_ventana_slide_side_by_side_need_no_openslide(tmp_path, monkeypatch):
    path = write_bif(tmp_path / "a.bif", TILES, 0)
    monkeypatch.setattr(ventana_bif, "find_spec", lambda _: None)
    np.testing.assert_array_equal(read_rows(path, 7)[1], TILES)
