import json

import numpy as np
import pytest

from mediar_infer.config import CellSize, EngineConfig
from mediar_infer.errors import ImageReadError, UsageError
from mediar_infer.image_trace import Trace
from mediar_infer.images.geometry import Geometry
from mediar_infer.images.sources import ArraySource
from mediar_infer.scales.choice import check_cell_size, find_pixel_size_mm, known_scale


def image(*pixel_um):
    """An image with pixels of a (height, width)."""
    spacing = tuple(side / 1000 for side in reversed(pixel_um))
    geometry = Geometry(spacing, (0.0, 0.0), (1.0, 0.0, 0.0, 1.0)) if pixel_um else None
    return ArraySource(np.ones((8, 8), np.uint8), "cells.tif", geometry=geometry)


def scale_of(size, source=None, diameter=30.0):
    config = EngineConfig(cell_size=CellSize.parse(size))
    check_cell_size(config, diameter)
    return known_scale(source or image(), config, diameter)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30", CellSize(30)), ("7.5px", CellSize(7.5)), ("12um", CellSize(12, "um")),
     (" 12.5 µm ", CellSize(12.5, "um")), ("9μm", CellSize(9, "um")), (".5", CellSize(0.5))],
)  # fmt: skip
def test_sizes_are_read_with_their_unit(text, expected):
    assert CellSize.parse(text) == expected
    assert CellSize.parse(str(expected)) == expected


@pytest.mark.parametrize("text", ["", "big", "0", "-3", "nan", "inf", "1e3", "12mm", "12 13", "um"])
def test_other_sizes_are_refused(text):
    with pytest.raises(UsageError, match="found cell size"):
        CellSize.parse(text)


@pytest.mark.parametrize("scale", [0, 0.09, 8.1, -1, float("nan"), "big", None])
def test_other_scales_are_refused(scale):
    with pytest.raises(UsageError, match=r"found scale .*, expected 0\.1 to 8, or auto"):
        EngineConfig(scale=scale)


@pytest.mark.parametrize("size", ["12um", 30, 30.0])
def test_cell_size_that_is_no_cell_size_is_refused(size):
    with pytest.raises(UsageError, match=f"found cell size {size!r}, expected a CellSize"):
        EngineConfig(cell_size=size)


def test_scale_and_cell_size_exclude_each_other():
    with pytest.raises(UsageError, match="found scale 2 and cell size 30 px, expected one of them"):
        EngineConfig(scale=2, cell_size=CellSize(30))


def test_given_scale_is_taken_as_it_is():
    assert known_scale(image(), EngineConfig(scale=2.5), None).scale == 2.5
    assert known_scale(image(), EngineConfig(scale="auto"), 30.0) is None


def test_small_cells_are_shown_at_the_size_of_training():
    choice = scale_of("10")
    assert choice.scale == 3
    assert choice.reason == "cells of 10 px, 30 px in training"


@pytest.mark.parametrize("size", ["28", "30", "32.9"])
def test_nearly_the_same_size_changes_nothing(size):
    assert scale_of(size).scale == 1


def test_micrometres_need_the_pixel_size_of_the_image():
    assert scale_of("12um", image(0.5, 0.5)).scale == pytest.approx(30 / 24)
    assert scale_of("12um", image(0.25, 1.0)).scale == pytest.approx(30 / 24)
    with pytest.raises(
        ImageReadError, match=r"cells.tif: found no pixel size, .* 12 µm; give .* --cell-size 30"
    ):
        scale_of("12um")
    with pytest.raises(ImageReadError, match="expected one for cells of 12 µm; draw it"):
        find_pixel_size_mm(image(), CellSize(12, "um"), "draw it")


@pytest.mark.parametrize("size", ["12um", "15um"])
def test_pixels_that_are_not_square_are_a_warning(size):
    trace = Trace()
    scale_of(size, image(0.25, 1.0)).note(trace)
    (warning,) = trace.warnings
    assert warning.startswith("pixels are 0.25 µm high and 1 µm wide: the scale for cells of ")
    assert "takes their geometric mean, 0.5 µm" in warning


@pytest.mark.parametrize(
    ("size", "height_um", "width_um"), [("12um", 0.5, 0.5049), ("30", 0.25, 1.0)]
)
def test_square_pixels_and_sizes_in_pixels_are_not(size, height_um, width_um):
    assert scale_of(size, image(height_um, width_um)).warning is None


def test_pixel_size_of_a_print_is_refused():
    with pytest.raises(ImageReadError, match=r"352\.8 µm, so that cells of 12 µm are 0\.034 px"):
        scale_of("12um", image(352.8, 352.8))


@pytest.mark.parametrize("size", ["3", "301"])
def test_sizes_beyond_all_scales_are_refused_before_any_image(size):
    with pytest.raises(UsageError, match="expected 4 to 300 px"):
        scale_of(size)


def test_cell_size_needs_the_size_of_training():
    with pytest.raises(UsageError, match=r"no size of the training cells .* with --scale"):
        check_cell_size(EngineConfig(cell_size=CellSize(30)), None)


def test_choice_is_left_in_the_trace():
    trace = Trace()
    scale_of("10").note(trace)
    assert trace.scale == 3
    assert json.loads(json.dumps(trace.scale_choice))["scale"] == 3
    assert trace.warnings == ()
