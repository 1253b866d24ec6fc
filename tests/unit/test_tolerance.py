import pytest

from mediar_infer.tolerance import counted_s, tolerance_s


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(1, 1, 10.0), (1000, 1000, 10.0), (1000, 1001, 10.01), (8415, 10496, 883.2384)],
)
def test_tolerance_is_ten_seconds_per_megapixel_and_never_less_than_ten(height, width, expected):
    assert tolerance_s(height, width) == pytest.approx(expected)


def test_counted_time_is_what_exceeds_the_tolerance():
    assert counted_s(9.9, 500, 500) == 0.0
    assert counted_s(12.5, 500, 500) == pytest.approx(2.5)
