"""Photographs with an EXIF orientation: which rows their labels lie on."""

import numpy as np
import pytest
from folder_helpers import latest_records, slide
from PIL import Image

from mediar_infer.labels.reading import read_labels


@pytest.fixture
def photograph(tmp_path):
    """A slide of 120 × 160 pixels whose camera lay on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "in").mkdir()
    pixels = np.ascontiguousarray(slide(height=120, width=160)[0])
    Image.fromarray(pixels).save(tmp_path / "in" / "a.png", exif=exif.tobytes())
    return tmp_path


@pytest.mark.usefixtures("perfect_network")
def test_labels_lie_on_the_stored_rows_with_a_warning(predict, photograph):
    assert predict(photograph / "in", photograph / "out") == 0
    assert read_labels(photograph / "out" / "a_label.tiff").shape == (120, 160)
    (warning,) = latest_records(photograph / "out")["a.png"]["warnings"]
    assert "EXIF orientation 6 is not applied" in warning
    assert "--apply-orientation" in warning


@pytest.mark.usefixtures("perfect_network")
def test_option_turns_image_and_labels_and_is_noticed_by_resume(predict, photograph):
    assert predict(photograph / "in", photograph / "out") == 0
    assert predict(photograph / "in", photograph / "out", "--resume", "--apply-orientation") == 0
    assert read_labels(photograph / "out" / "a_label.tiff").shape == (160, 120)
    record = latest_records(photograph / "out")["a.png"]
    assert record["status"] == "done"
    assert "EXIF orientation 6 is applied" in record["warnings"]
