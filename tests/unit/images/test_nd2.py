"""ND2 files made by hand (no package ships a real one), read by way of nd2."""

import numpy as np
import pytest
from nd2_files import nd2_bytes

from mediar_infer.errors import ImageReadError
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.open import open_image
from mediar_infer.images.scenes import list_scenes

nd2 = pytest.importorskip("nd2")

RNG = np.random.default_rng(0)


@pytest.fixture
def read(tmp_path):
    """Write ``a.nd2`` and read it in steps of 7 rows: ``(source, all channels)``."""

    def call(data, **options):
        (tmp_path / "a.nd2").write_bytes(data)
        with open_image(tmp_path / "a.nd2", ReadOptions(all_channels=True, **options)) as source:
            steps = [(top, min(top + 7, source.height)) for top in range(0, source.height, 7)]
            return source, np.concatenate([source.read_channels(*rows) for rows in steps])

    return call


@pytest.mark.parametrize("compress", [False, True])
def test_positions_are_scenes_and_times_and_depths_are_planes(read, tmp_path, compress):
    frames = RNG.integers(0, 60000, (2, 3, 4, 20, 11, 2)).astype("<u2")  # T, P, Z, Y, X, C
    data = nd2_bytes(frames, "TPZ", ["DAPI", "GFP"], pixel_um=0.25, compress=compress)
    for scene, (t, z) in ((s, index) for s in range(3) for index in np.ndindex(2, 4)):
        source, found = read(data, scene=scene, plane=4 * t + z)
        np.testing.assert_array_equal(found, frames[t, scene, z])
    assert source.channel_names == ("DAPI", "GFP")
    np.testing.assert_allclose(source.geometry.pixel_size_mm, (0.25e-3, 0.25e-3))
    _, found = read(data, scene=1, plane=1, project="max")
    np.testing.assert_array_equal(found, frames[1, 1].max(axis=0))
    assert list_scenes(tmp_path / "a.nd2") == ["well 0", "well 1", "well 2"]
    whole = nd2.imread(tmp_path / "a.nd2")
    np.testing.assert_array_equal(whole, np.moveaxis(frames, -1, 3))
    with pytest.raises(ImageReadError, match=r"3 scenes \(0 well 0, 1 well 1, 2 well 2\)"):
        read(data)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (8, 9)])
@pytest.mark.parametrize(("n_components", "names"), [(1, [""]), (2, ["a", "b"]), (3, ["RGB"])])
def test_small_frames_grey_and_in_colours(read, size, n_components, names):
    frames = RNG.integers(0, 200, (*size, n_components), np.uint8)
    source, found = read(nd2_bytes(frames, names=names))
    np.testing.assert_array_equal(found, frames)
    assert source.geometry is None


def test_components_that_are_no_colours_are_channels(read):
    frames = RNG.integers(0, 200, (8, 9, 5), np.uint8)
    np.testing.assert_array_equal(read(nd2_bytes(frames, names=["one"]))[1], frames)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.9, 0.999])
def test_truncated_file_is_a_clean_error(read, share):
    data = nd2_bytes(RNG.integers(0, 200, (80, 90, 2), np.uint8), names=["a", "b"])
    with pytest.raises(ImageReadError, match=r"^a\.nd2: .*, expected .*copy or export it again"):
        read(data[: int(len(data) * share)])


def test_missing_frame_is_an_error_and_not_black(read):
    data = nd2_bytes(RNG.integers(0, 200, (3, 8, 9, 1), np.uint8), "Z")
    data = data.replace(b"ImageDataSeq|1!", b"ImageDataSeq|7!")
    read(data, plane=0)
    with pytest.raises(ImageReadError, match=r"ND2 frame 1 \(no pixels, or too few\)"):
        read(data, plane=1)
