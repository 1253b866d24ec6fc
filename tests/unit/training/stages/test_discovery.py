"""Embeddings, clusters, their table and pictures."""

import json
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from fakes import TINY, tiny_state_dict

from mediar_infer.errors import UsageError
from mediar_infer.network.checkpoints import save_weights
from mediar_infer.network.model import MediarFormer
from mediar_infer.training.commands import discover as discover_command
from mediar_infer.training.data.samples import Sample
from mediar_infer.training.data.table import TrainingImage, read_table, write_table
from mediar_infer.training.stages.cluster_plots import draw_sheet, write_sheets
from mediar_infer.training.stages.clustering import (
    compute_purity,
    find_clusters,
    project_embeddings,
)
from mediar_infer.training.stages.discovery import (
    WINDOW,
    compute_embeddings,
    discover,
    find_earlier,
    write_clusters,
)
from mediar_infer.training.stages.sampling import read_clusters


def make_record(image_id, modality="", folder=Path("/nowhere"), role="target"):
    label = folder / f"{image_id}_label.tiff" if role == "target" else None
    path = folder / f"{image_id}.png"
    return TrainingImage(image_id, role, "train", modality, "", path, label, 64, 64, "uint8", 1, "")


def make_sample(image_id, image, modality=""):
    return Sample(make_record(image_id, modality), image, np.zeros(image.shape[:2], np.int32))


def draw_image(rng, height=64, width=64, brightness=120):
    return rng.integers(0, brightness, (height, width, 3), np.uint8)


@pytest.fixture
def network():
    model = MediarFormer(TINY)
    model.load_state_dict(tiny_state_dict())
    return model


@pytest.fixture
def blobs(rng):
    """Three far groups of 8, 5 and 3 points; the last dimension tells nothing."""
    centres = np.repeat([[0, 0, 9], [50, 0, 9], [0, 50, 9]], (8, 5, 3), axis=0)
    centres = centres + rng.normal(0, 1, (16, 3)) * [1, 1, 0]
    return centres.astype(np.float32)


def test_embedding_has_all_stages_of_the_encoder(network, rng):
    embeddings = compute_embeddings(network, [make_sample("a", draw_image(rng))])
    assert embeddings.shape == (1, sum(TINY.encoder_channels))
    assert embeddings.dtype == np.float32


def test_embedding_of_an_image_does_not_depend_on_the_others(network, rng):
    samples = [
        make_sample(str(i), draw_image(rng, *size))
        for i, size in enumerate([(64, 64), (1, 1), (33, 90)])
    ]
    together = compute_embeddings(network, samples)
    alone = np.concatenate([compute_embeddings(network, [sample]) for sample in samples])
    np.testing.assert_array_equal(together, alone)


def test_large_image_is_seen_in_windows_up_to_its_edges(network, rng):
    image = np.zeros((40, WINDOW + 64, 3), np.uint8)
    dark = compute_embeddings(network, [make_sample("a", image)])
    image[:, -8:] = draw_image(rng, 40, 8)
    assert not np.allclose(compute_embeddings(network, [make_sample("a", image)]), dark)


def test_no_image_to_embed_is_an_error(network):
    with pytest.raises(UsageError, match="no image to embed"):
        compute_embeddings(network, [])


def test_clusters_are_the_groups_numbered_by_size(blobs, rng):
    order = rng.permutation(len(blobs))
    clusters = find_clusters(blobs[order], 3, seed=5)
    np.testing.assert_array_equal(clusters, np.repeat([0, 1, 2], (8, 5, 3))[order])


def test_clusters_follow_from_the_seed(rng):
    points = rng.normal(size=(60, 4)).astype(np.float32)
    first, again = (find_clusters(points, 9, seed=7) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_more_clusters_than_images_gives_each_its_own(blobs):
    assert sorted(find_clusters(blobs[:4], 40)) == [0, 1, 2, 3]


def test_equal_images_share_a_cluster_however_many_are_asked_for():
    points = np.array([[1, 2], [1, 2], [5, 2]], np.float32)
    np.testing.assert_array_equal(find_clusters(points, 3), [0, 0, 1])


@pytest.mark.parametrize("n", [1, 4])
def test_images_without_any_difference_are_one_cluster(n):
    np.testing.assert_array_equal(find_clusters(np.ones((n, 3), np.float32), 40), np.zeros(n))


def test_no_cluster_at_all_is_refused(blobs):
    with pytest.raises(UsageError, match="found 0 clusters"):
        find_clusters(blobs, 0)


def test_embeddings_are_not_modified(blobs):
    before = blobs.copy()
    find_clusters(blobs, 2)
    project_embeddings(blobs)
    np.testing.assert_array_equal(blobs, before)


@pytest.mark.parametrize("n", [1, 2, 16])
def test_projection_has_two_axes_for_any_number_of_images(blobs, n):
    assert project_embeddings(blobs[:n]).shape == (n, 2)


def test_projection_keeps_far_groups_apart(blobs):
    plane = project_embeddings(blobs)
    groups = plane[:8], plane[8:13], plane[13:]
    centres = np.stack([group.mean(0) for group in groups])
    spread = max(group.std(0).max() for group in groups)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.linalg.norm(centres[i] - centres[j]) > 5 * spread


def test_purity_counts_the_most_frequent_modality_of_each_cluster():
    clusters = np.array([0, 0, 0, 1, 1, 2])
    purity = compute_purity(clusters, ["a", "a", "b", "b", "b", ""])
    assert (purity.n_images, purity.n_modalities) == (5, 2)
    assert purity.purity == pytest.approx(4 / 5)
    assert purity.chance == pytest.approx(3 / 5)


@pytest.mark.parametrize(("modalities", "expected"), [("aabb", 1.0), ("abab", 0.0)])
def test_mutual_information_is_one_for_equal_and_zero_for_independent(modalities, expected):
    purity = compute_purity(np.array([0, 0, 1, 1]), list(modalities))
    assert purity.mutual_information == pytest.approx(expected, abs=1e-12)


def test_purity_of_unknown_modalities_is_none():
    assert compute_purity(np.array([0, 1]), ["", ""]) is None


def test_cluster_table_is_what_sampling_reads(tmp_path):
    path = tmp_path / "clusters.csv"
    write_clusters(path, [make_record("a, b"), make_record("c")], np.array([1, 0]))
    assert read_clusters(path) == {"a, b": 1, "c": 0}


def test_sheet_has_a_tile_per_image(rng):
    one = draw_sheet([make_sample("a", draw_image(rng))], "cluster 0")
    nine = draw_sheet([make_sample("a", draw_image(rng, 9, 200))] * 9, "cluster 0")
    assert one.shape[2] == 3
    assert nine.shape[0] > 1.5 * one.shape[0]


def test_sheets_are_written_per_cluster(tmp_path, rng):
    samples = [make_sample(name, draw_image(rng)) for name in "abc"]
    paths = write_sheets(tmp_path, samples, np.array([0, 1, 0]))
    assert [path.name for path in paths] == ["cluster_00.png", "cluster_01.png"]
    assert all(cv2.imread(str(path)) is not None for path in paths)


@pytest.fixture
def data(tmp_path, rng):
    """Four bright and two dark images in a table, and weights."""
    torch.manual_seed(0)
    save_weights(tiny_state_dict(), tmp_path / "weights.safetensors")
    records = [make_record(f"image_{i}", "light" if i < 4 else "dark", tmp_path) for i in range(6)]
    for i, record in enumerate(records):
        image = draw_image(rng) if i < 4 else np.full((64, 64, 3), 7, np.uint8)
        cv2.imwrite(str(record.image_path), image)
        cv2.imwrite(str(record.label_path), np.ones((64, 64), np.uint16))
    write_table(records, tmp_path / "table.csv")
    return tmp_path


def run(folder, *options):
    parser = ArgumentParser()
    discover_command.add_arguments(parser)
    common = [
        "--table",
        str(folder / "table.csv"),
        "--weights",
        str(folder / "weights.safetensors"),
    ]
    common += ["-o", str(folder / "out"), "--device", "cpu"]
    return discover_command.run(parser.parse_args([*common, *options]))


def test_command_writes_table_sheets_projection_and_figures(data):
    assert run(data, "-k", "2") == 0
    clusters = read_clusters(data / "out" / "clusters.csv")
    assert [clusters[f"image_{i}"] for i in range(6)] == [0, 0, 0, 0, 1, 1]
    names = {path.name for path in (data / "out").iterdir()}
    assert names == {
        "clusters.csv", "cluster_00.png", "cluster_01.png", "projection.png", "discovery.json",
    }  # fmt: skip
    content = json.loads((data / "out" / "discovery.json").read_text())
    assert content["modalities"]["purity"] == 1.0
    assert content["sizes"] == [4, 2]


def test_command_leaves_no_sheet_of_an_earlier_discovery(data):
    run(data, "-k", "2")
    run(data, "-k", "1")
    assert [p.name for p in (data / "out").glob("cluster_*.png")] == ["cluster_00.png"]


def test_earlier_clusters_are_those_of_the_same_weights_images_and_numbers(data):
    weights, folder = data / "weights.safetensors", data / "out"
    records = read_table(data / "table.csv")
    asked = {"n_clusters": 2, "seed": 5}
    assert find_earlier(weights, records, folder, **asked) is None
    made = discover(weights, records, folder, **asked, device="cpu")
    assert find_earlier(weights, records, folder, **asked) == made
    for other in ({"n_clusters": 3}, {"seed": 6}):
        assert find_earlier(weights, records, folder, **asked | other) is None
    assert find_earlier(weights, records[1:], folder, **asked) is None
    replaced = [*records[:-1], replace(records[-1], digest="another picture")]
    assert find_earlier(weights, replaced, folder, **asked) is None
    save_weights(tiny_state_dict(1), weights)
    assert find_earlier(weights, records, folder, **asked) is None


def test_command_without_images_of_the_role_says_so(data):
    with pytest.raises(UsageError, match="no image to embed"):
        run(data, "--roles", "public")
