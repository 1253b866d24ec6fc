"""LIF files made by hand (no package ships a real one), read by way of liffile."""

import numpy as np
import pytest
from lif_files import lif_bytes, lif_image

from mediar_infer.errors import ImageReadError
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.open import open_image
from mediar_infer.images.scenes import list_scenes

liffile = pytest.importorskip("liffile")

RNG = np.random.default_rng(0)


@pytest.fixture
def read(tmp_path):
    """Write ``a.lif`` and read it in steps of 7 rows: ``(source, all channels)``."""

    def call(data, **options):
        (tmp_path / "a.lif").write_bytes(data)
        with open_image(tmp_path / "a.lif", ReadOptions(all_channels=True, **options)) as source:
            steps = [(top, min(top + 7, source.height)) for top in range(0, source.height, 7)]
            return source, np.concatenate([source.read_channels(*rows) for rows in steps])

    return call


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<f4"])
@pytest.mark.parametrize("axes", ["TZCYX", "CTZYX", "TZYXC", "ZTYCX"])
def test_channels_and_planes_in_any_order_of_the_axes(read, tmp_path, dtype, axes):
    sizes = {"T": 2, "Z": 3, "C": 2, "Y": 20, "X": 11}
    pixels = RNG.integers(0, 200, [sizes[letter] for letter in axes]).astype(dtype)
    data = lif_bytes(lif_image("A", pixels, axes, names=["Green", "Red"], pixel_um=(0.5, 0.25)))
    (tmp_path / "a.lif").write_bytes(data)
    order = "TZ" if axes.index("T") < axes.index("Z") else "ZT"
    expected = np.transpose(pixels, [axes.index(letter) for letter in f"{order}YXC"])
    expected = expected.reshape(6, 20, 11, 2)
    for plane in range(6):
        source, found = read(data, plane=plane)
        np.testing.assert_array_equal(found, expected[plane])
    assert source.channel_names == ("Green", "Red")
    np.testing.assert_allclose(source.geometry.pixel_size_mm, (0.5e-3, 0.25e-3))
    with liffile.LifFile(tmp_path / "a.lif") as lif:
        image = lif.images[0]
        letters = ["C" if letter == "S" else letter for letter in image.dims]
        whole = image.asarray().transpose([letters.index(letter) for letter in "TZYXC"])
    np.testing.assert_array_equal(
        np.moveaxis(read(data, project="max", plane=1)[1], -1, 0),
        np.moveaxis(whole[1].max(axis=0), -1, 0),
    )


def test_dyes_come_before_tables_of_colours(read):
    pixels = RNG.integers(0, 9, (2, 5, 6), np.uint8)
    image = lif_image("A", pixels, "CYX", names=["Green", "Red"], dye_names=["DAPI", "Cy5"])
    assert read(lif_bytes(image))[0].channel_names == ("DAPI", "Cy5")


@pytest.mark.parametrize("tags", [(1, 2, 3), (3, 2, 1)])
def test_colours_are_read_red_first(read, tags):
    pixels = RNG.integers(0, 9, (5, 6, 3), np.uint8)
    _, found = read(lif_bytes(lif_image("A", pixels, "YXC", tags=tags)))
    np.testing.assert_array_equal(found, pixels if tags[0] == 1 else pixels[:, :, ::-1])


def test_images_are_scenes(read, tmp_path):
    pixels = [RNG.integers(0, 9, (5 + k, 6), np.uint8) for k in range(3)]
    data = lif_bytes(*[lif_image(f"Series{k}", each, "YX") for k, each in enumerate(pixels)])
    for scene, each in enumerate(pixels):
        np.testing.assert_array_equal(read(data, scene=scene)[1][:, :, 0], each)
    assert list_scenes(tmp_path / "a.lif") == ["Series0", "Series1", "Series2"]
    with pytest.raises(ImageReadError, match=r"3 scenes \(0 Series0, 1 Series1, 2 Series2\)"):
        read(data)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.9, 0.999])
def test_truncated_file_is_a_clean_error(read, share):
    pixels = [RNG.integers(0, 99, (60, 70), np.uint8) for _ in range(2)]
    data = lif_bytes(*[lif_image(f"S{k}", each, "YX") for k, each in enumerate(pixels)])
    with pytest.raises(ImageReadError, match=r"^a\.lif: .*, expected .*copy or export it again"):
        read(data[: int(len(data) * share)], scene=1)


def test_image_larger_than_its_block_is_refused(read):
    xml, block, pixels = lif_image("A", np.zeros((5, 6), np.uint8), "YX")
    with pytest.raises(ImageReadError, match="an image of more than the 20 bytes of its block"):
        read(lif_bytes((xml, block, pixels[:20])))
