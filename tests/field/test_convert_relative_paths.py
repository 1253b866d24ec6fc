"""README's ``training convert SET downloads/… -o data/…`` works from the folder it is typed in."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_data import save_image, save_labels

from mediar_infer.training.__main__ import main
from mediar_infer.training.data.candidates import read_data_manifest


def download_omnipose(folder):
    save_image(folder / "bact_phase" / "a.tif")
    save_labels(folder / "bact_phase" / "a_masks.tif")


def download_cellpose(folder):
    save_image(folder / "train" / "000_img.png")
    save_labels(folder / "train" / "000_masks.tif").rename(folder / "train" / "000_masks.png")


def download_livecell(folder):
    save_image(folder / "images" / "a.tif")
    content = {
        "images": [{"id": 1, "file_name": "a.tif", "height": 12, "width": 16}],
        "annotations": [{"image_id": 1, "segmentation": [[2, 2, 6, 2, 6, 6, 2, 6]]}],
    }
    (folder / "livecell_coco_val.json").write_text(json.dumps(content))


def download_dsb2018(folder):
    save_image(folder / "stage1_train" / "aa" / "images" / "aa.png")
    mask = save_labels(folder / "stage1_train" / "aa" / "masks" / "1.tif", n_cells=1)
    mask.rename(mask.with_suffix(".png"))


def download_challenge(folder):
    save_image(folder / "Training-labeled" / "images" / "a.png")
    save_labels(folder / "Training-labeled" / "labels" / "a_label.tiff")


DOWNLOADS = {
    "omnipose": download_omnipose,
    "cellpose": download_cellpose,
    "livecell": download_livecell,
    "dsb2018": download_dsb2018,
    "challenge": download_challenge,
}


@pytest.mark.parametrize("data_set", DOWNLOADS)
@pytest.mark.parametrize(
    ("folder", "output"),
    [
        ("downloads/set", "data/set"),
        ("./downloads/../downloads/set/", "../work/data/set"),
        ("{here}/downloads/set", "{here}/data/set"),
        ("downloads/set", "{here}/data/set"),
        ("{here}/downloads/set", "data/set"),
    ],
)
def test_every_set_is_converted(tmp_path, monkeypatch, data_set, folder, output):
    here = tmp_path / "work"
    here.mkdir()
    DOWNLOADS[data_set](here / "downloads" / "set")
    monkeypatch.chdir(here)

    code = main(["convert", data_set, folder.format(here=here), "-o", output.format(here=here)])

    assert code == 0
    (image,) = read_data_manifest(here / "data" / "set" / "manifest.csv")
    assert image.image_path.is_file()
    assert image.label_path.is_file()
    assert image.image_path.is_relative_to(here / "data" / "set")


def test_converted_set_can_be_indexed_from_another_folder(tmp_path, monkeypatch):
    download_challenge(tmp_path / "downloads")
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "challenge", "downloads", "-o", "data"]) == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)

    assert main(["index", str(Path("..") / "data"), "-o", "table.csv"]) == 0
    assert np.char.count((elsewhere / "table.csv").read_text(), "challenge_Training") >= 1
