"""Which way an image is labelled, and what the released grid of blocks does to cells."""

import numpy as np
import pytest
from fakes import draw_ellipses, maps_of_labels

from mediar_infer.arrays import CELLPROB
from mediar_infer.config import MaskConfig
from mediar_infer.image_trace import Trace
from mediar_infer.labels import blocks
from mediar_infer.labels.blocks import Labelling, gather_rows, label_bands
from mediar_infer.labels.kernels.choice import select_kernels
from mediar_infer.labels.masks import compute_labels


@pytest.fixture
def everything_is_large(monkeypatch):
    """Blocks are used from the first pixel on."""
    monkeypatch.setattr(blocks, "LARGE_IMAGE_PIXELS", 1)


def in_bands(maps, rows):
    return (maps[:, top : top + rows] for top in range(0, maps.shape[1], rows))


def labelled(maps, config, rows=50):
    _, height, width = maps.shape
    how = Labelling(config, select_kernels(), Trace())
    bands = list(label_bands(in_bands(maps, rows), (height, width), how))
    labels = np.concatenate(bands)
    assert labels.shape == (height, width)
    assert labels.dtype == np.int32
    ids = np.unique(labels)
    assert ids[ids > 0].tolist() == list(range(1, labels.max() + 1))
    return labels


def paper(**settings):
    return MaskConfig(blocks="paper", block_size=64, **settings)


@pytest.fixture(scope="module")
def crossing():
    """Cells inside four blocks of 64 pixels, and one across their common corner."""
    ellipses = [(y + 0.3, x + 0.2, 10, 8) for y in (20, 100) for x in (20, 100)]
    drawn = draw_ellipses(128, 128, [*ellipses, (64.4, 64.3, 20, 18)])
    return drawn, maps_of_labels(drawn)


@pytest.mark.parametrize("n_rows", [1, 3, 7, 20, 100])
def test_gathered_rows_come_in_exactly_the_number_asked_for(rng, n_rows):
    maps = rng.normal(size=(3, 53, 4)).astype(np.float32)
    bands = np.split(maps, [5, 6, 6, 20, 41], axis=1)
    gathered = list(gather_rows(iter(bands), n_rows))
    np.testing.assert_array_equal(np.concatenate(gathered, axis=1), maps)
    heights = [band.shape[1] for band in gathered]
    assert all(height == n_rows for height in heights[:-1])
    assert heights[-1] == 53 % n_rows or heights[-1] == n_rows


def test_image_below_the_limit_is_labelled_as_a_whole(crossing):
    _, maps = crossing
    expected, _ = compute_labels(maps)
    for config in (MaskConfig(fill_holes=False), paper(fill_holes=False)):
        np.testing.assert_array_equal(labelled(maps, config), expected)


@pytest.mark.usefixtures("everything_is_large")
def test_automatic_choice_for_large_images_is_stitched(crossing):
    _, maps = crossing
    labels = labelled(maps, MaskConfig(blocks="auto"))
    assert labels.max() == 5
    np.testing.assert_array_equal(labels, labelled(maps, MaskConfig(blocks="stitched")))


def test_stitched_can_be_asked_for_whatever_the_size(crossing):
    _, maps = crossing
    assert labelled(maps, MaskConfig(blocks="stitched")).max() == 5


@pytest.mark.usefixtures("everything_is_large")
def test_released_grid_cuts_cells_at_its_lines(crossing):
    drawn, maps = crossing
    # The parts flow to a line and not to their own middles, so the flow check removes them.
    assert not labelled(maps, paper())[drawn == 5].any()
    labels = labelled(maps, paper(flow_threshold=None))
    assert len(np.unique(labels[drawn == 5])) > 2
    quarters = [labels[y : y + 64, x : x + 64] for y in (0, 64) for x in (0, 64)]
    ids = [set(np.unique(quarter)) - {0} for quarter in quarters]
    assert all(not (a & b) for i, a in enumerate(ids) for b in ids[:i])


@pytest.mark.usefixtures("everything_is_large")
def test_ids_stay_unique_across_blocks(crossing):
    _, maps = crossing
    labels = labelled(maps, paper())
    blocks_of = [maps[:, y : y + 64, x : x + 64] for y in (0, 64) for x in (0, 64)]
    assert labels.max() == sum(compute_labels(block)[1] for block in blocks_of)


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("rows", [1, 17, 64, 500])
def test_blocks_do_not_depend_on_the_rows_given_at_a_time(crossing, rows):
    _, maps = crossing
    np.testing.assert_array_equal(labelled(maps, paper(), rows), labelled(maps, paper()))


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("shape", [(1, 1), (1, 130), (130, 1), (64, 64), (65, 63), (30, 200)])
@pytest.mark.parametrize("mode", ["paper", "stitched"])
def test_any_size_is_covered(shape, mode):
    maps = maps_of_labels(np.zeros(shape, np.int32))
    assert not labelled(maps, MaskConfig(blocks=mode, block_size=64)).any()
    maps[CELLPROB] = 4
    labelled(maps, MaskConfig(blocks=mode, block_size=64))


@pytest.mark.usefixtures("everything_is_large")
def test_block_of_foreground_only_and_block_without_any_are_labelled():
    maps = np.zeros((3, 64, 128), np.float32)
    maps[CELLPROB, :, 64:] = -4
    maps[CELLPROB, :, :64] = 4
    maps[0] = 1
    labels = labelled(maps, paper(max_fraction=1.0, flow_threshold=None))
    assert labels[:, :64].any()
    assert not labels[:, 64:].any()


@pytest.mark.usefixtures("everything_is_large")
def test_block_without_background_keeps_its_first_cell(monkeypatch):
    full = np.ones((64, 64), np.int32)
    full[:, 50:] = 2
    monkeypatch.setattr(blocks, "compute_labels", lambda *_: (full, 2))
    labels = labelled(np.zeros((3, 64, 120), np.float32), paper())
    ids, counts = np.unique(labels[0], return_counts=True)
    assert ids.tolist() == [1, 2, 3, 4]
    assert counts.tolist() == [50, 14, 50, 6]
    # Cut at column 100, the last cell lies in the padding alone, and leaves no gap in the ids.
    labels = labelled(np.zeros((3, 64, 100), np.float32), paper())
    assert np.unique(labels[0]).tolist() == [1, 2, 3]


@pytest.mark.usefixtures("everything_is_large")
def test_padding_at_the_far_edges_is_background(crossing):
    _, maps = crossing
    cut = maps[:, :100, :100]
    padded = np.zeros_like(maps)
    padded[:, :100, :100] = cut
    expected = labelled(padded, paper())[:100, :100]
    labels = labelled(cut, paper())
    np.testing.assert_array_equal(labels > 0, expected > 0)


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.9])
def test_padding_is_background_at_any_threshold(threshold):
    maps = maps_of_labels(draw_ellipses(100, 100, [(50.2, 94.3, 12, 9)]))
    # A dent in the cell, open to the padding: were that foreground, this would be a small hole.
    dent = np.s_[49:52, 97:100]
    maps[CELLPROB][dent] = -8
    labels = labelled(maps, paper(cellprob_threshold=threshold, flow_threshold=None))
    assert labels.max() == 1
    assert not labels[dent].any()


@pytest.mark.parametrize("mode", ["auto", "stitched"])
def test_labels_are_timed_and_the_making_of_maps_is_not(crossing, mode):
    _, maps = crossing
    ticks = iter(range(10_000))
    trace = Trace(clock=lambda: next(ticks))

    def slow_bands():
        for band in in_bands(maps, 64):
            with trace.stage("network"):
                for _ in range(1000):
                    next(ticks)
            yield band

    config = MaskConfig(blocks=mode, block_size=64)
    list(label_bands(slow_bands(), (128, 128), Labelling(config, select_kernels(), trace)))
    assert trace.stages_s["labels"] < 100 < trace.stages_s["network"]
