"""Rows that are held, extended, cropped and forgotten."""

import numpy as np
import pytest

from mediar_infer import row_buffer
from mediar_infer.row_buffer import RowBuffer


def numbered(top, bottom, width=4):
    return np.arange(top * width, bottom * width, dtype=np.int32).reshape(-1, width)


@pytest.fixture
def buffer():
    """Rows 3 to 7 of an image in which each pixel holds its flat position."""
    held = RowBuffer((4,), np.int32)
    held.append(numbered(0, 5))
    held.append(numbered(5, 8))
    held.drop_above(3)
    return held


def test_a_new_buffer_is_empty_at_row_zero():
    held = RowBuffer((2, 5), np.float32)
    assert (held.top, held.bottom) == (0, 0)
    assert held.rows(0, 0).shape == (2, 0, 5)


def test_rows_are_addressed_by_image_row(buffer):
    assert (buffer.top, buffer.bottom) == (3, 8)
    np.testing.assert_array_equal(buffer.rows(4, 7), numbered(4, 7))


def test_rows_are_a_view_and_a_crop_is_a_copy(buffer):
    buffer.rows(3, 4)[...] = -1
    assert (buffer.rows(3, 4) == -1).all()
    buffer.crop(3, 0, 1, 4)[...] = -2
    assert (buffer.rows(3, 4) == -1).all()


@pytest.mark.parametrize(("top", "bottom"), [(2, 5), (5, 9), (6, 5)])
def test_rows_that_are_not_held_are_a_bug(buffer, top, bottom):
    with pytest.raises(AssertionError):
        buffer.rows(top, bottom)


def test_extending_adds_zero_rows_and_never_takes_any(buffer):
    buffer.extend_to(10)
    buffer.extend_to(9)
    assert buffer.bottom == 10
    assert (buffer.rows(8, 10) == 0).all()


def test_dropping_keeps_the_dtype_and_ignores_rows_that_are_gone(buffer):
    buffer.drop_above(-5)
    buffer.drop_above(2)
    assert buffer.top == 3
    assert buffer.rows(3, 8).dtype == np.int32


def test_everything_can_be_dropped_and_rows_added_after_it(buffer):
    buffer.drop_above(99)
    assert (buffer.top, buffer.bottom) == (8, 8)
    buffer.append(numbered(8, 9))
    np.testing.assert_array_equal(buffer.rows(8, 9), numbered(8, 9))


@pytest.mark.parametrize(
    ("top", "left", "height", "width"),
    [(3, 0, 5, 4), (0, -2, 12, 9), (4, 1, 2, 2), (7, 3, 4, 4), (20, 0, 2, 2), (4, 9, 2, 2)],
)
def test_crop_is_zero_outside_the_image_and_outside_the_rows_held(buffer, top, left, height, width):
    canvas = np.zeros((60, 60), dtype=np.int32)
    canvas[23:28, 20:24] = numbered(3, 8)
    expected = canvas[20 + top : 20 + top + height, 20 + left : 20 + left + width]
    np.testing.assert_array_equal(buffer.crop(top, left, height, width), expected)


def test_leading_dimensions_are_kept():
    held = RowBuffer((2, 3), np.float32)
    held.append(np.ones((2, 4, 3), dtype=np.float32))
    held.drop_above(1)
    assert held.rows(2, 4).shape == (2, 2, 3)
    assert held.crop(-1, -1, 4, 5).shape == (2, 4, 5)


def test_the_first_row_to_be_added_may_lie_anywhere():
    held = RowBuffer((4,), np.int32, top=7)
    held.append(numbered(7, 9))
    assert (held.top, held.bottom) == (7, 9)
    np.testing.assert_array_equal(held.rows(8, 9), numbered(8, 9))


def test_memory_touched_is_little_more_than_the_rows_held():
    held = RowBuffer((1,), np.int32)
    held._memory[...] = -1
    for top in range(0, 4000, 64):
        held.extend_to(top + 64)
        held.drop_above(top + 64 - 600)
    assert np.count_nonzero(held._memory != -1) <= 600 + 600 // 8 + 2 * 64


@pytest.mark.parametrize("n_reserved", [0, 60, 1024])
@pytest.mark.parametrize("seed", range(5))
def test_any_order_of_steps_holds_what_was_added(monkeypatch, seed, n_reserved):
    monkeypatch.setattr(row_buffer, "_RESERVED_ROWS", n_reserved)
    rng = np.random.default_rng(seed)
    held, rows, top = RowBuffer((2, 3), np.int32), np.zeros((2, 0, 3), np.int32), 0
    for step in range(200):
        n_rows = int(rng.integers(0, 40))
        if step % 3 == 0:
            new = rng.integers(0, 1000, (2, n_rows, 3), dtype=np.int32)
            rows = np.concatenate([rows, new], axis=1)
            held.append(new)
            new[...] = -1  # the buffer has its own copy
        elif step % 3 == 1:
            held.extend_to(held.bottom + n_rows // 4)
            rows = np.pad(rows, ((0, 0), (0, n_rows // 4), (0, 0)))
        else:
            top = min(top + int(rng.integers(0, 60)), rows.shape[1])
            held.drop_above(top)
        assert (held.top, held.bottom) == (top, rows.shape[1])
        np.testing.assert_array_equal(held.rows(top, held.bottom), rows[:, top:])
