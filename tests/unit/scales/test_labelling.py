import numpy as np
import pytest
import torch

from mediar_infer.scales.labelling import resize_labels


def resize(labels, shape, n_rows=1000):
    bands = (labels[top : top + n_rows] for top in range(0, len(labels), n_rows))
    return np.concatenate(list(resize_labels(bands, labels.shape, shape)))


def squares(size, n, n_ids=5):
    rng = np.random.default_rng(size)
    return np.kron(rng.integers(0, n_ids, (n, n)), np.ones((size, size))).astype(np.int32)


@pytest.mark.parametrize("n_ids", [2, 6])
@pytest.mark.parametrize("shape", [(31, 40), (17, 9), (60, 60), (95, 122), (300, 61), (1, 1)])
def test_pixels_get_the_id_with_most_of_linear_interpolation(shape, n_ids):
    labels = squares(4, 15, n_ids)
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(labels).long(), n_ids).double()
    shares = torch.nn.functional.interpolate(
        one_hot.permute(2, 0, 1)[None], shape, mode="bilinear"
    )[0].numpy()
    resized = resize(labels, shape)
    assert (resized.shape, resized.dtype) == (shape, np.int32)
    best = np.sort(shares, axis=0)
    is_clear = best[-1] - best[-2] > 1e-5
    pairs = np.unique(np.stack([shares.argmax(axis=0), resized])[:, is_clear], axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]
    np.testing.assert_array_equal(pairs[0] == 0, pairs[1] == 0)


@pytest.mark.parametrize("n_rows", [1, 5, 64])
@pytest.mark.parametrize("shape", [(30, 45), (17, 31), (1, 1), (90, 90), (200, 300)])
def test_any_band_gives_the_same_labels(shape, n_rows):
    labels = squares(6, 15, 40)
    np.testing.assert_array_equal(resize(labels, shape, n_rows), resize(labels, shape))


def test_ids_have_no_gaps_where_a_cell_vanishes():
    labels = np.zeros((8, 8), np.int32)
    labels[:, :3], labels[2, 4], labels[4:, 5:] = 1, 2, 3
    assert np.unique(resize(labels, (4, 4))).tolist() == [0, 1, 2]


def test_half_of_a_doubled_label_image_is_itself():
    labels = squares(3, 10)
    doubled = np.kron(labels, np.ones((2, 2), np.int32))
    numbers = np.unique(np.stack([labels, resize(doubled, labels.shape)]).reshape(2, -1), axis=1)
    assert len(np.unique(labels)) == numbers.shape[1]


def test_enlarged_outlines_have_no_steps():
    y, x = np.mgrid[:20, :20]
    labels = ((y - 9.5) ** 2 + (x - 9.5) ** 2 < 64).astype(np.int32)
    enlarged = resize(labels, (160, 160))
    y, x = np.mgrid[:160, :160]
    circle = (y - 79.5) ** 2 + (x - 79.5) ** 2 < 64**2
    smooth = np.count_nonzero(enlarged != circle)
    stepped = np.count_nonzero(np.kron(labels, np.ones((8, 8))) != circle)
    assert smooth < 0.75 * stepped


def test_bands_are_small_however_many_rows_come_at_once():
    labels = np.ones((50, 4), np.int32)
    assert max(len(band) for band in resize_labels([labels], (50, 4), (500, 40))) <= 64
