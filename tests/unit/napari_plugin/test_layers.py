"""Planes of layers, without napari: layers here are the few attributes that are read."""

from types import SimpleNamespace

import numpy as np
import pytest

from mediar_infer.errors import ImageReadError, ShapeError, UsageError
from mediar_infer.napari_plugin.layers import LayerPlane, LayerSource


class Lazy:
    """An array that lists the windows that were computed."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.windows = []

    def __getitem__(self, window):
        self.windows.append(window)
        return self.array[window]


def layer(
    data, *, rgb=False, multiscale=False, name="cells", scale=None, unit="pixel", translate=None
):
    finest = data[0] if multiscale else data
    ndim = len(finest.shape) - rgb
    origin = np.zeros(ndim) if translate is None else np.asarray(translate)
    return SimpleNamespace(
        scale=(1.0,) * ndim if scale is None else scale, units=(unit,) * ndim,
        data=data, rgb=rgb, multiscale=multiscale, name=name, ndim=ndim,
        world_to_data=lambda point: np.asarray(point)[-ndim:] - origin,
        data_to_world=lambda place: np.asarray(place) + origin,
    )  # fmt: skip


def read(data, point=(0,) * 5, channel_axis=None, channels=(), **settings):
    source = LayerSource(LayerPlane(layer(data, **settings), point, channel_axis), channels)
    return source.read_rows(0, source.height)


@pytest.fixture
def plane(rng):
    return rng.integers(0, 1000, (6, 7), np.uint16)


def test_grey_is_repeated(plane):
    assert (read(plane) == plane[..., None]).all()


def test_colours_lose_their_opacity(rng):
    image = rng.integers(0, 255, (6, 7, 4), np.uint8)
    assert (read(image, rgb=True) == image[..., :3]).all()


def test_the_plane_that_is_shown_is_read(rng):
    stack = rng.integers(0, 1000, (4, 5, 6, 7), np.uint16)
    assert (read(stack, point=(2.4, 3.6, 0, 0))[..., 0] == stack[2, 4]).all()


@pytest.mark.parametrize("place", [-3, -1, 4, 99])
def test_beyond_the_stack_is_no_plane(rng, place):
    stack = rng.integers(0, 1000, (4, 6, 7), np.uint16)
    message = f"cells: found no plane {place} on axis 0, expected 0 to 3; move the slider"
    with pytest.raises(ShapeError, match=message):
        read(stack, (place, 0, 0))


@pytest.mark.parametrize("place", [-0.4, 3.4])
def test_near_the_end_of_the_stack_is_its_last_plane(rng, place):
    stack = rng.integers(0, 1000, (4, 6, 7), np.uint16)
    assert (read(stack, (place, 0, 0))[..., 0] == stack[round(place)]).all()


def test_labels_of_another_plane_are_not_those_of_this_one():
    stack, labels = np.zeros((8, 6, 7), np.uint8), np.ones((1, 6, 7), np.int32)
    of_third = layer(labels, name="stack 3 cells", translate=(3, 0, 0))
    assert (LayerPlane(layer(stack), (3, 0, 0)).read_labels(of_third) == 1).all()
    with pytest.raises(ShapeError, match="stack 3 cells: found no plane 2 on axis 0"):
        LayerPlane(layer(stack), (5, 0, 0)).read_labels(of_third)
    # The image's nearest plane is 4; the labels on their own would round to their only one.
    with pytest.raises(ShapeError, match="no plane 1 on axis 0, expected 0 to 0"):
        LayerPlane(layer(stack), (3.5, 0, 0)).read_labels(of_third)


@pytest.mark.parametrize(
    ("image", "channel_axis", "labels"),
    [
        ((6, 7), None, (6, 7)),
        ((6, 7, 4), 2, (6, 7, 1)),
        ((6, 7, 4), 2, (3, 6, 7, 1)),
        ((4, 6, 7), 0, (6, 7)),
        ((4, 6, 7), 0, (1, 6, 7)),
        ((4, 6, 7), 0, (4, 6, 7)),
        ((3, 4, 6, 7), 1, (3, 1, 6, 7)),
        ((3, 6, 4, 7), 2, (3, 6, 1, 7)),
    ],
)
def test_labels_of_an_image_with_channels_are_read(rng, image, channel_axis, labels):
    drawn = rng.integers(0, 99, labels)
    shown = 2  # on every slider
    plane = LayerPlane(layer(np.zeros(image)), (shown,) * 4, channel_axis)
    stacked = drawn.reshape([n for n in labels if n > 1])
    expected = stacked[shown] if stacked.ndim > 2 else stacked
    np.testing.assert_array_equal(plane.read_labels(layer(drawn)), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_channels_lie_on_any_axis(rng, axis):
    channels = rng.integers(0, 1000, (6, 7, 5), np.uint16)
    data = np.moveaxis(channels, -1, axis)
    assert (
        read(data, channel_axis=axis, channels=("4", "-", "0"))[..., 0] == channels[..., 4]
    ).all()
    assert (read(data, channel_axis=axis) == channels[..., :3]).all()


def test_channels_of_a_stack(rng):
    data = rng.integers(0, 1000, (3, 4, 6, 7), np.uint16)
    found = read(data, point=(2, 1, 0, 0), channel_axis=1, channels=(3,))
    assert (found[..., 0] == data[2, 3]).all()


def test_the_finest_level_is_read(plane):
    assert read([plane, plane[::2, ::2]], multiscale=True).shape == (6, 7, 3)


def test_a_lazy_array_is_computed_by_rows(rng):
    lazy = Lazy(rng.integers(0, 1000, (2, 60, 7), np.uint16))
    source = LayerSource(LayerPlane(layer(lazy), (1, 0, 0)))
    rows = source.read_rows(10, 20)
    assert (rows[..., 0] == lazy.array[1, 10:20]).all()
    assert lazy.windows == [(1, slice(10, 20), slice(None))]


def test_what_is_done_with_many_channels_is_said(rng):
    data = rng.integers(0, 1000, (4, 6, 7), np.uint16)
    plane = LayerPlane(layer(data), (0, 0, 0), 0)
    assert LayerSource(plane).warnings == ("4 channels found: the first 3 are used",)
    assert LayerSource(plane, (3,)).warnings == ()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((0, 7)), "found 0 × 7 pixels of type float64"),
        (np.zeros((6, 7), complex), "of type complex128, expected one pixel or more of integers"),
        (np.zeros((6, 7), object), "of type object"),
    ],
)
def test_no_image_is_refused(data, message):
    with pytest.raises(ShapeError, match=message):
        read(data)


def test_rows_and_columns_are_needed_beside_channels(plane):
    with pytest.raises(ShapeError, match="cells: found a layer of 2 axes, one of them channels"):
        read(plane, channel_axis=0)


def test_channels_that_do_not_exist_are_named(rng):
    data = rng.integers(0, 1000, (2, 6, 7), np.uint16)
    with pytest.raises(ImageReadError, match="no channel '2', expected one of: 0, 1"):
        read(data, channel_axis=0, channels=("2",))
    with pytest.raises(UsageError, match="at most 3"):
        read(data, channel_axis=0, channels=("0", "1", "0", "1"))


@pytest.mark.parametrize(
    ("unit", "um"),
    [("nanometer", (0.5, 2)), ("micrometer", (500, 2000)), ("millimeter", (5e5, 2e6))],
)
def test_size_of_a_pixel(plane, unit, um):
    stack = layer(np.stack([plane, plane]), scale=(7, 500, 2000), unit=unit)
    found = LayerPlane(stack, (0, 0, 0))
    assert found.pixel_size_um == pytest.approx(um)
    assert LayerSource(found).pixel_size_mm == pytest.approx([side / 1000 for side in um])


def test_a_mirrored_layer_has_pixels_of_a_size(plane):
    found = LayerPlane(layer(plane, scale=(1, -2), unit="micrometer"), (0, 0))
    assert found.pixel_size_um == (1, 2)


@pytest.mark.parametrize("unit", ["pixel", "second"])
def test_without_a_length_the_size_of_a_pixel_is_unknown(plane, unit):
    found = LayerPlane(layer(plane, unit=unit), (0, 0))
    assert found.pixel_size_um is None
    assert LayerSource(found).pixel_size_mm is None
