"""OME-Zarr images: pixels, names and sizes as zarr wrote them; what is lost is an error."""

import numpy as np
import pytest

from mediar_infer.errors import ImageReadError
from mediar_infer.images.fingerprint import read_state
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.listing import list_images
from mediar_infer.images.open import open_image
from mediar_infer.images.scenes import list_scenes
from mediar_infer.labels.naming import label_path

zarr = pytest.importorskip("zarr")

NAMES = ["CD3", "DAPI"]
AXES = {
    "t": {"name": "t", "type": "time"},
    "c": {"name": "c", "type": "channel"},
    "z": {"name": "z", "type": "space", "unit": "micrometer"},
    "y": {"name": "y", "type": "space", "unit": "nanometer"},
    "x": {"name": "x", "type": "space", "unit": "micrometer"},
}


def write_ngff(path, image, axes="cyx", *, zarr_format=3, shards=None, levels=1, **changes):
    """Write an image with a pyramid of every second pixel, as the standard says."""
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    datasets = []
    for level in range(levels):
        thin = image[..., :: 2**level, :: 2**level]
        chunks = (1,) * (image.ndim - 2) + (32, 48)
        array = group.create_array(
            str(level), shape=thin.shape, chunks=chunks, dtype=image.dtype,
            shards=shards and (1,) * (image.ndim - 2) + shards,
        )  # fmt: skip
        array[...] = thin
        scale = [1.0] * (image.ndim - 2) + [650.0 * 2**level, 0.325 * 2**level]
        datasets.append(
            {
                "path": str(level),
                "coordinateTransformations": [{"type": "scale", "scale": scale}],
            }
        )
    multiscale = {"axes": [AXES[letter] for letter in axes], "datasets": datasets}
    ome = {
        "multiscales": [multiscale],
        "omero": {"channels": [{"label": name} for name in NAMES]},
        **changes,
    }
    ome = {name: value for name, value in ome.items() if value is not None}
    group.attrs.update({"ome": {"version": "0.5", **ome}} if zarr_format == 3 else ome)
    return path


@pytest.fixture
def image(rng):
    return rng.integers(1, 60_000, (2, 101, 130), np.uint16)


@pytest.fixture(params=["0.4", "0.5", "0.5 in shards"])
def path(request, tmp_path, image):
    shards = (64, 96) if "shards" in request.param else None
    version = 2 if request.param == "0.4" else 3
    return write_ngff(tmp_path / "a.ome.zarr", image, zarr_format=version, shards=shards, levels=2)


def test_pixels_names_and_size_are_those_that_were_written(path, image):
    with open_image(path) as source:
        assert (source.height, source.width, source.dtype) == (101, 130, np.uint16)
        assert source.channel_names == tuple(NAMES)
        assert source.pixel_size_mm == pytest.approx((0.65e-3, 0.325e-3))
        for top, bottom in ((0, 101), (0, 1), (31, 33), (40, 40), (64, 101), (5, 70)):
            rows = source.read_channels(top, bottom)
            np.testing.assert_array_equal(rows, np.moveaxis(image[:, top:bottom], 0, 2))


def test_channel_is_chosen_by_name(path, image):
    with open_image(path, ReadOptions(channels=("DAPI",))) as source:
        np.testing.assert_array_equal(source.read_rows(3, 60)[..., 2], image[1, 3:60])


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", ">u2", "i4", "u4", "i8", "f4", "f8", "?"])
@pytest.mark.parametrize("shape", [(1, 1), (32, 48), (33, 49), (200, 3)])
def test_every_type_and_size(tmp_path, rng, dtype, shape):
    image = rng.integers(0, 2 if dtype == "?" else 100, shape).astype(dtype)
    image[0, 0] = 1
    path = write_ngff(tmp_path / "a.zarr", image, "yx", zarr_format=2 if ">" in dtype else 3)
    with open_image(path) as source:
        np.testing.assert_array_equal(source.read_rows(0, shape[0])[..., 1], image)


def test_planes_are_chosen_and_projected(tmp_path, rng):
    image = rng.integers(1, 99, (2, 2, 3, 40, 50), np.uint8)
    path = write_ngff(tmp_path / "a.zarr", image, "tczyx")
    with pytest.raises(ImageReadError, match=r"found 6 planes .*--plane N"):
        open_image(path)
    with open_image(path, ReadOptions(plane=4)) as source:
        np.testing.assert_array_equal(source.read_rows(0, 40)[..., 1], image[1, 1, 1])
    with open_image(path, ReadOptions(project="max", plane=1)) as source:
        np.testing.assert_array_equal(source.read_rows(0, 40)[..., 0], image[1, 0].max(axis=0))


def test_unit_that_is_missing_is_no_size(tmp_path, image):
    axes = [{"name": letter} for letter in "cyx"]
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 2, 2]}]}]
    path = write_ngff(
        tmp_path / "a.zarr", image, multiscales=[{"axes": axes, "datasets": datasets}], omero=None
    )
    with open_image(path) as source:
        assert (source.pixel_size_mm, source.channel_names) == (None, ("", ""))


def test_labels_inside_are_left_out_with_a_notice(path):
    zarr.open_group(path, mode="a").create_group("labels")
    with open_image(path) as source:
        assert "the labels inside the OME-Zarr are not read" in source.warnings


def chunks_of(path, level="0"):
    """Files with pixels of a level, in order."""
    skipped = ("zarr.json", ".zarray", ".zattrs")
    return sorted(p for p in (path / level).rglob("*") if p.is_file() and p.name not in skipped)


def test_chunk_that_another_level_shows_is_lost(path):
    chunks_of(path)[0].unlink()
    with pytest.raises(ImageReadError, match=r"found no data for 1 of .* next level shows someth"):
        open_image(path)


def test_chunks_that_writers_leave_out_are_read_as_fill_with_a_warning(tmp_path, image):
    image[:, :64, :96] = 0
    path = write_ngff(tmp_path / "a.zarr", image, levels=2)
    with open_image(path) as source:
        assert [w for w in source.warnings if w.startswith("8 of 24 chunks are not stored")]
        np.testing.assert_array_equal(source.read_channels(0, 101), np.moveaxis(image, 0, 2))


@pytest.mark.parametrize("n_lost", [0, 1])
def test_left_out_chunks_whose_fill_value_is_no_number(tmp_path, rng, n_lost):
    image = rng.random((64, 96), np.float32)
    image[32:, 48:] = np.nan
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    for level, pixels in enumerate([image, image[::2, ::2]]):
        array = group.create_array(
            str(level), shape=pixels.shape, chunks=(32, 48), dtype="f4", fill_value=np.nan
        )
        array[...] = pixels
    datasets = [{"path": name, "coordinateTransformations": []} for name in "01"]
    multiscale = {"axes": [AXES[letter] for letter in "yx"], "datasets": datasets}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    (chunk,) = (each for each in chunks_of(tmp_path / "a.zarr")[-1:])
    assert chunk.parts[-2:] == ("1", "0")  # that of no numbers is left out
    if n_lost:
        chunk.unlink()
        with pytest.raises(ImageReadError, match=r"found no data for 2 of 4 .* next level shows"):
            open_image(tmp_path / "a.zarr")
        return
    with open_image(tmp_path / "a.zarr") as source:
        assert source.warnings[0].startswith("1 of 4 chunks are not stored")
        np.testing.assert_array_equal(source.read_rows(0, 64)[:, :, 0], image)


def test_lack_of_all_chunks_is_an_error(path):
    for chunk in chunks_of(path):
        chunk.unlink()
    with pytest.raises(ImageReadError, match=r"found no data for .*expected a complete store"):
        open_image(path)


def test_chunk_without_a_fill_value_is_lost(tmp_path, image):
    path = write_ngff(tmp_path / "a.zarr", image, zarr_format=2)
    header = path / "0" / ".zarray"
    header.write_text(header.read_text().replace('"fill_value": 0', '"fill_value": null'))
    chunks_of(path)[3].unlink()
    with pytest.raises(ImageReadError, match="no fill value"):
        open_image(path)


@pytest.mark.parametrize("codec", ["blosclz", "lz4", "zstd"])
def test_chunk_of_blosc_in_zarr_3_is_checked_too(tmp_path, rng, codec):
    path = tmp_path / "a.zarr"
    group = zarr.open_group(path, mode="w")
    image = rng.integers(0, 9, (40, 50)).astype("u2")
    array = group.create_array(
        "0", shape=image.shape, chunks=(40, 50), dtype="u2",
        compressors=zarr.codecs.BloscCodec(cname=codec),
    )  # fmt: skip
    array[...] = image
    axes = [AXES[letter] for letter in "yx"]
    group.attrs["ome"] = {"multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}
    with open_image(path) as source:
        np.testing.assert_array_equal(source.read_rows(0, 40)[..., 0], image)
    (chunk,) = chunks_of(path)
    chunk.write_bytes(chunk.read_bytes()[:-2])
    with open_image(path) as source, pytest.raises(ImageReadError, match=r"bytes in chunk 0/c/0/0"):
        source.read_rows(0, 40)


@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_truncated_chunk_is_an_error_with_the_name(path, kept):
    chunk = chunks_of(path)[1]
    data = chunk.read_bytes()
    chunk.write_bytes(data[: int(len(data) * kept)])
    with open_image(path) as source, pytest.raises(ImageReadError, match=r"a\.ome\.zarr: "):
        source.read_channels(0, 101)


def test_uncompressed_truncated_chunk_is_an_error(tmp_path):
    path = tmp_path / "a.zarr"
    group = zarr.open_group(path, mode="w")
    array = group.create_array("0", shape=(40, 50), chunks=(40, 50), dtype="u2", compressors=None)
    array[...] = 7
    axes = [AXES[letter] for letter in "yx"]
    group.attrs["ome"] = {"multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}
    (chunk,) = chunks_of(path)
    chunk.write_bytes(chunk.read_bytes()[:-2])
    with open_image(path) as source, pytest.raises(ImageReadError, match=r"a\.zarr: "):
        source.read_rows(0, 40)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"multiscales": None}, "found a zarr group that holds no image, expected multiscales"),
        ({"multiscales": []}, "multiscales that are none"),
        ({"multiscales": 7}, "multiscales that are none"),
        ({"multiscales": [{"datasets": [{"path": "9"}]}]}, "no array 9"),
        ({"multiscales": [{"datasets": [{"path": "0"}]}]}, "an array of 3 axes, not tczyx"),
        ({"multiscales": [{"datasets": [{"path": "0"}], "axes": ["x", "y", "c"]}]}, "the axes xyc"),
        ({"plate": {}}, r"found a plate \(HCS\), expected one image"),
        ({"well": {}}, r"found a well \(HCS\), expected one image"),
    ],
)
def test_metadata_of_no_image_are_an_error(tmp_path, image, changes, message):
    path = write_ngff(tmp_path / "a.zarr", image, **changes)
    with pytest.raises(ImageReadError, match=rf"a\.zarr: .*{message}"):
        open_image(path)


@pytest.mark.parametrize("content", [None, "array", b"{"])
def test_folder_that_is_no_group_is_an_error(tmp_path, content):
    path = tmp_path / "a.zarr"
    if content == "array":
        zarr.create_array(path, shape=(4, 4), dtype="u1")
    else:
        path.mkdir()
        if content:
            (path / "zarr.json").write_bytes(content)
    with pytest.raises(ImageReadError, match=r"a\.zarr: .*expected"):
        open_image(path)


def test_series_of_images_are_scenes(tmp_path, image):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.attrs["ome"] = {"bioformats2raw.layout": 3}
    for number in range(2):
        write_ngff(tmp_path / "a.zarr" / str(number), image[:, number:])
    with pytest.raises(ImageReadError, match="found 2 scenes"):
        open_image(tmp_path / "a.zarr")
    with open_image(tmp_path / "a.zarr", ReadOptions(scene=1)) as source:
        assert source.height == 100
    assert list_scenes(tmp_path / "a.zarr") == ["", ""]


def test_image_larger_than_the_limit_is_refused(path):
    with pytest.raises(ImageReadError, match="raise --max-pixels"):
        open_image(path, ReadOptions(max_pixels=1000))


def test_folder_counts_as_an_image_of_its_folder(path):
    (path.parent / "other").mkdir()
    images, skipped = list_images(path.parent)
    assert images == [path]
    assert [file.path.name for file in skipped] == ["other"]
    assert list_images(path) == ([path], [])
    assert label_path(path.parent, path).name == "a_label.tiff"
    assert read_state(path).n_bytes == sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
