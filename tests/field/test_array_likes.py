"""Things that people hand to the Python interface."""

import numpy as np
import pytest
import torch
from PIL import Image

from mediar_infer.errors import MediarError, ShapeError
from mediar_infer.images.sources import ArraySource

RGB = np.random.default_rng(0).integers(0, 256, (24, 30, 3)).astype(np.uint8)


def rows_of(thing):
    source = ArraySource(thing)
    return source.read_rows(0, source.height)


THINGS = {
    "tensor": torch.from_numpy(RGB),
    "tensor with gradients": torch.from_numpy(RGB.astype(np.float32)).requires_grad_(),
    "tensor of bfloat16": torch.from_numpy(RGB).bfloat16(),
    "tensor of half": torch.from_numpy(RGB).half(),
    "view of a tensor": torch.from_numpy(RGB).permute(2, 0, 1).permute(1, 2, 0),
    "nested lists": RGB.tolist(),
    "array without masked values": np.ma.masked_array(RGB, mask=False),
    "Pillow image": Image.fromarray(RGB),
    "Pillow image with opacity": Image.fromarray(RGB).convert("RGBA"),
}


@pytest.mark.parametrize("name", THINGS)
def test_thing_is_read_as_its_numbers(name):
    np.testing.assert_array_equal(rows_of(THINGS[name]).astype(np.int64), RGB)


@pytest.mark.parametrize("mode", ["P", "CMYK", "HSV", "YCbCr", "LAB"])
def test_pillow_image_in_another_colour_space_becomes_rgb_with_a_warning(mode):
    image = Image.fromarray(RGB).quantize(64) if mode == "P" else Image.new(mode, (30, 24))
    source = ArraySource(image)
    np.testing.assert_array_equal(source.read_rows(0, 24), np.asarray(image.convert("RGB")))
    assert f"the Pillow image of mode {mode} is converted to RGB" in source.warnings


@pytest.mark.parametrize("mode", ["1", "L", "I", "F", "I;16"])
def test_grey_pillow_image_is_its_numbers(mode):
    image = Image.new(mode, (30, 24), 1)
    np.testing.assert_array_equal(rows_of(image)[..., 0], np.asarray(image))


def test_masked_values_are_refused_with_what_to_do():
    masked = np.ma.masked_array(RGB, mask=RGB > 120)
    with pytest.raises(ShapeError, match=r"[\d,]+ masked values, expected .*; fill them first"):
        ArraySource(masked)


def strange_things():
    class Broken:
        def __array__(self, *_, **__):
            raise RuntimeError("no numbers today")

    return [
        Broken(), None, "text", {"a": 1}, [[1, 2], [3]], np.array([["a", "b"]]),
        torch.zeros(3, 4, dtype=torch.complex64), torch.zeros(2, 2).to_sparse(),
        torch.zeros(4, 4, device="meta"), np.zeros((3, 4), "datetime64[s]"), np.zeros((3, 4), "O"),
        np.zeros((4, 4), [("a", "u1")]),
    ]  # fmt: skip


@pytest.mark.parametrize("thing", strange_things(), ids=lambda thing: type(thing).__name__)
def test_everything_else_is_an_error_of_the_package(thing):
    with pytest.raises(MediarError, match="expected"):
        ArraySource(thing)


def test_pillow_image_of_a_truncated_file_is_an_error_of_the_package(tmp_path):
    Image.fromarray(RGB.repeat(10, 0)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with Image.open(tmp_path / "a.png") as image, pytest.raises(MediarError, match="OSError"):
        ArraySource(image)
