import numpy as np
import pytest

from mediar_infer.errors import list_some


@pytest.mark.parametrize(
    ("names", "expected"),
    [([], ""), (["a"], "a"), (["a", "b"], "a, b"), (["a", "b", "c"], "a, b, …"),
     ({"x": 1, "y": 2, "z": 3}, "x, y, …"), (np.array([7, 9], np.uint16), "7, 9"),
     (iter("abc"), "a, b, …")],
)  # fmt: skip
def test_names_beyond_a_number_are_an_ellipsis(names, expected):
    assert list_some(names, 2) == expected
