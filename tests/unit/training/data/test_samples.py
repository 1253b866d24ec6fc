import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from fakes import normalise_image
from small_data import save_image, save_labels, save_pair

from mediar_infer.errors import ImageReadError, ShapeError
from mediar_infer.training.data.index import index_folders
from mediar_infer.training.data.samples import SampleStore, load_sample

SAMPLE_BYTES = 12 * 16 * 7


@pytest.fixture
def records(tmp_path):
    for i in range(4):
        save_pair(tmp_path, f"image{i}", value=60 + i, n_cells=i + 1)
    return index_folders([tmp_path]).records


def test_image_is_normalised_as_at_inference(tmp_path, rng):
    image = rng.integers(0, 4000, (12, 16), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", image)
    save_labels(tmp_path / "a_label.tif")

    sample = SampleStore(index_folders([tmp_path]).records)[0]

    np.testing.assert_array_equal(sample.image, normalise_image(image))
    assert sample.image.shape == (12, 16, 3)
    assert sample.image.dtype == np.uint8


def test_labels_above_32767_keep_their_ids(tmp_path):
    save_image(tmp_path / "a.png", shape=(300, 300))
    labels = np.zeros((300, 300), np.uint32)
    labels[::2, 1::2] = 32_000 + np.arange(150 * 150).reshape(150, 150)
    labels[0, 0] = 2**31 - 1
    tifffile.imwrite(tmp_path / "a_label.tif", labels)

    (record,) = index_folders([tmp_path]).records
    sample = load_sample(record)

    assert record.n_cells == 150 * 150 + 1
    assert sample.labels.dtype == np.int32
    np.testing.assert_array_equal(sample.labels, labels)


def test_image_without_labels_has_zeros(records):
    sample = load_sample(replace(records[0], role="unlabelled", label_path=None))

    assert sample.labels.shape == (12, 16)
    assert not sample.labels.any()


def test_relabelled_file_stands_in_for_the_records_own(tmp_path, records):
    other = save_labels(tmp_path / "other.tiff", n_cells=4)

    store = SampleStore(records, label_paths={records[0].image_id: other})

    assert store[0].labels.max() == 4
    assert store[1].labels.max() == 2


def test_sample_is_loaded_once_while_there_is_room(records):
    store = SampleStore(records)

    assert store[2] is store[2]
    assert store[-1] is store[3]


def test_least_recently_used_sample_goes_first(records):
    store = SampleStore(records, cache_bytes=2 * SAMPLE_BYTES)
    first, second = store[0], store[1]

    assert store[0] is first
    store[2]  # the second goes

    assert store[0] is first
    assert store[1] is not second


def test_cache_of_no_bytes_keeps_nothing(records):
    store = SampleStore(records, cache_bytes=0)

    assert store[0] is not store[0]


def test_pickled_store_has_the_same_samples_and_no_cache(records):
    store = SampleStore(records)
    sample = store[0]

    data = pickle.dumps(store)
    copy = pickle.loads(data)

    assert len(data) < SAMPLE_BYTES * 2
    assert copy.records == store.records
    np.testing.assert_array_equal(copy[0].labels, sample.labels)


def test_threads_may_share_a_store(records):
    store = SampleStore(records, cache_bytes=2 * SAMPLE_BYTES)
    wrong = []

    def read(seed):
        order = np.random.default_rng(seed).integers(0, 4, 50).tolist()
        wrong.extend(i for i in order if store[i].labels.max() != i + 1)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert store._kept_bytes == sum(SAMPLE_BYTES for _ in store._kept) <= 2 * SAMPLE_BYTES


def test_shared_arrays_cannot_be_written_to(records):
    sample = load_sample(records[0])

    with pytest.raises(ValueError, match="read-only"):
        sample.labels[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        sample.image[0, 0] = 1


def test_slice_and_length_and_end_of_the_sequence(records):
    store = SampleStore(records)

    assert [each.record for each in store[1:3]] == records[1:3]
    assert len(list(store)) == len(store) == 4
    with pytest.raises(IndexError):
        store[4]


def test_labels_that_changed_in_size_are_an_error(records):
    save_labels(records[0].label_path, shape=(12, 20))

    with pytest.raises(ShapeError, match=r"image0_label.tiff: found labels of \(12, 20\)"):
        SampleStore(records)[0]


def test_image_that_vanished_is_an_error(records):
    records[0].image_path.unlink()

    with pytest.raises(ImageReadError, match=r"image0\.png"):
        SampleStore(records)[0]
