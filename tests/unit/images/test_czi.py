"""CZI files made by hand: composed tiles, planes, scenes, pixel types, and damage.

``test_czi_oracle.py`` compares with Zeiss's own library.
"""

import struct

import czi_files
import imagecodecs
import numpy as np
import pytest
from czi_files import Tile, czi_bytes, czi_metadata

from mediar_infer.errors import ImageReadError, UsageError
from mediar_infer.images.czi_source import list_czi_scenes
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.listing import list_images
from mediar_infer.images.open import open_image

RNG = np.random.default_rng(0)


def noise(height, width, dtype="u2", samples=()):
    return RNG.integers(1, 200, (height, width, *samples)).astype(dtype)


@pytest.fixture
def read(tmp_path):
    """Write tiles as ``a.czi`` and read it in steps of 7 rows: ``(source, all channels)``."""

    def call(tiles, xml="", **options):
        path = tmp_path / "a.czi"
        path.write_bytes(tiles if isinstance(tiles, bytes) else czi_bytes(tiles, xml))
        with open_image(path, ReadOptions(all_channels=True, **options)) as source:
            steps = [(top, min(top + 7, source.height)) for top in range(0, source.height, 7)]
            return source, np.concatenate([source.read_channels(*rows) for rows in steps])

    return call


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "f4", "f8"])
@pytest.mark.parametrize("size", [(1, 1), (13, 40), (40, 3)])
def test_grey_pixels_of_every_type(read, dtype, size):
    image = noise(*size, dtype)
    source, found = read([Tile(image)])
    np.testing.assert_array_equal(found[:, :, 0], image)
    assert (source.dtype, source.geometry, source.channel_names) == (np.dtype(dtype), None, ("",))


@pytest.mark.parametrize(("dtype", "samples"), [("u1", 3), ("u2", 3), ("f4", 3), ("u1", 4)])
def test_colours_are_turned_from_blue_first_to_red_first(read, dtype, samples):
    image = noise(9, 11, dtype, (samples,))
    _, found = read([Tile(image)], czi_metadata(channels=["TL"]))
    np.testing.assert_array_equal(found, image[:, :, [2, 1, 0]])


def _split(image):
    return np.frombuffer(image.tobytes(), "u1").reshape(-1, 2).T.tobytes()


GREY, COLOURS = noise(20, 30), noise(20, 30, "u1", (3,))
RED_FIRST = COLOURS[:, :, ::-1].copy()
COMPRESSED = {
    "lzw": Tile(GREY, compression=czi_files.LZW, data=imagecodecs.lzw_encode(GREY.tobytes())),
    "zstd": Tile(GREY, compression=czi_files.ZSTD, data=imagecodecs.zstd_encode(GREY.tobytes())),
    "zstd1": Tile(GREY, compression=6, data=b"\1" + imagecodecs.zstd_encode(GREY.tobytes())),
    "zstd1 split": Tile(
        GREY, compression=6, data=b"\3\1\1" + imagecodecs.zstd_encode(_split(GREY))
    ),
    "jpeg xr": Tile(GREY, compression=czi_files.JPEG_XR, data=imagecodecs.jpegxr_encode(GREY)),
    "jpeg": Tile(
        COLOURS, compression=czi_files.JPEG, data=imagecodecs.jpeg8_encode(RED_FIRST, level=95)
    ),
    "jpeg xr colours": Tile(
        COLOURS, compression=czi_files.JPEG_XR, data=imagecodecs.jpegxr_encode(RED_FIRST)
    ),
    "stated only": Tile(GREY, compression=czi_files.ZSTD),
    "jpeg stated only": Tile(COLOURS, compression=czi_files.JPEG),
    "jpeg xr stated only": Tile(COLOURS, compression=czi_files.JPEG_XR),
    "zstd colours": Tile(
        COLOURS, compression=czi_files.ZSTD, data=imagecodecs.zstd_encode(COLOURS.tobytes())
    ),
}


@pytest.mark.parametrize("name", COMPRESSED)
def test_every_compression(read, name):
    tile = COMPRESSED[name]
    expected = RED_FIRST if tile.pixels is COLOURS else GREY[:, :, None]
    if name == "jpeg":
        expected = imagecodecs.jpeg8_decode(tile.data)
    np.testing.assert_array_equal(read([tile])[1], expected)


def test_overlapping_tiles_are_composed_in_their_order_and_gaps_are_zero(read):
    first, second, third = noise(20, 20), noise(20, 20), noise(5, 4)
    tiles = [
        Tile(second, y=-5, x=15, index={"M": 1}, compression=5,
             data=imagecodecs.zstd_encode(second.tobytes())),
        Tile(first, y=-10, x=0, index={"M": 0}),
        Tile(third, y=12, x=40, index={"M": 2}),
        Tile(noise(10, 17), y=-10, x=0, index={"M": 3}, size=(20, 34)),  # of a pyramid
    ]  # fmt: skip
    expected = np.zeros((27, 44), "u2")
    expected[:20, :20] = first
    expected[5:25, 15:35] = second
    expected[22:, 40:] = third
    np.testing.assert_array_equal(read(tiles)[1][:, :, 0], expected)


def test_rows_of_compressed_tiles_are_decoded_once_on_the_way_down(tmp_path, monkeypatch):
    decoded, decode = [], imagecodecs.zstd_decode
    monkeypatch.setattr("mediar_infer.images.czi_source._CACHE_BYTES", 0)
    monkeypatch.setattr(
        imagecodecs, "zstd_decode", lambda *a, **k: decoded.append(1) or decode(*a, **k)
    )
    tiles = [
        Tile(image := noise(16, 16), y=16 * k, compression=5,
             data=imagecodecs.zstd_encode(image.tobytes()))
        for k in range(6)
    ]  # fmt: skip
    (tmp_path / "a.czi").write_bytes(czi_bytes(tiles))
    with open_image(tmp_path / "a.czi") as source:
        for top in range(0, 96, 5):
            source.read_rows(top, min(top + 5, 96))
            assert len(source._decoded) <= 1
    assert len(decoded) == 6


@pytest.fixture
def stack():
    """Tiles of 2 channels × 2 times × 3 depths, and the array ``(C, T, Z, Y, X)``."""
    pixels = noise(2 * 2 * 3 * 8, 9).reshape(2, 2, 3, 8, 9)
    tiles = [
        Tile(pixels[c, t, z], index={"C": c, "T": t, "Z": z + 5})
        for z in range(3) for t in range(2) for c in range(2)
    ]  # fmt: skip
    return tiles, pixels


def test_plane_counts_through_times_and_depths(read, stack):
    tiles, pixels = stack
    for plane, (t, z) in enumerate(np.ndindex(2, 3)):
        _, found = read(tiles, plane=plane)
        np.testing.assert_array_equal(np.moveaxis(found, -1, 0), pixels[:, t, z])
    with pytest.raises(
        ImageReadError, match=r"6 planes \(axes TZYX, shape 2 × 3 × 8 × 9\).*--project max"
    ):
        read(tiles)


def test_maximum_over_depths(read, stack):
    tiles, pixels = stack
    _, found = read(tiles, project="max", plane=1)
    np.testing.assert_array_equal(np.moveaxis(found, -1, 0), pixels[:, 1].max(axis=1))
    with pytest.raises(ImageReadError, match=r"found 2 planes .*after the projection of z"):
        read(tiles, project="max")


def test_channel_without_a_tile_in_the_plane_is_a_warning(read, tmp_path):
    image = noise(8, 9)
    tiles = [Tile(image, index={"C": c, "Z": z}) for c, z in [(0, 0), (0, 1), (1, 0)]]
    xml = czi_metadata(channels=["DAPI", "CD8"])
    source, found = read(tiles, xml, plane=1)
    np.testing.assert_array_equal(found, np.dstack([image, np.zeros_like(image)]))
    missing = "channel 1 (CD8) has no tile in plane 1 and is read as 0 there: it was not"
    assert source.warnings[-1].startswith(missing)
    assert not any("no tile" in warning for warning in read(tiles, xml, plane=0)[0].warnings)
    assert source.warnings[-1] in read(tiles, xml, project="max")[0].warnings
    with pytest.raises(
        ImageReadError,
        match=r"^a\.czi: found no tile of channel 1 \(CD8\) in plane 1, exp.*; choose .*--plane",
    ):
        open_image(tmp_path / "a.czi", ReadOptions(plane=1, channels=("CD8",)))


def test_channels_are_chosen_by_name_and_the_pixel_size_is_read(tmp_path, stack):
    tiles, pixels = stack
    xml = czi_metadata(channels=["DAPI", "CD8"], pixel_um=(0.65, 0.325))
    (tmp_path / "a.czi").write_bytes(czi_bytes(tiles, xml))
    with open_image(tmp_path / "a.czi", ReadOptions(plane=2, channels=("cd8",))) as source:
        rows = source.read_rows(0, 8)
        assert source.channel_names == ("CD8",)
        np.testing.assert_allclose(source.geometry.pixel_size_mm, (0.65e-3, 0.325e-3))
    for k in range(3):
        np.testing.assert_array_equal(rows[:, :, k], pixels[1, 0, 2])


def test_channels_of_other_pixel_types_are_read_in_one_that_holds_all(read):
    grey, colours = noise(4, 5), noise(4, 5, "u1", (3,))
    tiles = [Tile(grey, index={"C": 0}), Tile(colours, index={"C": 1})]
    source, found = read(tiles, czi_metadata(channels=["DAPI", "TL"]))
    np.testing.assert_array_equal(found, np.dstack([grey, colours[:, :, ::-1]]))
    assert (source.dtype, source.channel_names) == (np.uint16, ("DAPI", "TL", "TL", "TL"))


def test_scenes_are_images_of_their_own(read, tmp_path):
    images = [noise(6, 8), noise(9, 4)]
    tiles = [Tile(image, y=50 * s, index={"S": s}) for s, image in enumerate(images)]
    xml = czi_metadata(scenes=["A1", "B2"])
    for scene, image in enumerate(images):
        np.testing.assert_array_equal(read(tiles, xml, scene=scene)[1][:, :, 0], image)
    assert list_czi_scenes(tmp_path / "a.czi") == ["A1", "B2"]
    for options in ({}, {"scene": "all"}):
        with pytest.raises(ImageReadError, match=r"2 scenes \(0 A1, 1 B2\).*choose one with --sc"):
            read(tiles, xml, **options)
    with pytest.raises(ImageReadError, match="2 scenes, expected a --scene from 0 to 1, not 2"):
        read(tiles, xml, scene=2)
    source, _ = read(tiles[:1], scene=3)
    assert source.warnings == ("the file has one scene only: --scene 3 has no effect",)


@pytest.mark.parametrize("options", [{"scene": -1}, {"scene": "each"}, {"project": "mean"}])
def test_wrong_choices_are_wrong_use(options):
    with pytest.raises(UsageError, match=r"^found --\w+ \S+, expected"):
        ReadOptions(**options)


WHOLE = czi_bytes([COMPRESSED["zstd"], Tile(noise(20, 30), x=30)], czi_metadata(channels=["DAPI"]))


@pytest.mark.parametrize("share", [0.01, 0.02, 0.1, 0.3, 0.5, 0.9])
def test_truncated_file_is_a_clean_error(read, share):
    with pytest.raises(ImageReadError, match=r"^a\.czi: found .*copy or export it again"):
        read(WHOLE[: int(len(WHOLE) * share)])


def test_damaged_metadata_cost_only_what_they_say(read):
    source, found = read(WHOLE.replace(b"<ImageDocument>", b"<ImageDocumen<>"))
    assert (source.channel_names, found.shape) == (("",), (20, 60, 1))


@pytest.mark.parametrize(
    ("tiles", "message"),
    [
        ([], "no tile at full resolution"),
        ([Tile(GREY, index={"C": 0}, part=1)], "part 1 of the file, another file"),
        ([Tile(GREY, compression=1002)], "compression 1002, which is not supported"),
        ([Tile(GREY, compression=5, data=b"abc")], "CZI tile at byte 544"),
        ([Tile(GREY, data=b"abc")], "3 bytes, 1,200 expected"),
        ([Tile(GREY), Tile(GREY.astype("u1"), x=30)], "pixels of types 1 and 0"),
    ],
)
def test_what_cannot_be_read_is_said(read, tiles, message):
    with pytest.raises(ImageReadError, match=rf"^a\.czi: found .*{message}.*, expected .*; "):
        read(tiles)


def test_file_that_was_not_written_to_its_end(read):
    fields = struct.pack("<4i32siqq", 1, 0, 0, 0, b"", 0, 0, 0)
    with pytest.raises(ImageReadError, match="no directory: the file was not written to its end"):
        read(struct.pack("<16sqq", b"ZISRAWFILE", 512, 512) + fields + bytes(900))


def test_size_is_checked_before_pixels_are_read(read):
    with pytest.raises(ImageReadError, match="expected at most 100;"):
        read([Tile(GREY)], max_pixels=100)
    with pytest.raises(ImageReadError, match="expected at most 17,179,869,184"):
        read([Tile(GREY), Tile(GREY, y=2**30, x=2**30)])


def test_file_counts_as_an_image_by_its_extension(tmp_path):
    path = tmp_path / "a.CZI"
    path.touch()
    assert list_images(tmp_path) == ([path], [])
