"""Slides by OpenSlide: a DICOM slide written here; the other formats only as far as errors go."""

import numpy as np
import pytest
from slide_files import write_dicom_slide

from mediar_infer.errors import ImageReadError
from mediar_infer.images import slide_source
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.open import open_image

pytest.importorskip("openslide")
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
