"""Sizes of cells: median, quartiles, and a histogram whose bars hold every cell."""

import re

import numpy as np
import pytest

from mediar_infer.report.sizes import draw_histogram, find_ranges, format_area, summarise_sizes


@pytest.mark.parametrize(
    ("pixel_size_um", "unit", "scale"), [(None, "px", 1), ((0.5, 2), "µm²", 1)]
)
def test_quartiles_are_those_of_the_areas(rng, pixel_size_um, unit, scale):
    areas = rng.integers(1, 5000, 999)
    sizes = summarise_sizes(areas, pixel_size_um)
    assert sizes.unit == unit
    assert sizes.quartiles == pytest.approx(np.percentile(areas, (25, 50, 75)) * scale)
    assert sizes.median == np.median(areas)


def test_bars_hold_every_cell_once_and_half_an_octave_each(rng):
    areas = rng.integers(1, 5000, 999)
    bars = summarise_sizes(areas, (0.3, 0.3)).bars
    assert sum(bars.values()) == 999
    for bar, count in bars.items():
        inside = (areas * 0.09 >= 2 ** (bar / 2)) & (areas * 0.09 < 2 ** ((bar + 1) / 2))
        assert count == np.count_nonzero(inside)


def test_no_cells_have_no_median():
    sizes = summarise_sizes(np.zeros(0, int), None)
    assert (sizes.median, sizes.bars) == (None, {})
    assert find_ranges([sizes]) == {}


def test_histograms_of_one_unit_share_their_axis():
    one, two = summarise_sizes(np.array([4, 5]), None), summarise_sizes(np.array([1024]), None)
    other = summarise_sizes(np.array([1]), (1.0, 1.0))
    ranges = find_ranges([one, two, other])
    assert ranges == {"px": (4, 20), "µm²": (0, 0)}
    svg = draw_histogram(one, ranges["px"])
    assert 'aria-label="Areas of 2 cells; half of them have 4.25 to 4.75 px"' in svg
    assert re.findall("<title>(.*?)</title>", svg) == ["4 to 5.66 px: 2"]
    ticks = re.findall('class="tick" x="([\\d.]+)"[^>]*>([\\d,.]+)<', svg)
    assert [text for _, text in ticks] == ["16", "64", "256", "1,024"]
    assert all(14 < float(x) < 326 for x, _ in ticks)


def test_areas_have_three_digits_or_all_before_the_point():
    assert [format_area(area) for area in (0.01234, 7.654, 99.96, 12345.6)] == [
        "0.0123", "7.65", "100", "12,346",
    ]  # fmt: skip
