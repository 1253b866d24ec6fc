"""Generated training images: valid labels, varied looks, the same for the same seed."""

import argparse

import cv2
import numpy as np
import pytest
from skimage.measure import label as split_regions

from mediar_infer.errors import UsageError
from mediar_infer.training.commands import generate as generate_command
from mediar_infer.training.data.generated import KINDS, draw_scene, write_generated
from mediar_infer.training.data.index import index_folders


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_every_cell_is_one_region_with_its_own_id(kind, seed):
    image, labels = draw_scene(kind, np.random.default_rng(seed), side=160)
    assert image.shape == (160, 160, 3)
    assert image.dtype == np.uint8
    n = labels.max()
    assert n >= 1
    assert np.unique(labels[labels > 0]).tolist() == list(range(1, n + 1))
    assert split_regions(labels, connectivity=1).max() == n
    assert np.bincount(labels.ravel())[1:].min() >= 24


@pytest.mark.parametrize("kind", KINDS)
def test_cells_can_be_seen(kind):
    # Some colour differs between cells and background or, in a relief, only their roughness.
    differences = []
    for seed in range(6):
        image, labels = draw_scene(kind, np.random.default_rng(seed), side=320)
        if kind == "relief":
            steps = np.abs(np.diff(cv2.GaussianBlur(image.astype(np.float32), (0, 0), 2), axis=0))
            image, labels = steps, labels[:-1]
        inside = labels > 0
        if inside.all():
            continue
        apart = np.abs(image[inside].mean(axis=0) - image[~inside].mean(axis=0)).max()
        differences.append(apart / max(image.std(), 1))
    assert np.median(differences) > 0.3


def test_written_images_are_indexed_as_public_images_of_source_generated(tmp_path):
    parser = argparse.ArgumentParser()
    generate_command.add_arguments(parser)

    code = generate_command.run(parser.parse_args(["4", "-o", str(tmp_path), "--seed", "7"]))

    index = index_folders([tmp_path])
    assert code == 0
    assert index.problems == []
    assert [record.role for record in index.records] == ["public"] * 4
    assert [record.source for record in index.records] == ["generated"] * 4
    assert [record.modality for record in index.records] == list(KINDS[:4])
    assert [record.image_id for record in index.records] == [f"generated_7_{i}" for i in range(4)]


def test_written_images_depend_on_the_seed_only(tmp_path):
    digests = {}
    for name, seed in {"one": 7, "again": 7, "other": 8}.items():
        write_generated(2, tmp_path / name, seed)
        index = index_folders([tmp_path / name])
        digests[name] = [(record.digest, record.n_cells) for record in index.records]

    assert digests["one"] == digests["again"]
    assert digests["one"] != digests["other"]


def test_no_image_to_generate_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="found 0 images to generate, expected 1 or more"):
        write_generated(0, tmp_path, 7)
